// Stands in for jsr:@std/assert/strict-equals.
import { difference, format, suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails unless `Object.is` says that the values are the same. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  const alike = format(actual) === format(expected);
  throw new AssertionError(
    alike
      ? `Values have the same structure but are not reference-equal${
        suffix(msg)
      }\n\n${format(actual)}\n`
      : `Values are not strictly equal${suffix(msg)}\n\n${
        difference(actual, expected)
      }\n`,
  );
}
