/**
 * Reports on measurements in markdown: tables, charts and conclusions.
 *
 * @module
 */

import { ensureDir } from "@std/fs/ensure-dir";
import { dirname } from "@std/path/dirname";
import { cpus } from "node:os";
import type { TaskTiming } from "../../mod.ts";
import { causeOf, writeWhole } from "../../workers/shared/files.ts";
import { shownPath } from "../cli/paths.ts";
import { count } from "../cli/terminal.ts";
import { type Comparison, startOf, type WorkerPlace } from "./measure.ts";

// Numbers and words

const ms = (value: number) =>
  value < 10
    ? value.toFixed(2)
    : value < 100
    ? value.toFixed(1)
    : value.toFixed(0);

const size = (bytes: number) =>
  bytes < 1e3
    ? `${bytes.toFixed(0)} bytes`
    : bytes < 1e6
    ? `${(bytes / 1e3).toFixed(0)} kB`
    : bytes < 1e9
    ? `${(bytes / 1e6).toFixed(1)} MB`
    : `${(bytes / 1e9).toFixed(1)} GB`;

/** The batch in words, with its failures: "12 images and 7 that failed". */
function batchOf({ items, failed, unit }: Comparison): string {
  const done = count(items - failed, unit);
  return failed > 0 ? `${done} and ${failed} that failed` : done;
}

/** How many times as fast the pool was. */
export function speedUp({ sequential, parallel }: Comparison): number {
  return sequential / parallel;
}

/** The comparison as a markdown table. */
export function table(comparison: Comparison): string {
  const { sequential, parallel, workers, startUp, repeats } = comparison;
  const saved = Math.round(1000 * (1 - parallel / sequential)) / 10;
  const how = `the median of ${count(repeats, "runs")}`;
  return markdownTable([
    ["", "result", "what it is"],
    ["sequential", `${ms(sequential)} ms`, `one thread alone; ${how}`],
    ["parallel", `${ms(parallel)} ms`, `a pool of workers; ${how}`],
    ["workers", `${workers}`, "threads that work side by side"],
    [
      "speed-up",
      `${speedUp(comparison).toFixed(2)}×`,
      "sequential ÷ parallel: over 1 the pool was faster",
    ],
    [
      "improvement",
      `${saved.toFixed(1)} %`,
      "of the sequential time saved; below 0 it took longer",
    ],
    [
      "start-up of the pool",
      `${ms(startUp)} ms`,
      "until a worker began; once per program, not in the above",
    ],
  ], [0, 2]);
}

/**
 * Makes a markdown table whose columns are aligned in plain text as well.
 *
 * @param rows The head, and the rows
 * @param left The columns that are aligned to the left; the others are numbers
 * @returns The table, with a newline at its end
 */
export function markdownTable([head, ...rows]: string[][], left = [0]): string {
  const widths = head.map((_, i) =>
    Math.max(...[head, ...rows].map((row) => row[i].length))
  );
  const line = (row: string[]) =>
    `| ${
      row.map((cell, i) =>
        left.includes(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])
      ).join(" | ")
    } |\n`;
  const rule = widths.map((width, i) =>
    left.includes(i) ? "-".repeat(width) : `${"-".repeat(width - 1)}:`
  );
  return [head, rule, ...rows].map(line).join("");
}

/** The conclusion. It is computed from the numbers alone. */
export function conclusion(comparison: Comparison): string {
  const { workers, startUp, sequential, parallel } = comparison;
  const speed = speedUp(comparison);
  const who = count(workers, "workers") + onMachines(comparison);
  const batch = `${batchOf(comparison)} (${size(comparison.bytes)})`;
  const first = speed > 1.1
    ? `${who} did ${batch} ${speed.toFixed(2)} times as fast as one thread ` +
      "alone."
    : speed > 0.9
    ? `${who} did ${batch} in about the time that one thread takes alone: ` +
      "handing the work to other threads costs about what they save."
    : `${who} took ${(1 / speed).toFixed(2)} times as long for ${batch} as ` +
      "one thread alone: handing the work to other threads costs more than " +
      "they save.";
  const started = parallel + startUp;
  const start = `Starting the pool takes another ${ms(startUp)} ms, once. ` +
    `A program that does only this batch takes ${ms(started)} ms in parallel ` +
    `and ${ms(sequential)} ms sequentially: ` +
    (started < sequential
      ? "the pool pays."
      : "for this batch alone the pool does not pay.");
  return [first, ...sharesOf(comparison), start, breakEven(comparison)]
    .join("\n");
}

/** On how many machines the workers are, if not on this one. */
function onMachines({ places }: Comparison): string {
  if (!places) return "";
  const machines = new Set(places.map(({ machine }) => machine));
  return ` on ${count(machines.size, "machines")}`;
}

/** What each machine did of the work, in a sentence. */
function sharesOf({ places, timings }: Comparison): string[] {
  if (!places) return [];
  const busy = new Map<string, number>();
  let sum = 0;
  for (const { worker, start, end } of timings) {
    if (worker === 0) continue;
    const { machine } = places[worker - 1];
    busy.set(machine, (busy.get(machine) ?? 0) + end - start);
    sum += end - start;
  }
  const shares = [...busy].map(([machine, ms]) =>
    `${machine} ${Math.round(100 * ms / (sum || 1))} %`
  );
  return [`Of the work the machines did: ${shares.join(", ")}.`];
}

