// Stands in for jsr:@std/assert/instance-of.
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

function typeName(value: unknown): string {
  if (value === null) return "null";
  if (typeof value !== "object") return typeof value;
  return value.constructor?.name ?? "Object";
}

/** Fails unless the value is an instance of the class. */
export function assertInstanceOf<
  // deno-lint-ignore no-explicit-any
  T extends abstract new (...args: any[]) => any,
>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  const was = typeName(actual);
  const but = was === expectedType.name
    ? ""
    : was === "function"
    ? " but was not an instanced object"
    : ` but was "${was}"`;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}"${but}${
      suffix(msg)
    }`,
  );
}
