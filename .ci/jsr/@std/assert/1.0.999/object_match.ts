// Stands in for jsr:@std/assert/object-match.
import { difference, suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";
import { equal } from "./equal.ts";

/** Whether a value has all that is expected; it may have more. */
class Match {
  #pairs = new Map<unknown, unknown>();

  value(actual: unknown, expected: unknown): boolean {
    if (!isObject(actual) || !isObject(expected)) {
      return equal(actual, expected);
    }
    if ([actual, expected].some(isAtomic)) return equal(actual, expected);
    if (this.#pairs.get(actual) === expected) return true;
    this.#pairs.set(actual, expected);
    if (Array.isArray(expected)) {
      return Array.isArray(actual) && actual.length >= expected.length &&
        [...expected].every((element, i) => this.value(actual[i], element));
    }
    if (expected instanceof Map) {
      return actual instanceof Map &&
        [...expected].every(([key, value]) =>
          actual.has(key) && this.value(actual.get(key), value)
        );
    }
    if (expected instanceof Set) {
      return actual instanceof Set && expected.isSubsetOf(actual);
    }
    return this.properties(actual, expected);
  }

  properties(actual: object, expected: object): boolean {
    return Reflect.ownKeys(expected).every((key) =>
      Object.hasOwn(actual, key) &&
      this.value(Reflect.get(actual, key), Reflect.get(expected, key))
    );
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** Values that have their content outside of their properties. */
function isAtomic(value: object): boolean {
  return value instanceof Date || value instanceof RegExp;
}

/** Fails unless the object has the expected properties, nested ones too. */
export function assertObjectMatch(
  // deno-lint-ignore no-explicit-any
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  if (!isObject(actual) && typeof actual !== "function") {
    const type = actual === null ? "null" : `type ${typeof actual}`;
    throw new TypeError(`Cannot assertObjectMatch ${type}`);
  }
  if (new Match().properties(actual, expected)) return;
  throw new AssertionError(
    `Values are not equal${suffix(msg)}\n\n${difference(actual, expected)}\n`,
  );
}
