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

/** Work that can be done sequentially and in a pool: a batch of items. */
export interface Workload<J extends Jobs> {
  /** The jobs that do it. */
  service: Service<J>;
  /** The permissions of the pool's workers. Default: the program's. */
  permissions?: Deno.PermissionOptions;
  /** How many items the batch has. */
  items: number;
  /** What an item is, in the plural. */
  unit: string;
  /** How large the batch is, in bytes. */
  bytes: number;
  /** Does the whole batch, `times` times. */
  run(runner: Runner<J>, times: number): Promise<void>;
  /** The result of the last run, to be compared. It is not timed. */
  answer(): Promise<string> | string;
  /** Why items failed in the last run, by their index. Absent: none can fail. */
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
  /** How many times each was run, after a warm-up. */
  repeats: number;
  /** The median time of one thread alone, in milliseconds. */
  sequential: number;
  /** The median time of the pool without its start, in milliseconds. */
  parallel: number;
  /** From `new Pool` until a worker began the first item, in milliseconds. */
  startUp: number;
  /** How many batches pay for the pool's start; absent if none was found. */
  breakEven?: number;
  /** Which worker did what when, in one run of each kind. */
  timings: TaskTiming[];
  /** Where the workers are, the first one's place first, if on other machines. */
  places?: WorkerPlace[];
}

/** Where a worker is that is not on this machine. */
export interface WorkerPlace {
  machine: string;
  /** Which of the machine's workers it is, counted from 1. */
  worker: number;
}

/** A runner whose workers are on other machines. */
export interface RemoteRunner<J extends Jobs> extends Runner<J> {
  readonly places: WorkerPlace[];
}

/** Makes one. */
export type StartRemote<J extends Jobs> = (
  onTask: (timing: TaskTiming) => void,
) => Promise<RemoteRunner<J>>;

/** The least and the most repeats, and for how long more are begun, in ms. */
const REPEATS = { least: 3, most: 25, ms: 2000 };
/** The longest search for the break-even, in ms. */
const BREAK_EVEN_MS = 5000;

/** Every item failed, so there is nothing to compare. */
export class AllFailedError extends Error {}

/**
 * Measures work sequentially and in a pool. Both are warmed up, then they take
 * turns.
 *
 * @param workload What to measure
 * @param workers How many workers the pool has
 * @param quiet Whether to show no progress
 * @param startRemote Makes the runner that is measured, if it is not a pool
 * @returns The medians, and what a report needs beside them
 * @throws {AllFailedError} If every item failed in the first run
 * @throws {Error} If the results differ
 */
export async function compare<J extends Jobs>(
  workload: Workload<J>,
  workers: number,
  quiet = false,
  startRemote?: StartRemote<J>,
): Promise<Comparison> {
  const progress = new Progress("runs", quiet);
  progress.expect(2 + 2 * REPEATS.least);
  const recorder: Recorder = { timings: [] };
  const onTask = (timing: TaskTiming) => void recorder.timings.push(timing);
  await using alone = sequential(workload.service, { onTask });
  const { permissions } = workload;
  const options = { size: workers, permissions, onTask };
  const remote = await startRemote?.(onTask);
  await using pool = remote ?? new Pool(workload.service, options);
  // Done first at Ctrl-C: nobody may write any more when files are removed.
  using _ = onInterrupt(() => pool.terminate());
  const created = performance.timeOrigin + performance.now();
  await workload.run(pool, 1);
  progress.step();
  const startUp = startOf(recorder.timings) - created;
  const { items, unit, bytes, failures } = workload;
  const failed = failures?.size ?? 0;
  if (items > 0 && failed === items) {
    await progress.stop();
    const all = count(items, unit);
    throw new AllFailedError(`Nothing to compare: ${all} failed`);
  }
  const runs = await runInTurns(workload, alone, pool, recorder, progress);
  const [one, many] = [typical(runs.sequential), typical(runs.parallel)];
  const repeats = runs.parallel.length;
  const result: Comparison = {
    ...{ items, failed, unit, bytes, startUp, repeats },
    workers: remote ? remote.places.length : workers,
    ...remote && { places: remote.places },
    sequential: one.ms,
    parallel: many.ms,
    timings: [...one.timings, ...many.timings],
  };
  result.breakEven = await findBreakEven(workload, alone, pool, result);
  await progress.stop();
  return result;
}

/** Where the items of the current run are recorded. */
interface Recorder {
  timings: TaskTiming[];
}

/** Times runs of both kinds in turns. The pool is warm already. */
async function runInTurns<J extends Jobs>(
  workload: Workload<J>,
  alone: Runner<J>,
  pool: Runner<J>,
  recorder: Recorder,
  progress: Progress,
): Promise<Record<"sequential" | "parallel", TimedRun[]>> {
  const runs = { sequential: [] as TimedRun[], parallel: [] as TimedRun[] };
  const expected = await workload.answer();
  await workload.run(alone, 1); // the warm-up of this thread
  progress.step();
  const began = performance.now();
  let repeats = 0;
  do {
    for (const kind of ["sequential", "parallel"] as const) {
      recorder.timings = [];
      const runner = kind === "sequential" ? alone : pool;
      const ms = await timed(() => workload.run(runner, 1));
      runs[kind].push({ ms, timings: recorder.timings });
      progress.step();
      if (await workload.answer() !== expected) {
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

/** When the first item began, in ms since the epoch; now if there is none. */
export function startOf(timings: TaskTiming[]): number {
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
 * From how many batches on a new pool is faster, including its start. If the pool
 * does the batch itself faster, that is a division. If the batch is too small for
 * that, more and more of it is run until the pool is faster.
 */
async function findBreakEven<J extends Jobs>(
  workload: Workload<J>,
  alone: Runner<J>,
  pool: Runner<J>,
  { items, workers, sequential, parallel, startUp }: Comparison,
): Promise<number | undefined> {
  const gain = sequential - parallel;
  const pays = startUp < gain;
  if (pays || gain > sequential / 10) {
    // Fewer than two items occupy one worker only, unless a single large item is
    // cut into parts and that has been seen to pay.
    return Math.max(startUp / gain, pays ? Math.min(1, 2 / items) : 2 / items);
  }
  if (workers === 1) return;
  const deadline = performance.now() + BREAK_EVEN_MS;
  for (
    let times = 2;
    performance.now() + times * sequential < deadline;
    times *= 2
  ) {
    const one = await timed(() => workload.run(alone, times));
    const many = await timed(() => workload.run(pool, times));
    if (one > many + startUp) return times;
  }
}

async function timed(run: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await run();
  return performance.now() - start;
}
