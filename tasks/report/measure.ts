/**
 * Measures what parallelism brings: the same work on one thread and in a pool.
 *
 * @module
 */

import {
  type Jobs,
  Pool,
  type Runner,
  sequential,
  type Service,
  type TaskTiming,
} from "../../mod.ts";
import { onInterrupt } from "../cli/program.ts";
import { count, Progress } from "../cli/terminal.ts";

/** Work to be compared: one batch, sequentially and in a pool. */
export interface Work<J extends Jobs> {
  /** Where its jobs are. */
  service: Service<J>;
  /** What the pool's workers may do. Default: what the program may. */
  permissions?: Deno.PermissionOptions;
  /** How many items the batch has. */
  items: number;
  /** What an item is, in the plural. */
  unit: string;
  /** How large the batch is, in bytes. */
  bytes: number;
  /** Does the whole batch; `times` over means `times` as much. */
  run(runner: Runner<J>, times: number): Promise<void>;
  /** What came out, to be compared; it is not timed. */
  answer(): Promise<string> | string;
  /** Why items failed in the last run, by their index; none if absent. */
  failures?: Map<number, string>;
}

/** What was measured. */
export interface Comparison {
  /** How many items the batch had. */
  items: number;
  /** How many of them failed. */
  failed: number;
  /** What an item is, in the plural. */
  unit: string;
  /** How large the batch was, in bytes. */
  bytes: number;
  /** How many workers the pool had. */
  workers: number;
  /** How often each was run, after a warm-up. */
  repeats: number;
  /** How long one thread alone took: the median, in milliseconds. */
  sequential: number;
  /** How long the pool took, its start not included: the median, in ms. */
  parallel: number;
  /** From `new Pool` until a worker began the first item, in milliseconds. */
  startUp: number;
  /** How many times the batch pays for the start; absent if never measured. */
  breakEven?: number;
  /** Who worked when, in a run of each kind. */
  timings: TaskTiming[];
}

/** The least and the most repeats, and how long they go on, in ms. */
const REPEATS = { least: 3, most: 25, ms: 2000 };
/** How long the search for the break-even goes on, in ms. */
const BREAK_EVEN_MS = 5000;

/** Every item failed, so that there is nothing to compare. */
export class AllFailedError extends Error {}

/**
 * Measures work sequentially and in a pool: each after a warm-up, in turns.
 *
 * @param work What to measure
 * @param workers How many workers the pool has
 * @param quiet Whether to show no progress
 * @param wantsBreakEven Whether to look for the break-even, for up to 5 s
 * @returns Medians, and what else belongs to an honest report
 * @throws {AllFailedError} If every item failed in the first run
 * @throws {Error} If the answers differ
 */
export async function compare<J extends Jobs>(
  work: Work<J>,
  workers: number,
  quiet = false,
  wantsBreakEven = true,
): Promise<Comparison> {
  const progress = new Progress("runs", quiet);
  progress.expect(2 + 2 * REPEATS.least);
  const recorder: Recorder = { timings: [] };
  const onTask = (timing: TaskTiming) => void recorder.timings.push(timing);
  await using alone = sequential(work.service, { onTask });
  const { permissions } = work;
  const options = { size: workers, permissions, onTask };
  await using pool = new Pool(work.service, options);
  // Before anything is cleared nobody must write any more.
  using _ = onInterrupt(() => pool.terminate());
  const created = performance.timeOrigin + performance.now();
  await work.run(pool, 1);
  progress.step();
  const startUp = firstStart(recorder.timings) - created;
  const { items, unit, bytes, failures } = work;
  const failed = failures?.size ?? 0;
  if (items > 0 && failed === items) {
    await progress.stop();
    const all = count(items, unit);
    throw new AllFailedError(`Nothing to compare: ${all} failed`);
  }
  const runs = await runInTurns(work, alone, pool, recorder, progress);
  const [one, many] = [typical(runs.sequential), typical(runs.parallel)];
  const repeats = runs.parallel.length;
  const result: Comparison = {
    ...{ items, failed, unit, bytes, workers, startUp, repeats },
    sequential: one.ms,
    parallel: many.ms,
    timings: [...one.timings, ...many.timings],
  };
  if (wantsBreakEven) {
    result.breakEven = await findBreakEven(work, alone, pool, result);
  }
  await progress.stop();
  return result;
}

/** Where the items of the current run are recorded. */
interface Recorder {
  timings: TaskTiming[];
}

/** The timed runs of both kinds, after the pool's warm-up. */
async function runInTurns<J extends Jobs>(
  work: Work<J>,
  alone: Runner<J>,
  pool: Runner<J>,
  recorder: Recorder,
  progress: Progress,
): Promise<Record<"sequential" | "parallel", TimedRun[]>> {
  const runs = { sequential: [] as TimedRun[], parallel: [] as TimedRun[] };
  const expected = await work.answer();
  await work.run(alone, 1); // its own warm-up
  progress.step();
  const began = performance.now();
  let repeats = 0;
  do {
    for (const kind of ["sequential", "parallel"] as const) {
      recorder.timings = [];
      const runner = kind === "sequential" ? alone : pool;
      const ms = await timed(() => work.run(runner, 1));
      runs[kind].push({ ms, timings: recorder.timings });
      progress.step();
      if (await work.answer() !== expected) {
        throw new Error("The sequential and the parallel answers differ");
      }
    }
    progress.expect(2 + 2 * Math.max(REPEATS.least, ++repeats));
  } while (
    repeats < REPEATS.least ||
    repeats < REPEATS.most && performance.now() - began < REPEATS.ms
  );
  return runs;
}

/** When the first item began, in ms of the system clock; now, if none did. */
export function firstStart(timings: TaskTiming[]): number {
  const now = performance.timeOrigin + performance.now();
  return timings.reduce((least, { start }) => Math.min(least, start), now);
}

/** How long a run took, and who worked when. */
interface TimedRun {
  ms: number;
  timings: TaskTiming[];
}

/** The run whose time is the median. */
function typical(runs: TimedRun[]): TimedRun {
  const middle = median(runs.map(({ ms }) => ms));
  return runs.find(({ ms }) => ms === middle)!;
}

/** The middle one of some values; of an even number, the upper one. */
export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/**
 * Tells how many times the batch a fresh pool begins to pay for. Where the
 * batch itself gains by the pool, that is a division; where it is too small to
 * gain, more and more of it is run until it does.
 */
async function findBreakEven<J extends Jobs>(
  work: Work<J>,
  alone: Runner<J>,
  pool: Runner<J>,
  { items, workers, sequential, parallel, startUp }: Comparison,
): Promise<number | undefined> {
  const gain = sequential - parallel;
  const pays = startUp < gain;
  if (pays || gain > sequential / 10) {
    // One item alone keeps one worker busy; only where a single big one was
    // cut into parts, and that paid, it is enough.
    return Math.max(startUp / gain, pays ? Math.min(1, 2 / items) : 2 / items);
  }
  if (workers === 1) return;
  const deadline = performance.now() + BREAK_EVEN_MS;
  for (
    let times = 2;
    performance.now() + times * sequential < deadline;
    times *= 2
  ) {
    const one = await timed(() => work.run(alone, times));
    const many = await timed(() => work.run(pool, times));
    if (one > many + startUp) return times;
  }
}

async function timed(run: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await run();
  return performance.now() - start;
}
