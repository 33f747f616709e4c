// Stands in for jsr:@std/assert/exists.
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails if the value is null or undefined. */
export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== null && actual !== undefined) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`,
  );
}
