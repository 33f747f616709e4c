// Stands in for jsr:@std/assert/false.
import { AssertionError } from "./assertion_error.ts";

/** Every value that is falsy, but NaN, which has no type. */
export type Falsy = false | 0 | 0n | "" | null | undefined;

/** Fails if the value is truthy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is Falsy {
  if (expr) throw new AssertionError(msg);
}
