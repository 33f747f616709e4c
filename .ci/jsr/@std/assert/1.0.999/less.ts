// Stands in for jsr:@std/assert/less.
import { format } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails unless `actual < expected`. */
export function assertLess<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual < expected) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} < ${format(expected)}`,
  );
}