function breakEven(comparison: Comparison): string {
  const { breakEven: times, items, unit, bytes, workers } = comparison;
  if (times === undefined) {
    return workers === 1
      ? "One worker only moves the work to another thread, so it cannot pay."
      : "No batch that was tried was large enough for the pool to pay.";
  }
  const least = Math.max(1, Math.ceil(times * items));
  const batch = `${count(least, unit)} like these (${
    size(least / items * bytes)
  })`;
  return least === 1
    ? `On this machine ${batch} is enough for the pool to pay: it is cut into ` +
      "parts, which are shared out."
    : `On this machine the pool pays from about ${batch} on.`;
}

// Charts

/** A chart with a bar for each number. */
export function barChart(
  title: string,
  unit: string,
  bars: Record<string, number>,
): string {
  const names = Object.keys(bars).map((name) => `"${name}"`).join(", ");
  const values = Object.values(bars);
  // Written without exponents, which Mermaid does not know.
  return fence(`xychart-beta
  title "${title}"
  x-axis [${names}]
  y-axis "${unit}" 0 --> ${ms(1.1 * Math.max(...values))}
  bar [${values.map(ms).join(", ")}]`);
}

/** The most bars that can be told apart in a section of a timeline. */
const TIMELINE_MAX = 60;

/**
 * A timeline with a section per worker and a bar per item, for the first sixty
 * items of each. A label is the item's number and its name in `labels`.
 */
export function timeline(
  timings: TaskTiming[],
  labels: string[],
  places?: WorkerPlace[],
): string {
  const sections = Map.groupBy(timings, ({ worker }) => worker);
  const [alone, many] = [true, false].map((alone) =>
    timings.filter(({ worker }) => (worker === 0) === alone)
  );
  const last = (run: TaskTiming[]) =>
    run.reduce((most, { end }) => Math.max(most, end), 0);
  const longest = Math.max(
    ...[alone, many].map((run) => last(run) - startOf(run)),
  );
  const [unit, perMs] = longest < 1000 ? ["µs", 1000] : ["ms", 1];
  const lines = [...sections].sort(([a], [b]) => a - b).map(([worker, own]) => {
    // Times count from the start of each run, so that both can be compared.
    const zero = startOf(worker === 0 ? alone : many);
    const since = (time: number) => Math.round(perMs * (time - zero));
    const bars = own.slice(0, TIMELINE_MAX).map(({ index, start, end }) => {
      const to = Math.max(since(end), since(start) + 1);
      return `  ${label(index, labels)} : ${since(start)}, ${to}`;
    });
    const name = worker === 0 ? "sequential" : nameOf(worker, places);
    return [`  section ${name}`, ...bars].join("\n");
  });
  return fence(`gantt
  title Who worked when, in ${unit} from the start of each run
  dateFormat x
  axisFormat %Q
${lines.join("\n")}`);
}

/** What a worker is called, with its machine if that is another one. */
function nameOf(worker: number, places?: WorkerPlace[]): string {
  if (!places) return `worker ${worker}`;
  const place = places[worker - 1];
  return `${safe(place.machine)} worker ${place.worker}`;
}

/**
 * A label that Mermaid accepts. A colon, a semicolon, # or %% would end it. Without
 * the number, "2026-01-01.log" would be a date and "gantt.png" a keyword.
 */
function label(index: number, labels: string[]): string {
  const name = safe(labels[index] ?? "");
  return `${index + 1} ${[...name].slice(0, 30).join("")}`.trimEnd();
}

const safe = (text: string) => text.replace(/[^\p{L}\p{M}\p{N}._ -]/gu, "_");

function fence(mermaid: string): string {
  return `\`\`\`mermaid\n${mermaid}\n\`\`\`\n`;
}

// The file

/** The machine, the versions and the date, as a markdown list. */
export function environment(): string {
  const processors = cpus();
  return [
    `- CPU: ${processors[0]?.model.trim() || "unknown"}`,
    `- cores: ${navigator.hardwareConcurrency}`,
    `- system: ${Deno.build.os} ${Deno.build.arch}`,
    `- Deno ${Deno.version.deno}, V8 ${Deno.version.v8}`,
    `- date: ${new Date().toISOString()}`,
  ].join("\n") + "\n";
}

const SHARED =
  "A bar is a job: it did several small files, one, or a part of a large one.\n\n";

/** A command as a block of markdown. */
export function commandBlock(command: string): string {
  return `Command:\n\n    ${command.replaceAll("\n", "\n    ")}\n`;
}

/**
 * A report on one comparison, as markdown. `labels` are the names of the items; it
 * is empty if a job does several items or a part of one.
 */
export function render(
  title: string,
  command: string,
  comparison: Comparison,
  labels: string[],
): string {
  const { items, bytes, repeats, timings } = comparison;
  const batch = batchOf(comparison);
  const { sequential, parallel, workers } = comparison;
  const bars = { sequential, [`${workers} in parallel`]: parallel };
  const isEach = labels.length > 0 &&
    timings.every(({ index }) => index < items);
  return `# ${title}

${batch} (${size(bytes)}), sequentially and in parallel. Each was
run ${count(repeats, "times")}, in turns and after a warm-up; the medians count,
and the answers were the same to the byte.

## Environment

${environment()}
${commandBlock(command)}
## Result

${table(comparison)}
${barChart(batch, "ms", bars)}
## Who worked when

${isEach ? "" : SHARED}${
    timeline(timings, isEach ? labels : [], comparison.places)
  }
## Conclusion

${conclusion(comparison)}
`;
}

/** Writes a report; returns its path as the user would write it. */
export async function writeReport(
  path: string,
  content: string,
): Promise<string> {
  try {
    await ensureDir(dirname(path));
    writeWhole(path, new TextEncoder().encode(content));
  } catch (error) {
    throw new Error(`Cannot write ${shownPath(path)}: ${causeOf(error)}`, {
      cause: error,
    });
  }
  return shownPath(path);
}
