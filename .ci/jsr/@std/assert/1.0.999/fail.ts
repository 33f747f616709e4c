// Stands in for jsr:@std/assert/fail.
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/** Fails. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}
