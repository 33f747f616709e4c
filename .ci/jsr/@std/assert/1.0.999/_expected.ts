import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";
import { assertIsError } from "./is_error.ts";

/** The class of an error. */
export type ErrorClass<E extends Error> =
  // deno-lint-ignore no-explicit-any
  abstract new (...args: any[]) => E;

/**
 * What assertThrows and assertRejects expect, read from the arguments after
 * the function: either a message, or a class, a part of the error's message,
 * and a message.
 */
export class Expected<E extends Error> {
  readonly msg: string | undefined;
  #class: ErrorClass<E> | undefined;
  #includes: string | undefined;

  constructor(
    classOrMsg: ErrorClass<E> | string | undefined,
    includes: string | undefined,
    msg: string | undefined,
  ) {
    if (typeof classOrMsg === "string") {
      this.msg = classOrMsg;
      return;
    }
    this.msg = msg;
    const prototype = classOrMsg?.prototype;
    if (prototype instanceof Error || prototype === Error.prototype) {
      this.#class = classOrMsg;
      this.#includes = includes;
    }
  }

  /** Fails unless the error is the expected one; without a class any is. */
  check(error: unknown, verb: "thrown" | "rejected"): void {
    if (!this.#class) return;
    if (!(error instanceof Error)) {
      throw new AssertionError(
        `A non-Error object was ${verb}${suffix(this.msg)}`,
      );
    }
    assertIsError(error, this.#class, this.#includes, this.msg);
  }
}
