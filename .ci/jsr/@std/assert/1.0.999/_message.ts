/** The end of a message: the caller's own words, if there are any. */
export function suffix(msg: string | undefined): string {
  return msg ? `: ${msg}` : ".";
}

/** A value as text, sorted and complete, so that two can be compared. */
export function format(value: unknown): string {
  return Deno.inspect(value, {
    depth: Infinity,
    sorted: true,
    trailingComma: true,
    compact: false,
    iterableLimit: Infinity,
    getters: true,
    strAbbreviateSize: Infinity,
  });
}

/** Where two values differ, by lines: `-` is actual, `+` is expected. */
export function difference(actual: unknown, expected: unknown): string {
  const lines = (value: unknown) =>
    (typeof value === "string" ? value : format(value)).split("\n");
  const [a, b] = [lines(actual), lines(expected)];
  const shorter = Math.min(a.length, b.length);
  let head = 0;
  while (head < shorter && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < shorter - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const signed = (sign: string, part: string[]) =>
    part.map((line) => `${sign}   ${line}`);
  return [
    "    [Diff] Actual / Expected",
    "",
    ...signed(" ", a.slice(0, head)),
    ...signed("-", a.slice(head, a.length - tail)),
    ...signed("+", b.slice(head, b.length - tail)),
    ...signed(" ", a.slice(a.length - tail)),
  ].join("\n");
}
