// Stands in for jsr:@std/assert/throws.
import { type ErrorClass, Expected } from "./_expected.ts";
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails unless the function throws; returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Fails unless the function throws such an error; returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  // deno-lint-ignore no-explicit-any
  ErrorClass: abstract new (...args: any[]) => E,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  classOrMsg?: ErrorClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  const expected = new Expected(classOrMsg, msgIncludes, msg);
  try {
    fn();
  } catch (error) {
    expected.check(error, "thrown");
    return error;
  }
  throw new AssertionError(
    `Expected function to throw${suffix(expected.msg)}`,
  );
}
