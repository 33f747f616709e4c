/**
 * One protocol for every row of the benchmark: the answers of all are checked
 * first, which warms them up as well; then they take turns, round after round.
 *
 * @module
 */

import { markdownTable } from "../report/markdown.ts";
import { median } from "../report/measure.ts";
import type { Answer } from "./peer.ts";

/** How to measure. */
export interface Options {
  /** Where the peers are installed. */
  folder?: string;
  workers: number;
  /** How many rounds count. */
  runs: number;
  /** How many of the files are made, in percent: all, for figures. */
  percent: number;
  /** Only rows that have this in their names are measured. */
  rows?: string;
  /** Another mod.ts, to be measured as ours; this tree's is then a peer. */
  mod?: string;
  /** Told of what is going on. */
  say(text: string): void;
}

/** Who is measured, or would be. */
export interface Contestant {
  name: string;
  /** What it says that it is. */
  version: string;
  /** Why it cannot be measured, and how to change that. */
  missing?: string;
}

/** What came of one subject. */
export interface Section {
  title: string;
  contestants: Contestant[];
  /** What was left out or is not as it should be, and why. */
  notes: string[];
  results: Result[];
}

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

/**
 * After so long, in ms, a row that has had the least rounds has no more of them.
 */
const LONG = 180_000, LEAST = 3;

/** Whether a row is to be measured. */
export function isWanted(what: string, { rows = "" }: Options): boolean {
  return what.includes(rows);
}

/** What is measured, and of whom. */
export interface Row {
  what: string;
  entries: Entry[];
  /** What is wrong with what came out of one; nothing if it is right. */
  check(
    value: unknown,
    name: string,
  ): string | undefined | Promise<string | undefined>;
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

/**
 * Measures a row.
 *
 * @param row What is measured, and of whom
 * @param options How many rounds count, and who is told of what is going on
 * @returns The times of those who have the method
 */
export async function measure(
  { what, entries, check }: Row,
  { runs, say }: Options,
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
    const wrong = error ?? await check(value, measured.name);
    if (wrong !== undefined) fail(measured, wrong);
  }
  const begun = performance.now();
  for (let round = 0; round < runs; round++) {
    if (round >= LEAST && performance.now() - begun > LONG) break;
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
function brief({ unit = "ms", measured }: Result): string {
  const parts = measured.map((one, i) => {
    if (one.error !== undefined) return `${one.name} failed`;
    const of = i === 0
      ? ""
      : ` (ours ÷ it ${ratio(measured[0], one).toFixed(2)})`;
    return `${one.name} ${shown(median(one.times))} ${unit}${of}`;
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
  return markdownTable([head, ...rows], [0, 1]);
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
