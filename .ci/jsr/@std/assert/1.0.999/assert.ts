// Stands in for jsr:@std/assert/assert.
import { AssertionError } from "./assertion_error.ts";

/** Fails unless the value is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}
