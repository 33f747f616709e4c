// Stands in for jsr:@std/assert/unreachable.
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails: for places that no execution gets to. */
export function unreachable(msg?: string): never {
  throw new AssertionError(`Unreachable${suffix(msg)}`);
}
