// Stands in for jsr:@std/assert/almost-equals.
import { suffix } from "./_message.ts";
import { AssertionError } from "./assertion_error.ts";

/**
 * Fails unless the numbers are at most `tolerance` apart, by default a ten
 * millionth of the expected one.
 */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance: number = Number.isFinite(expected)
    ? Math.abs(expected * 1e-7)
    : 1e-7,
  msg?: string,
): void {
  const delta = Math.abs(expected - actual);
  if (Object.is(actual, expected) || delta <= tolerance) return;
  const [a, b, d, t] = [actual, expected, delta, tolerance].map((n) =>
    Number.isInteger(n) ? `"${n}"` : `"${n.toExponential()}"`
  );
  throw new AssertionError(
    `Expected actual: ${a} to be close to ${b}: delta ${d} is greater than ${t}${
      suffix(msg)
    }`,
  );
}
