// Stands in for jsr:@std/assert/array-includes.
import { format, suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";
import { equal } from "./equal.ts";

/** Something with a length and elements, but not a string. */
export type ArrayLikeArg<T> = ArrayLike<T> & object;

function elements<T>(of: ArrayLike<T>): T[] {
  return Array.from({ length: of.length }, (_, i) => of[i]);
}

/** Fails unless every expected element equals one of the array's. */
export function assertArrayIncludes<T>(
  actual: ArrayLikeArg<T>,
  expected: ArrayLikeArg<T>,
  msg?: string,
): void {
  const present = elements(actual);
  const missing = elements(expected).filter((element) =>
    !present.some((other) => equal(element, other))
  );
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${format(actual)}" to include: "${format(expected)}"${
      suffix(msg)
    }\nmissing: ${format(missing)}`,
  );
}
