/**
 * One protocol for every row of the benchmark: the answers of all are checked
 * first, which warms them up as well; then they take turns, round after round.
 *
 * @module
 */

import type { Answer } from "./peer.ts";

/** Somebody who takes part in a row; the first one is ours. */
export interface Contender {
  name: string;
  /** What ours ÷ this shall be at most. */
  aim?: number;
  /** Whether it is a lower limit, that nobody is expected to win against. */
  isFloor?: boolean;
}

/** Somebody who is to be measured. */
export interface Entry extends Contender {
  /** Does it once. `isCheck` asks for what came out as well. */
  run(isCheck: boolean): Promise<Answer>;
}

/** What is measured, and of whom. */
export interface Row {
  what: string;
  entries: Entry[];
  /** What is wrong with what came out; nothing if it is right. */
  check(value: unknown): string | undefined;
}

/** What came of an entry. */
export interface Measured extends Contender {
  /** All rounds, in their order; not complete if it failed. */
  times: number[];
  error?: string;
}

/** What came of a row; the unit is milliseconds unless it says otherwise. */
export interface Result {
  what: string;
  unit?: string;
  measured: Measured[];
}

/** The middle one of some values. */
export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/**
 * Measures a row.
 *
 * @param row What is measured, and of whom
 * @param runs How many rounds count
 * @param say Told of what is going on
 * @returns The times of those who have the method
 */
export async function measure(
  { what, entries, check }: Row,
  runs: number,
  say: (text: string) => void,
): Promise<Result> {
  say(`${what} …`);
  const taking: { run: Entry["run"]; measured: Measured }[] = [];
  const fail = (measured: Measured, error: string) => {
    measured.error = error;
    say(`FAILED: ${what}, ${measured.name}: ${error}`);
  };
  for (const { run, ...contender } of entries) {
    const { lacks, error, value } = await run(true);
    if (lacks) continue;
    const measured: Measured = { ...contender, times: [] };
    taking.push({ run, measured });
    const wrong = error ?? check(value);
    if (wrong !== undefined) fail(measured, wrong);
  }
  for (let round = 0; round < runs; round++) {
    for (const { run, measured } of taking) {
      if (measured.error !== undefined) continue;
      const { ms, error } = await run(false);
      if (ms === undefined) fail(measured, error ?? "it took no time");
      else measured.times.push(ms);
    }
  }
  const result = { what, measured: taking.map(({ measured }) => measured) };
  say(brief(result));
  return result;
}

/** What came of a row, in a line. */
function brief({ measured }: Result): string {
  const parts = measured.map((one, i) => {
    if (one.error !== undefined) return `${one.name} failed`;
    const of = i === 0
      ? ""
      : ` (ours ÷ it ${ratio(measured[0], one).toFixed(2)})`;
    return `${one.name} ${shown(median(one.times))} ms${of}`;
  });
  return `  ${parts.join(", ")}`;
}

/** Ours ÷ a peer: below 1 ours is faster. */
function ratio(own: Measured, { times }: Measured): number {
  return median(own.times) / median(times);
}

/** A table in markdown; behind each peer, ours ÷ it. */
export function table(results: Result[]): string {
  const head = ["", "", "median", "least", "most", "ours ÷ it", "aim"];
  const rows = results.flatMap(({ what, unit = "ms", measured }) =>
    measured.map((one, i) => {
      const { name, aim, times, error } = one;
      const title = i === 0 ? what : "";
      if (error !== undefined) return [title, name, "failed", "", "", "", ""];
      const values = [median(times), Math.min(...times), Math.max(...times)];
      return [
        title,
        name,
        ...values.map((value) => `${shown(value)} ${unit}`),
        i === 0 ? "" : ratio(measured[0], one).toFixed(2),
        aim === undefined ? "" : `≤ ${aim}`,
      ];
    })
  );
  return aligned(head, rows);
}

/** What was lost, and which aims were missed: in sentences, worst first. */
export function losses(results: Result[]): string {
  const lines = results.flatMap(({ what, measured: [own, ...others] }) =>
    others.filter(({ error }) => error === undefined && !own.error)
      .map((one) => ({ ...one, value: ratio(own, one) }))
      .filter(({ aim, isFloor, value }) =>
        value > (aim ?? Infinity) || value > 1 && !isFloor
      )
      .toSorted((a, b) => b.value - a.value)
      .map(({ name, aim, value }) => {
        const missed = aim !== undefined && value > aim;
        return `- ${what}: ${value.toFixed(2)} × ${name}` +
          (missed ? `, where the aim is ${aim}` : "");
      })
  );
  return lines.length === 0
    ? "Nothing was lost, no aim was missed.\n"
    : `Lost, or an aim missed:\n\n${lines.join("\n")}\n`;
}

/** All that was measured, in the order in which it was. */
export function raw(results: Result[]): string {
  const lines = results.flatMap(({ what, measured }) =>
    measured.map(({ name, times, error }) =>
      `    ${what}, ${name}: ${error ?? times.map(shown).join(" ")}`
    )
  );
  return `${lines.join("\n")}\n`;
}

function shown(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 1000 ? 1 : 0);
}

/** A table whose columns are as wide as they need to be, also as plain text. */
function aligned(head: string[], rows: string[][]): string {
  const widths = head.map((_, i) =>
    Math.max(2, ...[head, ...rows].map((row) => row[i].length))
  );
  const line = (row: string[]) => {
    const cells = row.map((cell, i) =>
      i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])
    );
    return `| ${cells.join(" | ")} |\n`;
  };
  const rule = widths.map((width, i) =>
    i < 2 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`
  );
  return [head, rule, ...rows].map(line).join("");
}
