/**
 * A worker pool for Deno in one file without dependencies.
 *
 * A job module exports ordinary functions and one line, {@linkcode serve}. The
 * program hands the resulting {@linkcode Service} to a {@linkcode Pool}, which
 * runs them on every core, or to {@linkcode sequential}, which runs them one by
 * one on the calling thread. Both are a {@linkcode Runner}, so code that takes a
 * runner can be measured both ways.
 *
 * ```ts ignore
 * // thumb.ts, the job module
 * import { serve } from "./mod.ts";
 *
 * export function pixels(path: string): number {
 *   return Deno.readFileSync(path).length;
 * }
 *
 * export const service = serve(import.meta, { pixels });
 *
 * // main.ts
 * import { Pool } from "./mod.ts";
 * import { service } from "./thumb.ts";
 *
 * await using pool = new Pool(service);
 * console.log(await pool.map("pixels", ["a.jpg", "b.jpg"]));
 * ```
 *
 * What it leaves out, and why:
 *
 * - Strategies for choosing a worker: idle workers pull the next item.
 * - Custom queues: an async iterable decides as late as it is pulled.
 * - Several jobs side by side in one worker: what only waits needs no thread.
 * - Heap limits: Deno's workers have none, and running out of heap ends the
 *   whole process. So jobs bound what they hold.
 *
 * It runs on Deno 2.9 or later only: Node has no global `Worker` without a flag,
 * and browsers have no `import.meta.main`.
 *
 * @module
 */

// How it works, class by class:
//
//   Input         what a call's items come from: one iterator
//   Call          an open call: items that wait, retries, results
//   Calls         all open calls of a runner, and their signals
//   Estimate      how long an item of a job takes, and so how many go together
//   Chunk         items that were sent to a worker together
//   Deadline      when something that is waited for is overdue
//   WorkerHandle  one worker, from `new Worker` to the end of its thread
//   Scheduler     hands out what calls have to workers, starts and replaces these
//   Pool, Sequential  the runners: calls in workers, calls on this thread
//
// What is exported and marked as internal is for a runner of another kind, the
// one in tasks/cluster/: it has the same calls, so they behave alike everywhere.
//
// What travels between the pool and a worker, all of it. A worker opens with
// `hello` and gets `start`, on the channel that every worker has. All else goes
// over the MessagePort in `start`: a port's round trip takes half as long.

type Message = Hello | Start | Ready | Run | Results | Crashed;

/** Worker to pool, once: its module is loaded and it holds its lock. */
interface Hello {
  type: "manyhands:hello";
  /** Name of the Web Lock that the worker holds as long as it lives. */
  lock: string;
}

/** Pool to worker, once. */
interface Start {
  type: "manyhands:start";
  port: MessagePort;
  /** For `setup`. */
  init: unknown;
  /** For what the worker runs, and for a chunk that was sent ahead. */
  slots: Slot[];
  /** How many pools, one in a worker of the other, it takes to get there. */
  depth: number;
}

/** Worker to pool, once: `setup` has run. */
interface Ready {
  type: "ready";
  /** What time it is in the worker, see `now`. */
  at: number;
}

/** Pool to worker: a chunk of items, to be run one after another. */
interface Run {
  type: "run";
  slot: number;
  job: string;
  /** Whether an item is the list of arguments or the only argument. */
  spread: boolean;
  items: unknown[];
  /** Whether the start and end of every item are to be reported. */
  timed: boolean;
  /** Whether a result that is not in shared memory is reported at once. */
  prompt: boolean;
}

/** Worker to pool: what has been finished of a chunk since the last message. */
interface Results {
  type: "results";
  slot: number;
  values: unknown[];
  /**
   * Which of the values are none, by position: the job failed, or did not run
   * (null), as its item was cancelled before it began.
   */
  failures?: Map<number, Failure | null>;
  /** Start and end of every item, in the worker's time, where it is timed. */
  times: number[];
  /** Milliseconds from the start of the chunk until now. */
  elapsed: number;
  /** No more will come for this chunk: its slot is free. */
  last: boolean;
}

/** Worker to pool, before it ends: an error that no job's caller could catch. */
interface Crashed {
  type: "crashed";
  error: Failure;
}

/** Memory that a worker and its pool share about one chunk. */
interface Slot {
  /** How many items have been claimed; its life is at `Chunk`. */
  claims: Int32Array<SharedArrayBuffer>;
  /** Which item began at the time below, and when, in the worker's time. */
  started: Int32Array<SharedArrayBuffer>;
  startedAt: Float64Array<SharedArrayBuffer>;
  /** For each item whether it is cancelled. */
  cancelled: Uint8Array<SharedArrayBuffer>;
  /**
   * The results of items that have ended, which so are not lost with a thread
   * that ends or hangs before it reports: `NUMBER`, or a place in `CONSTANTS`.
   */
  kinds: Uint8Array<SharedArrayBuffer>;
  numbers: Float64Array<SharedArrayBuffer>;
}

/** Its first two stand for any other result, and for a number. */
const CONSTANTS: unknown[] = [{}, {}, undefined, null, false, true];
const OTHER = 0;
const NUMBER = 1;

/**
 * What was thrown; a structured clone would lose an error's name and `code`.
 *
 * @internal
 */
export interface Failure {
  /** Of an Error. */
  texts?: { name: string; message: string; stack?: string };
  /** Whether the error is a DOMException, whose name says nothing of its class. */
  isDOMException?: boolean;
  /** The error's own other properties, or what was thrown instead of one. */
  value: unknown;
  cause?: Failure;
  /** Of an AggregateError. */
  errors?: Failure[];
}

/**
 * How long a chunk should take, in ms: long beside the cost of a message, short
 * enough to keep the workers evenly loaded.
 */
const CHUNK_MS = 4;
/** A chunk that takes longer than this, in ms, may have to share its items. */
const OVERDUE_MS = 2 * CHUNK_MS;
/**
 * How long a message may take to be sent, in ms. Large ones are slow: without
 * this limit 1,000 buffers of 64 kB took 133 ms instead of 37.
 */
const SEND_MS = 0.5;
/** Above this many items a message gains nothing more (measured). */
const CHUNK_MAX = 4096;
/** The same where results are consumed one by one; it bounds the look-ahead. */
const STREAM_CHUNK_MAX = 256;
/** In larger chunks a look at the clock would take as long as an item. */
const LOOK_EACH_MAX = 256;
/** Items are taken back only after so many times the time that sending takes. */
const RESEND_WORTH = 10;
/** In smaller chunks, of long items or new jobs, each result is sent at once. */
const PROMPT_MAX = 16;
/** Added to a claim counter, it ends the chunk: no item has such a position. */
const REVOKED = 2 ** 30;
/** How long a cancelled job may take to listen before its thread is given up. */
const GRACE_MS = 100;
/** A deadline that rings so much too late, in ms, found this thread blocked. */
const LATE_MS = 100;
/** How long a deadline's signal runs at most, in ms; then there is another. */
const SIGNAL_MS = 10_000;
/** How long `close` and `terminate` wait for threads; an endless loop has no end. */
const END_MS = 500;
/** After how long a thread that was told to end is not expected any more. */
const UNRESPONSIVE_MS = 2000;
/** The pause after a second failed start, in ms; it doubles with each, up to … */
const RESTART_MS = 10;
const RESTART_MAX_MS = 640;
/** After so many workers in a row that ended before any item, calls fail. */
const UNUSED_MAX = 30;
/** How long jobs on the calling thread keep a signal from being heard, in ms. */
const TURN_MS = 10;
/** The longest time of a timer, in ms; a longer one would fire at once. */
const TIMER_MAX = 2 ** 31 - 1;

// Types of the interface

/** The functions of a job module, by the names under which they are called. */
export type Jobs = Record<string, (...args: never[]) => unknown>;

/** What {@linkcode serve} returns: the jobs of one module, and where it is. */
export interface Service<J extends Jobs> {
  /** The module's URL, from which workers are started. */
  readonly url: string;
  /** The functions themselves, for the calling thread. */
  readonly jobs: J;
  /** What runs once per worker before its first job. */
  readonly setup?: (init: never) => unknown;
}

/** What happened in a worker when, for {@linkcode SequentialOptions.onTask}. */
export interface TaskTiming {
  /** Which worker ran the item, counted from 1; 0 is the calling thread. */
  worker: number;
  /** The job's name. */
  job: string;
  /** Which item of its call it was, counted from 0. */
  index: number;
  /** When it began, in milliseconds since the epoch. */
  start: number;
  /** When it ended, in milliseconds since the epoch. */
  end: number;
}

/** A worker that ended unasked, for {@linkcode PoolOptions.onWorkerLost}. */
export interface WorkerLoss {
  /** Which worker it was, counted from 1. */
  worker: number;
  /** The error that nobody caught in it, where there was one. */
  cause: unknown;
}

/** Options for {@linkcode sequential}. */
export interface SequentialOptions {
  /** A value for the module's `setup`, which runs once before the first job. */
  init?: unknown;
  /** Is told of every item that was run. It must not throw. */
  onTask?: (timing: TaskTiming) => void;
}

/** Options for {@linkcode Pool}. */
export interface PoolOptions extends SequentialOptions {
  /** How many workers there are at most. Default: one per core. */
  size?: number;
  /**
   * Whether to start all workers when the pool is made, one in each turn of the
   * event loop. Default: they are started as there is work for them.
   */
  eager?: boolean;
  /**
   * After how long without work a worker ends, in milliseconds, 0 being at
   * once; the next work starts one again. Default: `Infinity`, never.
   */
  idleTimeout?: number;
  /**
   * After how many items a worker is replaced by a new one, for jobs that leak.
   * Default: `Infinity`, never.
   */
  maxTasksPerWorker?: number;
  /** What the workers are called in debuggers and uncaught errors. */
  name?: string;
  /**
   * A value for the module's `setup`, which runs once in every worker. It is
   * copied when the pool is made, so it must be structured-cloneable.
   */
  init?: unknown;
  /**
   * Is told of every worker that ended unasked, instead of a line on stderr for
   * an error that met no item. It must not throw.
   */
  onWorkerLost?: (loss: WorkerLoss) => void;
  /**
   * What the workers may do, at most what the program may; their own module is
   * loaded with the program's permissions. Without Deno's flag
   * `--unstable-worker-options` (or `"unstable": ["worker-options"]` in
   * deno.json) it ends the program, saying so. Default: `"inherit"`.
   */
  permissions?: Deno.PermissionOptions;
  /**
   * How long a worker may take to load its module and set it up, in
   * milliseconds, before its start counts as failed. It includes the first type
   * check, as by `deno test`, and downloads. Default: 30,000.
   */
  startTimeout?: number;
}

/** Options for every method of a {@linkcode Runner}. */
export interface CallOptions {
  /**
   * Rejects the call with the signal's reason, at once, wherever its items are:
   * those that are not begun never run, those that run see
   * {@linkcode cancelled}, and a worker whose job then does not end within a
   * tenth of a second is replaced. It is heard as long as an item of the call
   * runs, also after the call has failed.
   */
  signal?: AbortSignal;
  /**
   * How long one item may run, in milliseconds, counted from its start in the
   * worker (of items by the hundred in a message, from when it was first seen to
   * run). Then it is rejected with a "TimeoutError", as if it had been
   * aborted, also while it blocks its thread. ({@linkcode sequential} cannot
   * interrupt a job that blocks: it rejects afterwards.) Default: `Infinity`.
   */
  timeout?: number;
  /**
   * How often an item is run again that was lost with its worker or timed out;
   * a job that threw is not. Default: 0.
   */
  retries?: number;
  /**
   * How many items go to a worker in one message, up to 4,096. Default: as many
   * as take a few milliseconds, measured while they run.
   */
  chunkSize?: number;
  /**
   * Whether to give `PromiseSettledResult`s instead of failing at the first
   * error. Default: false.
   */
  settle?: boolean;
  /**
   * Names what to move to the worker instead of copying it. Gets the item (for
   * `apply` and `starmap` the list of arguments). What was moved is lost with
   * a worker that dies, and so is not tried again.
   */
  // deno-lint-ignore no-explicit-any
  transfer?: (item: any) => Transferable[];
}

/** What a pool is doing and has done, as {@linkcode Pool.stats} tells it. */
export interface PoolStats {
  /** How many workers there are at most. */
  size: number;
  /** How many of the workers have something to do. */
  busy: number;
  /**
   * Items that wait, in the pool or with a worker. Of an input other than an
   * array only those count that were pulled.
   */
  queued: number;
  /** Items whose job gave a result. */
  done: number;
  /** Items whose job threw or timed out; what is lost with workers is neither. */
  failed: number;
  /** Workers that ended unasked. */
  lost: number;
  /**
   * Threads that were told to stop, or did not serve in time, and have not come
   * back yet. Where they are as many as `size`, and two at least, no more
   * workers are started; where no worker is left, and none of them comes back
   * within 2 s, calls are rejected with a {@linkcode WorkerStartError}.
   */
  stuck: number;
  /** The workers that there are at present. */
  workers: {
    /** The worker's number, counted from 1 in the order of their starts. */
    worker: number;
    /** Which part of its time it has been busy, from 0 to 1. */
    busy: number;
  }[];
}

/** What a job gives: its return value, without the promise around it. */
export type Result<J extends Jobs, K extends keyof J> = Awaited<
  ReturnType<J[K]>
>;

/** A result, or with `settle: true` a `PromiseSettledResult` of it. */
export type Outcome<R, O> = "settle" extends keyof O
  ? O["settle"] extends true ? PromiseSettledResult<R>
  : O["settle"] extends false | undefined ? R
  : R | PromiseSettledResult<R>
  : R;

/** The only argument that a job needs; `never` where it needs more. */
export type Only<F extends (...args: never[]) => unknown> = F extends
  (argument: infer A) => unknown
  ? Parameters<F> extends [] ? undefined : Parameters<F>[0] & A
  : never;

/** Items for a call, from any kind of iterable. */
export type Items<T> = Iterable<T> | AsyncIterable<T>;

/** Beside the options of a call, has the argument of `transfer` need no type. */
export type Untyped = Pick<CallOptions, "transfer">;

/** No options. */
export type None = Record<never, never>;

/** A call as a {@linkcode Runner} gets it. */
export interface CallRequest {
  /** The job's name. */
  job: string;
  /** What to run it on. */
  items: Items<unknown>;
  /** Whether there is one item, whose result is wanted itself, not in a list. */
  single?: boolean;
  /** Whether an item is the list of arguments, not the only argument. */
  spread?: boolean;
  /** Whether the results are wanted as they come, not in order. */
  unordered?: boolean;
  /** See {@linkcode CallOptions}. */
  options?: CallOptions;
}

/**
 * Runs the jobs of a service: the calls that a {@linkcode Pool} and
 * {@linkcode sequential} have in common.
 *
 * A call with an unknown job or a bad option is refused at once: a promise is
 * rejected, `imap` and `imapUnordered` throw.
 *
 * @typeParam J The jobs
 */
export abstract class Runner<J extends Jobs> implements AsyncDisposable {
  /**
   * Runs a job once.
   *
   * @param job The job's name
   * @param args Its arguments, as a list
   * @param options See {@linkcode CallOptions}
   * @returns The job's result
   * @throws {JobError} If the job throws
   * @throws {WorkerLostError} If its worker ends under it
   * @throws {WorkerStartError} If no worker can be started
   * @throws {DOMException} If it runs too long ("TimeoutError"), or the runner
   * is terminated ("AbortError") or was closed before ("InvalidStateError");
   * what an aborted signal has as its reason is thrown as it is
   * @throws {RangeError} If an option is out of range
   * @throws {TypeError} If `args` is no array, there is no such job or option, or
   * an option has a wrong type (with a bare URL only the workers know the jobs: a
   * `JobError`)
   *
   * @example No longer than a second, nor than somebody wants
   * ```ts
   * import { sequential, serve } from "./mod.ts";
   *
   * const runner = sequential(serve(import.meta, { parse: JSON.parse }));
   * const { signal } = new AbortController();
   * await runner.apply("parse", ["[1]"], { timeout: 1000, signal });
   * ```
   */
  apply<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    args: Parameters<J[K]>,
    options?: O & Untyped,
  ): Promise<Outcome<Result<J, K>, O>> {
    const items = [args];
    const request = { job, items, single: true, spread: true, options };
    return this.calls.gather(request);
  }

  /**
   * Runs a job on every item, its only argument, and gathers the results in
   * order.
   *
   * At the first error the call fails and nothing more of it is begun, unless
   * it is to `settle`. It throws what `apply` throws, and what its input throws.
   *
   * @param job The job's name
   * @param items The arguments, one for each run; pulled as they are needed
   * @param options See {@linkcode CallOptions}
   * @returns One result for each item
   *
   * @example All results, also where some items fail
   * ```ts
   * import { sequential, serve } from "./mod.ts";
   *
   * const runner = sequential(serve(import.meta, { parse: JSON.parse }));
   * const outcomes = await runner.map("parse", ["1", "{"], { settle: true });
   * console.log(outcomes.map((outcome) => outcome.status));
   * ```
   */
  map<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O & Untyped,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    return this.calls.gather({ job, items, options });
  }

  /**
   * Like `map`, for jobs of several arguments.
   *
   * @param job The job's name
   * @param items The lists of arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns One result for each list
   */
  starmap<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    items: Items<Parameters<J[K]>>,
    options?: O & Untyped,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    return this.calls.gather({ job, items, spread: true, options });
  }

  /**
   * Runs a job on items pulled as they are needed and yields the results in
   * order.
   *
   * It begins with the first `next()`. A pool pulls no more than two chunks for
   * each worker beyond what has been read, so an endless input takes constant
   * memory; only `close` lifts that bound. Leaving the loop, also before its
   * beginning, closes the input, and nothing more of it is begun. An error comes
   * at its item's place, an abort at once. It throws what `map` throws.
   *
   * @param job The job's name
   * @param items The arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns The results, one for each item
   */
  imap<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O & Untyped,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.calls.stream({ job, items, options });
  }

  /**
   * Like `imap`, but yields each result as soon as it is there.
   *
   * @param job The job's name
   * @param items The arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns The results, one for each item, in no particular order
   */
  imapUnordered<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O & Untyped,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.calls.stream({ job, items, unordered: true, options });
  }

  /**
   * Takes no more calls, lets the outstanding ones finish, and ends.
   *
   * What has not been read of an `imap` is computed now and kept, so this may be
   * awaited inside a `for await`. It never fails, also if called twice.
   *
   * @returns When all is done and nothing is left
   */
  abstract close(): Promise<void>;

  /**
   * Rejects what is outstanding with an "AbortError", and ends. Such a rejection
   * is never an uncaught error, so that the error for which an `await using`
   * block is left is the one that is seen.
   *
   * A thread in an endless loop cannot be stopped by anything but the end of
   * the process (`Deno.exit`); it is left behind after half a second.
   *
   * @returns When nothing is left
   */
  abstract terminate(): Promise<void>;

  /**
   * Terminates the runner at the end of an `await using` block.
   *
   * @returns When nothing is left
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.terminate();
  }

  /** Those that it has to run. */
  protected abstract readonly calls: Calls;
}

// Errors

/**
 * A job threw, or its argument or result could not be cloned. `cause` is what was
 * thrown, with the name, message and stack that it had in the worker.
 *
 * @example Telling what went wrong where
 * ```ts
 * import { JobError, sequential, serve } from "./mod.ts";
 *
 * const service = serve(import.meta, { parse: (s: string) => JSON.parse(s) });
 * try {
 *   await sequential(service).map("parse", ["1", "{"]);
 * } catch (error) {
 *   if (!(error instanceof JobError)) throw error;
 *   console.log(error.job, error.index, (error.cause as Error).name);
 * }
 * ```
 */
export class JobError extends Error {
  /** The class's name, which survives minifying. */
  override readonly name = "JobError";
  /** The job's name. */
  readonly job: string;
  /** Which item of its call it was, counted from 0. */
  readonly index: number;

  /**
   * Made by the runner that ran the job.
   *
   * @param job The job's name
   * @param index Which item of its call it was, counted from 0
   * @param cause What the job threw
   */
  constructor(job: string, index: number, cause: unknown) {
    const what = messageOf(cause);
    super(`Job '${job}' failed on item ${index}: ${what}`, { cause });
    this.job = job;
    this.index = index;
  }
}

/**
 * A worker ended while it ran an item: the job closed or exited it, or
 * something in it threw where nobody could catch it (then `cause` says what).
 */
export class WorkerLostError extends Error {
  /** The class's name, which survives minifying. */
  override readonly name = "WorkerLostError";
  /** The job's name. */
  readonly job: string;
  /** Which item of its call it was, counted from 0. */
  readonly index: number;

  /**
   * Made by the pool that lost the worker.
   *
   * @param job The job's name
   * @param index Which item of its call it was, counted from 0
   * @param cause The uncaught error, where there was one
   */
  constructor(job: string, index: number, cause?: unknown) {
    const why = cause === undefined ? "" : `: ${messageOf(cause)}`;
    super(`The worker of job '${job}' ended on item ${index}${why}`, { cause });
    this.job = job;
    this.index = index;
  }
}

/** No worker could be started from a module; `cause` says why where known. */
export class WorkerStartError extends Error {
  /** The class's name, which survives minifying. */
  override readonly name = "WorkerStartError";

  /**
   * Made by the pool that could not start the worker.
   *
   * @param url The module's URL
   * @param cause Why it did not start
   */
  constructor(url: string, cause: unknown) {
    const why = messageOf(cause);
    super(`Cannot start a worker from ${url}: ${why}`, { cause });
  }
}

/** What is said of a getter or a proxy that throws when it is looked at. */
const UNREADABLE = "what was thrown is unreadable";

/** Deeper causes are left out: a chain of them may be endless. */
const CAUSES_MAX = 16;

/**
 * Puts what was thrown in a form that any port can carry. Each error is there
 * once, as causes and errors may go in circles, and these branch.
 *
 * @internal
 */
export function describe(
  thrown: unknown,
  depth = 0,
  known: Map<unknown, Failure> = new Map(),
): Failure {
  try {
    const same = known.get(thrown);
    if (same) return same;
    if (!isError(thrown)) return { value: cloneable(thrown) };
    const { name, message, stack, cause, errors, ...own } =
      thrown as AggregateError;
    const failure: Failure = {
      texts: {
        name: textOf(name),
        message: textOf(message),
        stack: stack === undefined ? undefined : textOf(stack),
      },
      isDOMException: thrown instanceof DOMException,
      value: undefined,
    };
    known.set(thrown, failure);
    const entries = Object.entries(own);
    failure.value = new Map(entries.map(([k, value]) => [k, cloneable(value)]));
    if (depth === CAUSES_MAX) return failure;
    const deeper = (error: unknown) => describe(error, depth + 1, known);
    if (cause !== undefined) failure.cause = deeper(cause);
    if (Array.isArray(errors)) failure.errors = errors.map(deeper);
    return failure;
  } catch {
    return { value: UNREADABLE };
  }
}

/** Whether it is an error, also one of another realm, as `node:vm` has them. */
function isError(thrown: unknown): thrown is Error {
  return thrown instanceof Error || Error.isError(thrown);
}

/** Those that a pool in a job has its callers see. */
const OWN_ERRORS = { JobError, WorkerLostError, WorkerStartError };

/** The platform's own error class of a name, or this module's, if there is one. */
function errorClass(name: string): { prototype: Error } {
  const namespaces = [globalThis, Deno.errors, WebAssembly, OWN_ERRORS];
  for (const namespace of namespaces) {
    const known: unknown = Reflect.get(namespace, name);
    // An error that is only named so is no DOMException, which has other insides.
    if (typeof known !== "function" || known === DOMException) continue;
    if (known.prototype instanceof Error) return known as typeof Error;
  }
  return Error;
}

/**
 * Makes of that an error of the same class, where the platform has it.
 *
 * @internal
 */
export function revive(
  failure: Failure,
  known: Map<Failure, Error> = new Map(),
): unknown {
  const { texts, isDOMException, value, cause, errors } = failure;
  if (!texts) return value;
  const same = known.get(failure);
  if (same) return same;
  const { name, message, stack } = texts;
  const error = isDOMException
    ? new DOMException(message, name)
    : Object.setPrototypeOf(new Error(message), errorClass(name).prototype);
  const define = (key: string, value: unknown, enumerable = false) => {
    const own = { value, enumerable, configurable: true, writable: true };
    Object.defineProperty(error, key, own);
  };
  known.set(failure, error);
  define("name", name);
  define("stack", stack);
  if (cause) define("cause", revive(cause, known));
  if (errors) define("errors", errors.map((each) => revive(each, known)));
  for (const [key, own] of value as Map<string, unknown>) {
    define(key, own, true);
  }
  return error;
}

function cloneable(value: unknown): unknown {
  try {
    return structuredClone(value);
  } catch {
    return textOf(value);
  }
}

function messageOf(thrown: unknown): string {
  try {
    return textOf(isError(thrown) ? thrown.message : thrown);
  } catch {
    return UNREADABLE;
  }
}

/** A value as text, also where it refuses to be. */
function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return "something without a text";
  }
}

// The worker's side

const transfers = new WeakMap<WeakKey, Transferable[]>();

/**
 * Marks a job's result to be moved to the caller instead of being copied. It
 * cannot be used in the worker any more; with {@linkcode sequential} nothing
 * happens, as it is there already.
 *
 * @param value What the job returns
 * @param buffers What of it to move
 * @returns The same value
 *
 * @example A job that hands over its buffer
 * ```ts
 * import { serve, transfer } from "./mod.ts";
 *
 * export function noise(length: number): Uint8Array {
 *   const bytes = crypto.getRandomValues(new Uint8Array(length));
 *   return transfer(bytes, [bytes.buffer]);
 * }
 * export const service = serve(import.meta, { noise });
 * ```
 */
export function transfer<T extends WeakKey>(
  value: T,
  buffers: Transferable[],
): T {
  transfers.set(value, [...buffers]); // what is no list is the job's own error
  return value;
}

/** In a worker, while a job runs: tells whether its item is cancelled. */
let isItemCancelled: (() => boolean) | undefined;

/**
 * Tells a job whether nobody waits for its result any more: its call was
 * aborted, has failed or was left, or the item timed out.
 *
 * It takes tens of nanoseconds and no `await`, so long loops can ask again and
 * again. A job that ends soon after keeps its worker from being replaced; what
 * it returns or throws is dropped.
 *
 * @returns True once the item is cancelled; false outside of a job
 *
 * @example A loop that can be stopped
 * ```ts
 * import { cancelled, serve } from "./mod.ts";
 *
 * export function collatz(n: number): number {
 *   let steps = 0;
 *   for (; n !== 1 && !cancelled(); steps++) n = n % 2 ? 3 * n + 1 : n / 2;
 *   return steps;
 * }
 * export const service = serve(import.meta, { collatz });
 * ```
 */
export function cancelled(): boolean {
  const own = contexts?.getStore() ?? isItemCancelled;
  if (own) return own();
  return awaited.size > 0 &&
    awaited.values().every((isCancelled) => isCancelled());
}

/** The modules that serve in this thread, by URL. */
const served = new Set<string>();

/**
 * Offers a module's functions as jobs, once per module.
 *
 * In a worker that was started from this very module it begins to answer the
 * pool; anywhere else it only describes the module. The rest of the module runs
 * in both, with `import.meta.main` true: a program in the same file is kept from
 * running in the workers by `if (!("WorkerGlobalScope" in globalThis))`.
 *
 * @param meta The module's `import.meta`
 * @param jobs The functions by name; their arguments and results are copied
 * between threads, so they must be structured-cloneable
 * @param options `setup` runs once per worker before its first job, with the
 * pool's `init` value, and may be asynchronous; where it throws, the worker
 * counts as not started
 * @returns What {@linkcode Pool} and {@linkcode sequential} take
 * @throws {TypeError} If a job is not a function
 * @throws {Error} If the module serves already
 *
 * @example A job module
 * ```ts
 * import { serve } from "./mod.ts";
 *
 * export function square(n: number): number {
 *   return n * n;
 * }
 * export const service = serve(import.meta, { square });
 * ```
 */
export function serve<J extends Jobs, I = never>(
  meta: { url: string; main: boolean },
  jobs: J,
  options: { setup?: (init: I) => unknown } = {},
): Service<J> {
  for (const [name, job] of Object.entries(jobs)) {
    if (typeof job === "function") continue;
    throw new TypeError(
      `Cannot serve '${name}' as a job must be a function: it is ${typeof job}`,
    );
  }
  if (served.has(meta.url)) {
    const why = "a module serves all of its jobs at once";
    throw new Error(`Cannot serve ${meta.url} twice: ${why}`);
  }
  served.add(meta.url);
  const { setup } = options as Service<J>;
  const service = { url: meta.url, jobs, setup };
  if (meta.main && isWorker()) answer(service);
  return service;
}

const isWorker = () => "WorkerGlobalScope" in globalThis;

/** How many pools, one in a worker of the other, it takes to get here. */
let depth = 0;

/**
 * Refuses a pool of the very module that this worker was started from: its
 * workers would make pools, and so on. A job may make one, but its workers none;
 * a program that goes on while a job runs looks like a job.
 */
function refuseRecursion(url: string): void {
  if (!isWorker() || location.href !== url) return;
  if (isItemCancelled && depth < 2) return;
  throw new Error(
    `Cannot make a pool in a worker from the module that it is loading, ${url}: ` +
      "move the jobs to a module of their own, or put the program into " +
      '`if (!("WorkerGlobalScope" in globalThis)) { … }`',
  );
}

/** Of these the standard library has no types here. */
interface WorkerScope extends EventTarget {
  postMessage(message: Message): void;
  close(): void;
}
interface LockManager {
  request<T>(
    name: string,
    options: { signal?: AbortSignal },
    granted: () => T,
  ): Promise<Awaited<T>>;
}
/** Not looked up before they are needed: Deno takes 3 ms to load them. */
const locks = () => (navigator as unknown as { locks: LockManager }).locks;

/** Begins to answer the pool that started this worker. */
function answer(service: Service<Jobs>): void {
  const scope = globalThis as unknown as WorkerScope;
  const lock = `manyhands ${crypto.randomUUID()}`;
  scope.addEventListener("message", (event) => {
    const { data } = event as MessageEvent<Start | undefined>;
    if (data?.type === "manyhands:start") begin(scope, service, data);
  });
  // The lock comes first: so the pool, which asks for it after the hello, can only
  // get it from a worker that has ended. The worker speaks first, as what is sent
  // to one whose module still waits at its top level is lost.
  locks().request(lock, {}, () => {
    scope.postMessage({ type: "manyhands:hello", lock });
    return new Promise(() => {});
  });
}

async function begin(
  scope: WorkerScope,
  { jobs, setup }: Service<Jobs>,
  start: Start,
): Promise<void> {
  const { port, init, slots } = start;
  depth = start.depth;
  // What nobody catches ends the worker. Told from here, as the pool's own error
  // event has no stack, and would be printed as well.
  const crashed = (event: Event) => {
    if (event.defaultPrevented) return; // the module has a handler of its own
    event.preventDefault();
    const { error, reason } = event as ErrorEvent & PromiseRejectionEvent;
    const thrown = event.type === "error" ? error : reason;
    post(port, { type: "crashed", error: describe(thrown) });
    scope.close();
  };
  scope.addEventListener("error", crashed);
  scope.addEventListener("unhandledrejection", crashed);
  const runs: Run[] = [];
  let isRunning = false;
  port.onmessage = async ({ data }: MessageEvent<Run>) => {
    runs.push(data);
    if (isRunning) return;
    isRunning = true;
    for (let run; (run = runs.shift());) {
      await runChunk(jobs, port, slots[run.slot], run);
    }
    isRunning = false;
  };
  await setup?.(init as never); // where it fails, that is an uncaught error
  post(port, { type: "ready", at: now() });
}

function post(
  port: MessagePort,
  message: Message,
  moved: Transferable[] = [],
): void {
  // With a list, even an empty one, Deno first loads its streams: 7 ms.
  if (moved.length > 0) port.postMessage(message, moved);
  else port.postMessage(message);
}

/** Runs what it can claim of a chunk and reports every few milliseconds. */
async function runChunk(
  jobs: Jobs,
  port: MessagePort,
  { claims, started, startedAt, cancelled, kinds, numbers }: Slot,
  { slot, job, spread, items, timed, prompt }: Run,
): Promise<void> {
  const call = (Object.hasOwn(jobs, job) ? jobs[job] : () => {
    throw unknownJob(jobs, job);
  }) as (...args: unknown[]) => unknown;
  let clockEvery = items.length > LOOK_EACH_MAX ? 16 : 1;
  const began = performance.now();
  let reported = began;
  let values: unknown[] = [];
  let failures: Results["failures"];
  let times: number[] = [];
  let isUnshared = false;
  let i = 0;
  const isCancelled = () => Atomics.load(cancelled, i) === 1;
  // Before the item is claimed: it never seems to have begun before it did.
  const startsAt = (item: number, at: number) => {
    startedAt[0] = performance.timeOrigin + at;
    started[0] = item;
  };
  const flush = (at: number, last: boolean) => {
    const elapsed = at - began;
    const type = "results";
    report(port, { type, slot, values, failures, times, elapsed, last });
    [values, failures, times] = [[], undefined, []];
    isUnshared = false;
    reported = at;
  };
  startsAt(0, began);
  for (;;) {
    const start = timed ? now() : 0;
    // As the pool revokes by an addition to the same counter, an item is either
    // run here or returned there, never both.
    i = Atomics.add(claims, 0, 1);
    if (i >= items.length) break;
    let value: unknown;
    let kind = OTHER;
    let isAwaited = false;
    if (isCancelled()) (failures ??= new Map()).set(values.length, null);
    else {
      isItemCancelled = isCancelled;
      try {
        const args = items[i];
        value = spread ? call(...args as unknown[]) : call(args);
        if (isThenable(value)) value = await value;
        kind = kindOf(value);
        if (kind === NUMBER) numbers[i] = value as number;
      } catch (thrown) {
        value = undefined;
        (failures ??= new Map()).set(values.length, describe(thrown));
      }
      isItemCancelled = undefined;
      isUnshared ||= kind === OTHER;
      isAwaited = isCancelled(); // it was told to stop, and the pool waits
    }
    kinds[i] = kind;
    values.push(value);
    if (timed) times.push(start, now());
    const isPrompt = items.length <= PROMPT_MAX || prompt && isUnshared ||
      isAwaited;
    if (i + 1 === items.length || i % clockEvery !== 0 && !isPrompt) continue;
    const at = performance.now();
    startsAt(i + 1, at);
    if (!isPrompt && at - reported < CHUNK_MS) continue;
    clockEvery = 1; // they are not so short after all
    flush(at, false);
  }
  flush(performance.now(), true);
}

/** Whether a result fits into shared memory, and as what. */
function kindOf(value: unknown): number {
  if (typeof value === "number") return NUMBER;
  return Math.max(OTHER, CONSTANTS.indexOf(value));
}

function unknownJob(jobs: Jobs, job: string): TypeError {
  const has = Object.keys(jobs).join(", ");
  return new TypeError(`Cannot run '${job}' as the service has only: ${has}`);
}

/** Sends results; where one cannot be cloned, only that one is a failure. */
function report(port: MessagePort, done: Results): void {
  const { values, failures, times, last } = done;
  const moved: Transferable[] = [];
  for (const value of values) {
    if (isObject(value)) moved.push(...transfers.get(value) ?? []);
  }
  // What is to be moved is gone after a failure: there is no second try.
  if (values.length < 2 || moved.length === 0) {
    try {
      return post(port, done, moved);
    } catch (thrown) {
      if (values.length < 2) {
        const failures = new Map([[0, describe(thrown)]]);
        return post(port, { ...done, values: [undefined], failures });
      }
    }
  }
  values.forEach((value, i) => {
    const failure = failures?.get(i);
    report(port, {
      ...done,
      values: [value],
      failures: failure === undefined ? failure : new Map([[0, failure]]),
      times: times.slice(2 * i, 2 * i + 2),
      last: last && i === values.length - 1,
    });
  });
}

// The calls of a runner

/**
 * What a call's items come from: one iterator, synchronous or not.
 *
 * It is used as `for … of` would use it: closed where it is left early, but not
 * where it has ended or failed by itself.
 */
class Input {
  readonly isAsync: boolean;
  /** Nothing more will come. An array's end is known without asking. */
  isDone = false;
  /** What it threw. */
  failure?: { error: unknown };
  readonly #array?: unknown[];
  readonly #iterator?: Iterator<unknown> | AsyncIterator<unknown>;
  #taken = 0;
  /** Its code is running, which cannot close it. */
  #isAsked = false;

  constructor(items: Items<unknown>) {
    this.isAsync = isAsync(items);
    if (isPlainArray(items)) {
      this.#array = items;
      this.isDone = items.length === 0;
    } else if (isAsync(items)) this.#iterator = items[Symbol.asyncIterator]();
    else this.#iterator = items[Symbol.iterator]();
  }

  /** How many items are known to come. */
  get known(): number {
    return this.isDone || !this.#array ? 0 : this.#array.length - this.#taken;
  }

  /** Takes up to `count` items of a synchronous input; fewer are its last. */
  take(count: number): unknown[] {
    let items: unknown[] = [];
    if (this.isDone || count <= 0) return items;
    let isLast = true;
    this.#isAsked = true;
    try {
      if (this.#array) {
        items = this.#array.slice(this.#taken, this.#taken + count);
        this.#taken += items.length;
        isLast = this.#taken >= this.#array.length;
      } else isLast = this.#pull(count, items);
    } catch (error) {
      this.failure = { error };
    }
    this.#isAsked = false;
    if (isLast) this.isDone = true;
    else if (this.isDone) this.#return(); // its code has closed it
    return items;
  }

  /** Tells whether there are no more. */
  #pull(count: number, items: unknown[]): boolean {
    const iterator = this.#iterator as Iterator<unknown>;
    while (items.length < count && !this.isDone) {
      const { done, value } = checkedResult(iterator.next());
      if (done) return true;
      items.push(value);
    }
    return false;
  }

  /** Asks an asynchronous input for its next item, which is no item at its end. */
  async next(): Promise<unknown[]> {
    let isLast = true;
    let items: unknown[] = [];
    try {
      const { done, value } = checkedResult(await this.#iterator!.next());
      if (!done) items = [value];
      isLast = done ?? false;
    } catch (error) {
      this.failure = { error };
    }
    if (isLast) this.isDone = true;
    return items;
  }

  /** Says that nothing more of it is wanted. */
  close(): void {
    if (this.isDone) return;
    this.isDone = true;
    if (!this.#isAsked) this.#return();
  }

  #return(): void {
    try {
      // Not awaited: an input that is stuck must not hold up its consumer.
      Promise.resolve(this.#iterator?.return?.()).catch(() => {});
    } catch {
      // The call has its own error already, or nobody is there to hear.
    }
  }
}

function isAsync(items: Items<unknown>): items is AsyncIterable<unknown> {
  return (items as AsyncIterable<unknown>)[Symbol.asyncIterator] !== undefined;
}

/** Whether it is an array that iterates and is sliced as arrays are. */
function isPlainArray(items: unknown): items is unknown[] {
  return Array.isArray(items) &&
    Object.getPrototypeOf(items) === Array.prototype &&
    items[Symbol.iterator] === Array.prototype[Symbol.iterator];
}

/** Refuses what `next` may not give, as `for … of` does. */
function checkedResult<T>(result: IteratorResult<T>): IteratorResult<T> {
  if (Object(result) === result) return result;
  throw new TypeError(`Iterator result ${textOf(result)} is not an object`);
}

/**
 * Items of a call that follow one another, on their way through a runner.
 *
 * @internal
 */
export interface Segment {
  readonly call: Call;
  /** Which item of the call the first one is. */
  readonly first: number;
  readonly items: unknown[];
  /** They were taken back from a worker, and so travel again. */
  readonly isResent?: boolean;
  /** It timed out: the answer of its worker is of no interest. */
  readonly isOver?: boolean;
}

/** Parts segments, which belong to any calls, after so many items. */
function split(segments: Segment[], count: number): [Segment[], Segment[]] {
  const head: Segment[] = [];
  const tail: Segment[] = [];
  for (const segment of segments) {
    const { first, items } = segment;
    if (count >= items.length) head.push(segment);
    else if (count <= 0) tail.push(segment);
    else {
      head.push({ ...segment, items: items.slice(0, count) });
      const rest = items.slice(count);
      tail.push({ ...segment, first: first + count, items: rest });
    }
    count -= items.length;
  }
  return [head, tail];
}

/** Each item of segments as one; an array's holes are items as well. */
function singles(segments: Segment[]): Segment[] {
  return segments.flatMap((segment) =>
    Array.from(segment.items, (item, i) => (
      { ...segment, first: segment.first + i, items: [item] }
    ))
  );
}

function countOf(segments: Segment[]): number {
  return segments.reduce((sum, { items }) => sum + items.length, 0);
}

/**
 * Where calls are run: a pool's workers, or the calling thread.
 *
 * @internal
 */
export interface Host {
  /** How many workers there are at most: none, where nothing is done ahead. */
  readonly size: number;
  /** Whether there is, or could be, a worker that has nothing to do. */
  readonly isHungry: boolean;
  /** How long the items of a job take. */
  estimate(job: string): Estimate;
  /** The call has items to hand out, or room for results. */
  onOffer(call: Call): void;
  /** The call has ended or was aborted: what of it is under way is unwanted. */
  cancel(call: Call): void;
}

/**
 * An open call: what of it waits, its retries, its results.
 *
 * @internal
 */
export abstract class Call {
  readonly job: string;
  readonly spread: boolean;
  readonly options: CallOptions;
  /** How long one of its items may run, in ms. */
  readonly timeout: number;
  /** Of its job; or of its own items, once they have been measured. */
  estimate: Estimate;
  readonly #input: Input;
  isEnded = false;
  isAborted = false;
  /** The runner is closing: nothing bounds the look-ahead any more. */
  isUnbounded = false;
  /** What came back, then what was pulled, and how many items that is. */
  #waiting: Segment[] = [];
  #waitingCount = 0;
  #underWay = 0;
  /** How many items were taken back to be sent once more. */
  #resent = 0;
  /** How often items were lost or timed out, by index. */
  #tries?: Map<number, number>;
  protected pulled = 0;
  #isPulling = false;

  constructor(
    private readonly calls: Calls,
    protected readonly host: Host,
    protected readonly request: CallRequest,
  ) {
    const { job, items, spread = false, options = NO_OPTIONS } = request;
    this.job = job;
    this.spread = spread;
    this.options = options === NO_OPTIONS ? options : copyOf(options);
    this.timeout = this.options.timeout ?? Infinity;
    this.estimate = host.estimate(job);
    this.#input = new Input(items);
  }

  /** The promises that the caller waits for at present. */
  abstract readonly promises: Promise<unknown>[];
  /** Keeps results, or errors where `bad`, from an index on; in any order. */
  protected abstract keep(first: number, values: unknown[], bad: boolean): void;
  /** Tells the caller: all results are in, or the call cannot go on. */
  protected abstract finish(failure?: { error: unknown }): void;

  /** Whether a result is of use also if a later item makes the call fail. */
  get isGradual(): boolean {
    return this.options.settle ?? false;
  }

  /** How many more items may be pulled now. */
  protected room(): number {
    return Infinity;
  }

  /** The input threw. */
  protected failInput(failure: { error: unknown }): void {
    this.end(failure);
  }

  protected readonly chunkMax: number = CHUNK_MAX;

  /** How many items make a chunk at present. */
  get chunkSize(): number {
    // What is moved is gone where its message fails, so it travels alone.
    if (this.options.transfer) return 1;
    const size = this.options.chunkSize ?? this.estimate.chunkSize;
    return Math.min(size, this.chunkMax);
  }

  /** How many items keep all workers busy: two chunks for each. */
  get capacity(): number {
    return 2 * this.host.size * this.chunkSize || 1;
  }

  /** How many items are known to wait. */
  get queued(): number {
    return this.#waitingCount + this.#input.known;
  }

  /** Whether no more will come than what waits. */
  get isExhausted(): boolean {
    return this.#input.isDone;
  }

  /** Whether some of it is with a worker. */
  get isUnderWay(): boolean {
    return this.#underWay > 0;
  }

  /** Whether it has more to hand out now, without offering again. */
  get hasMore(): boolean {
    const { isAsync, isDone } = this.#input;
    return this.#waitingCount > 0 || !isAsync && !isDone && this.room() > 0;
  }

  /** How many more can be taken back: as many may travel again as there are. */
  get #spare(): number {
    return this.pulled - this.#resent - this.#underWay;
  }

  /** Whether its next items are to wait behind no other call's, and none behind them. */
  get isAlone(): boolean {
    return this.#spare < 1 || (this.#waiting[0]?.isResent ?? false);
  }

  /** Has up to `count` items wait, as far as there are any now; tells how many. */
  prepare(count: number): number {
    if (!this.#isPulling) {
      this.#isPulling = true;
      if (this.#input.isAsync) this.#pullAsync();
      else {
        const missing = count - this.#waitingCount;
        this.#append(this.#input.take(Math.min(missing, this.room())));
        this.#onPulled();
      }
    }
    return this.#waitingCount;
  }

  async #pullAsync(): Promise<void> {
    const input = this.#input;
    while (
      !input.isDone && this.room() > 0 && this.#waitingCount < this.capacity
    ) {
      this.#append(await input.next());
      // A worker that is free takes it; else the rest of its chunk gathers.
      const count = this.#waitingCount;
      if (count === 1 || count === this.chunkSize || this.host.isHungry) {
        this.host.onOffer(this);
      }
    }
    this.#onPulled();
  }

  /** Has items wait that were pulled. */
  #append(items: unknown[]): void {
    if (this.isEnded || items.length === 0) return;
    const first = this.pulled;
    this.pulled += items.length;
    this.#waitingCount += items.length;
    const last = this.#waiting.at(-1);
    if (last && !last.isResent && last.first + last.items.length === first) {
      last.items.push(...items);
    } else this.#waiting.push({ call: this, first, items });
  }

  #onPulled(): void {
    const { failure, isDone } = this.#input;
    this.#isPulling = false;
    if (failure && !this.isEnded) this.failInput(failure);
    if (isDone && this.#isSettled) this.end();
  }

  /** Whether all is settled that was pulled. */
  get #isSettled(): boolean {
    return this.#waitingCount + this.#underWay === 0;
  }

  /** Hands out up to `count` items that follow one another. */
  take(count: number): Segment | undefined {
    this.prepare(count);
    const [segment] = this.#waiting;
    if (!segment) return;
    // Those that could not be taken back must not wait for one another.
    count = Math.max(1, Math.min(count, this.#spare));
    let taken = segment;
    if (segment.items.length <= count) this.#waiting.shift();
    else [[taken], [this.#waiting[0]]] = split([segment], count);
    this.#waitingCount -= taken.items.length;
    this.#underWay += taken.items.length;
    return taken;
  }

  /** Takes items back that nobody runs; they come before what waits. */
  takeBack(segment: Segment): void {
    const { length } = segment.items;
    this.#leave(length);
    if (this.isEnded) return;
    if (segment.isResent) this.#resent += length;
    this.#waiting.unshift(segment);
    this.#waitingCount += length;
  }

  /** Takes results of items that follow one another, or errors where `bad`. */
  settle(first: number, values: unknown[], bad = false): void {
    this.#leave(values.length);
    if (this.isEnded) return;
    this.keep(first, values, bad);
    if (this.isEnded || !this.#isSettled) return;
    // It ends in the turn in which its last item is settled: whether its input has
    // more is asked now, not when a worker is free.
    if (this.prepare(1) > 0) this.host.onOffer(this);
  }

  /**
   * Takes the error of an item that was lost or timed out; tells whether that
   * is final, or the item is tried again.
   */
  miss(segment: Segment, error: unknown): boolean {
    const { retries = 0, transfer } = this.options;
    const { first } = segment;
    const tries = this.#tries?.get(first) ?? 0;
    if (this.isEnded || tries >= retries || transfer) {
      this.settle(first, [error], true);
      return true;
    }
    (this.#tries ??= new Map()).set(first, tries + 1);
    // A copy: others may be appended, and its chunk goes on with that one.
    this.takeBack({ ...segment, items: [...segment.items] });
    this.host.onOffer(this);
    return false;
  }

  /**
   * Ends the call: all results are in, or nobody wants any more, or it fails.
   * What has not begun is never run.
   */
  end(failure?: { error: unknown }): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.#waiting = [];
    this.#waitingCount = 0;
    this.#input.close();
    this.host.cancel(this);
    this.finish(failure);
    this.calls.onEnd(this);
  }

  /** Items are under way no more. */
  #leave(count: number): void {
    this.#underWay -= count;
    if (this.isEnded && !this.isUnderWay) this.calls.onEnd(this);
  }
}

const NO_OPTIONS: CallOptions = {};

/**
 * The options of a call as they are now: its caller may use them for others. All
 * are read, also those that are inherited, as an AbortController has its signal.
 */
function copyOf(options: CallOptions): CallOptions {
  const { signal, timeout, retries, chunkSize, settle, transfer } = options;
  return { signal, timeout, retries, chunkSize, settle, transfer };
}

/** A call that gathers all results: `apply`, `map`, `starmap`. */
class GatherCall extends Call {
  readonly #results: unknown[] = [];
  readonly outcome = Promise.withResolvers<unknown>();

  override get promises(): Promise<unknown>[] {
    return [this.outcome.promise];
  }

  protected override keep(first: number, values: unknown[], bad: boolean) {
    const results = this.#results;
    const { settle } = this.options;
    if (bad && !settle) return this.end({ error: values[0] });
    // Written far beyond its end, an array turns into a slow table (measured:
    // a third of the time of a map over numbers).
    while (results.length < first) results.push(undefined);
    for (let i = 0; i < values.length; i++) {
      results[first + i] = settle ? outcome(values[i], bad) : values[i];
    }
  }

  protected override finish(failure?: { error: unknown }): void {
    const { resolve, reject } = this.outcome;
    if (failure) reject(failure.error);
    else resolve(this.request.single ? this.#results[0] : this.#results);
  }
}

/** A call whose results are consumed one by one: `imap`, `imapUnordered`. */
class StreamCall extends Call {
  /** By index; where the order does not matter, as they came. */
  readonly #unread = new Map<number, { value: unknown; bad: boolean }>();
  #arrivals = 0;
  #read = 0;
  #failure?: { error: unknown };
  /** Those who wait for the next results. */
  readonly #readers: PromiseWithResolvers<IteratorResult<unknown, void>>[] = [];
  protected override readonly chunkMax = STREAM_CHUNK_MAX;

  override get isGradual(): boolean {
    return true;
  }

  override get promises(): Promise<unknown>[] {
    return this.#readers.map(({ promise }) => promise);
  }

  protected override room(): number {
    if (this.isUnbounded) return Infinity;
    const { size } = this.host;
    // It starts slowly: no further ahead than as much again as has been read.
    const ahead = Math.min(this.capacity, this.#read + size);
    const room = size > 0 ? ahead : this.#readers.length;
    return room - (this.pulled - this.#read);
  }

  protected override keep(first: number, values: unknown[], bad: boolean) {
    values.forEach((value, i) => {
      const place = this.request.unordered ? this.#arrivals++ : first + i;
      this.#unread.set(place, { value, bad });
    });
    // It counts as read only after the other results of its message.
    queueMicrotask(() => this.#serve());
  }

  /** The error's place is after the items that came before it. */
  protected override failInput(failure: { error: unknown }): void {
    this.#failure = failure;
  }

  protected override finish(failure?: { error: unknown }): void {
    if (failure) {
      this.#failure = failure;
      this.#unread.clear();
    }
    this.#serve();
  }

  /** The results as they are read, begun by the first `next`. */
  results(begin: () => void): AsyncGenerator<unknown, void, void> {
    let isBegun = false;
    const results: AsyncGenerator<unknown, void, void> = {
      next: () => {
        const reader = Promise.withResolvers<IteratorResult<unknown, void>>();
        this.#readers.push(reader);
        if (!isBegun && !this.isEnded) begin();
        isBegun = true;
        this.#serve();
        return reader.promise;
      },
      return: async (value) => {
        this.#leave();
        return { done: true, value: await value };
      },
      throw: (error) => {
        this.#leave();
        return Promise.reject(error);
      },
      [Symbol.asyncIterator]: () => results,
      [Symbol.asyncDispose]: () => Promise.resolve(this.#leave()),
    };
    return results;
  }

  /** Ends the call, also unread: its readers get no more. */
  #leave(): void {
    this.#unread.clear();
    this.#failure = undefined;
    this.end();
  }

  /** Gives readers what there is for them, and else has more made ready. */
  #serve(): void {
    while (this.#readers.length > 0) {
      const result = this.#unread.get(this.#read);
      if (!result && !this.isEnded) {
        // Whether there is more is not left to be asked when a worker is free.
        if (!this.isUnderWay) this.prepare(1);
        return this.host.onOffer(this);
      }
      const { resolve, reject } = this.#readers.shift()!;
      if (result) {
        const { value, bad } = result;
        const { settle } = this.options;
        this.#unread.delete(this.#read++);
        if (!bad || settle) {
          resolve({ done: false, value: settle ? outcome(value, bad) : value });
        } else {
          reject(value);
          this.#leave();
        }
        // Room for a whole chunk is worth a message; less is not.
        const isAhead = this.host.size > 0 && !this.isExhausted;
        if (isAhead && this.room() >= this.chunkSize) this.host.onOffer(this);
      } else if (this.#failure) {
        reject(this.#failure.error);
        this.#failure = undefined; // it is told once
      } else resolve({ done: true, value: undefined });
    }
  }
}

function outcome(value: unknown, bad: boolean): PromiseSettledResult<unknown> {
  return bad
    ? { status: "rejected", reason: value }
    : { status: "fulfilled", value };
}

/**
 * All calls of a runner that have not ended, and the signals they listen to.
 *
 * @internal
 */
export class Calls {
  readonly #open = new Set<Call>();
  /** One listener a signal: ten thousand on one took a third of a second. */
  readonly #signals = new Map<AbortSignal, Set<Call>>();
  #state: "open" | "closing" | "closed" = "open";
  readonly #drained = Promise.withResolvers<void>();

  constructor(private readonly host: Host, private readonly jobs?: Jobs) {}

  /** A call that gathers its results. */
  // deno-lint-ignore no-explicit-any
  gather(request: CallRequest): Promise<any> {
    // Not async: of ten thousand calls at once each promise is felt (a fifth).
    try {
      this.#check(request);
      const call = new GatherCall(this, this.host, request);
      this.#submit(call);
      return call.outcome.promise;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** A call that is read one by one. */
  // deno-lint-ignore no-explicit-any
  stream(request: CallRequest): AsyncGenerator<any, void, void> {
    this.#check(request);
    const call = new StreamCall(this, this.host, request);
    return call.results(() => this.#submit(call));
  }

  /** How many items wait. */
  get queued(): number {
    return this.#open.values().reduce((sum, { queued }) => sum + queued, 0);
  }

  /** Takes no more calls; fulfils when all have ended. */
  async drain(): Promise<void> {
    if (this.#state === "open") this.#state = "closing";
    for (const call of this.#open) {
      call.isUnbounded = true;
      this.host.onOffer(call);
    }
    if (this.#open.size === 0) this.#drained.resolve();
    await this.#drained.promise;
    this.#state = "closed";
  }

  /** Fails all calls, as none of them can go on. */
  fail(error: unknown): void {
    for (const call of this.#open) call.end({ error });
  }

  /** Takes no more calls, and ends those that there are. */
  terminate(): void {
    this.#state = "closed";
    // That they are rejected is no error that anybody made.
    for (const { promises } of this.#open) {
      for (const promise of promises) promise.catch(() => {});
    }
    this.fail(new DOMException("The runner was terminated", "AbortError"));
    for (const signal of this.#signals.keys()) {
      signal.removeEventListener("abort", this.#abort);
    }
    this.#signals.clear();
  }

  /** A call has ended; or it has before, and nothing of it is under way now. */
  onEnd(call: Call): void {
    this.#open.delete(call);
    if (!call.isUnderWay) this.#unlisten(call);
    const isOpen = this.#state === "open" || this.#open.size > 0;
    if (!isOpen) this.#drained.resolve();
  }

  #check(request: CallRequest): void {
    checkCall(request, this.jobs);
    if (this.#state !== "open") throw closedError(request.job, this.#state);
  }

  #submit(call: Call): void {
    const { signal } = call.options;
    this.#open.add(call);
    if (signal) this.#listen(call, signal);
    // It may have been closed since the call was made, or by its input.
    if (this.#state !== "open") {
      call.end({ error: closedError(call.job, this.#state) });
    } else if (signal?.aborted) call.end({ error: signal.reason });
    else {
      call.prepare(1); // an asynchronous input does not wait for a free worker
      this.host.onOffer(call);
    }
  }

  #listen(call: Call, signal: AbortSignal): void {
    const calls = this.#signals.get(signal) ?? new Set();
    if (calls.size === 0) signal.addEventListener("abort", this.#abort);
    this.#signals.set(signal, calls.add(call));
  }

  #unlisten(call: Call): void {
    const { signal } = call.options;
    const calls = signal && this.#signals.get(signal);
    if (!calls?.delete(call) || calls.size > 0) return;
    this.#signals.delete(signal!);
    signal!.removeEventListener("abort", this.#abort);
  }

  readonly #abort = ({ target }: Event): void => {
    const { reason: error } = target as AbortSignal;
    for (const call of this.#signals.get(target as AbortSignal)!) {
      call.isAborted = true;
      this.#unlisten(call);
      if (call.isEnded) this.host.cancel(call); // it failed; some of it runs
      else call.end({ error });
    }
  };
}

function closedError(job: string, state: string): DOMException {
  const what = `Cannot run '${job}' as the runner is ${state}`;
  return new DOMException(what, "InvalidStateError");
}

// The pool's side

/**
 * How long an item of a job takes lately, and what follows for its chunks.
 *
 * @internal
 */
export class Estimate {
  /** Milliseconds per item, sending included. Unknown is slow. */
  perItem = Infinity;
  /** How many items take as long as a chunk should. */
  chunkSize = 1;

  /** Learns from what a worker has reported of a chunk. */
  measure({ answered, size, sending }: Chunk, elapsed: number): void {
    if (answered === 0) return;
    this.perItem = elapsed / answered + sending / size;
    // Step by step, as the first items may be the short ones.
    const fitting = Math.min(
      CHUNK_MS / this.perItem,
      SEND_MS * size / sending,
      Math.max(this.chunkSize, 4 * size),
    );
    this.chunkSize = Math.max(1, Math.min(CHUNK_MAX, Math.floor(fitting)));
  }
}

/**
 * Items of one job that were sent to a worker together. By its claim counter, in
 * shared memory, the worker and the pool agree who has an item:
 *
 * ```text
 * 0       sent; the worker has not come to it
 * 1 … n   the worker has claimed so many; the last one is being run
 * n + 1   the worker has found that there are no more
 * + 2**30 the pool has revoked, once, what was not claimed then: the worker's
 *         next claim fails, and of the items only those that were claimed count
 * ```
 */
class Chunk {
  /** What was sent, in order, less what was answered or revoked. */
  segments: Segment[];
  /** The first segment's; what matters of its options is the same for all. */
  readonly call: Call;
  /** How many items were sent, and how many of them were not revoked. */
  readonly size: number;
  length: number;
  readonly isShared: boolean;
  /** How many were answered; answers come in order. */
  answered = 0;
  /** When it became the first one of its worker's, and how long sending took. */
  since = 0;
  sending = 0;
  /** The shortest time that one of its items may run, in ms. */
  readonly timeout: number;

  constructor(
    readonly slot: number,
    private readonly memory: Slot,
    segments: Segment[],
  ) {
    this.segments = segments;
    this.call = segments[0].call;
    this.isShared = segments.length > 1;
    this.size = this.length = countOf(segments);
    this.timeout = Math.min(...segments.map(({ call }) => call.timeout));
    memory.cancelled.fill(0);
    Atomics.store(memory.claims, 0, 0);
  }

  /** All items, as they are sent. */
  get items(): unknown[] {
    const { segments } = this;
    if (segments.length === 1) return segments[0].items;
    // Unlike flatMap and flat it keeps the holes of an array, which are items.
    return ([] as unknown[]).concat(...segments.map(({ items }) => items));
  }

  /**
   * Whether results are of use also where a later item makes the pool give up
   * the worker: those of a call that this item makes fail are not.
   */
  get prompt(): boolean {
    const { signal } = this.call.options;
    return this.segments.some(({ call }) =>
      call.options.signal !== signal ||
      call.timeout < Infinity && (call.isGradual || this.isShared)
    );
  }

  /** How many items the worker has claimed, or one more at its end. */
  get claimed(): number {
    return Atomics.load(this.memory.claims, 0) % REVOKED;
  }

  /** How many items the worker has not claimed yet. */
  get unclaimed(): number {
    return Math.max(0, this.length - this.claimed);
  }

  /** The position of the item that is being run, or -1. */
  get running(): number {
    const { claimed } = this;
    return claimed > this.length ? -1 : claimed - 1;
  }

  /** When the item at a position began, in the worker's time, where it is known. */
  startOf(position: number): number | undefined {
    const { started, startedAt } = this.memory;
    return started[0] === position ? startedAt[0] : undefined;
  }

  /** What is before a position, the item there, and what is behind it. */
  #around(position: number): [Segment[], Segment, Segment[]] {
    const [before, rest] = split(this.segments, position - this.answered);
    const [[item], behind] = split(rest, 1);
    return [before, item, behind];
  }

  /** How long the item at a position may run in all, in ms. */
  timeoutAt(position: number): number {
    if (position < 0) return Infinity;
    const [, { call, isOver }] = this.#around(position);
    return isOver ? Infinity : call.timeout;
  }

  /** Whether others may have what is left of it. */
  get canBeShared(): boolean {
    return this.unclaimed > 0 && !this.call.options.transfer;
  }

  /** The call that holds the worker: one item of it runs, and more are to come. */
  get holder(): Call | undefined {
    const { running } = this;
    if (running < 0) return undefined;
    const [, { call }, [next]] = this.#around(running);
    return next?.call === call ? call : undefined;
  }

  /** Has the worker skip an item, or be told while it runs it. */
  cancel(position: number): void {
    Atomics.store(this.memory.cancelled, position, 1);
  }

  /** Cancels what is left of a call; gives the position of what runs, or -1. */
  cancelCall(call: Call): number {
    const { running } = this;
    let isRunning = false;
    let start = this.answered;
    for (const { call: other, items: { length } } of this.segments) {
      const end = start + length;
      if (other === call) {
        for (let i = start; i < end; i++) this.cancel(i);
        isRunning ||= start <= running && running < end;
      }
      start = end;
    }
    return isRunning ? running : -1;
  }

  /** The time of an item is up; tells whether that is final. */
  timeOut(position: number): boolean {
    const [before, item, behind] = this.#around(position);
    this.segments = [...before, { ...item, isOver: true }, ...behind];
    return item.call.miss(item, timeoutError(item.call, item.first));
  }

  /** Takes from the worker what it has not claimed. */
  revoke(): Segment[] {
    const { claims } = this.memory;
    const isOver = Atomics.load(claims, 0) > this.length;
    if (isOver || this.call.options.transfer) return [];
    const kept = Atomics.add(claims, 0, REVOKED);
    const [rest, back] = split(this.segments, kept - this.answered);
    this.segments = rest;
    this.length = Math.min(this.length, kept);
    return back;
  }

  /** Gives the next items that are answered. */
  answer(count: number): Segment[] {
    const [answered, rest] = split(this.segments, count);
    this.segments = rest;
    this.answered += count;
    return answered;
  }

  /** Its worker is no more: counts what shared memory has of it, and what is lost. */
  lose(cause: unknown): { done: number; lost: number } {
    const counts = { done: 0, lost: 0 };
    const { kinds, numbers } = this.memory;
    const finished = Math.min(this.claimed - 1, this.length);
    let i = this.length;
    for (const item of singles(this.segments).reverse()) {
      const { call, first, isOver } = item;
      const kind = --i < finished ? kinds[i] : OTHER;
      if (isOver) continue;
      if (kind !== OTHER) {
        const value = kind === NUMBER ? numbers[i] : CONSTANTS[kind];
        counts.done++;
        call.settle(first, [value]);
      } else {
        if (!call.isEnded) counts.lost++;
        call.miss(item, new WorkerLostError(call.job, first, cause));
      }
    }
    return counts;
  }
}

/**
 * A moment at which something that is waited for is overdue, one at a time. It
 * is believed only where this thread was not late itself, as what is waited for
 * may then be waiting to be heard; else it is armed once more.
 *
 * It rings by `AbortSignal.timeout`, as Deno takes 9 to 17 ms to load
 * `setTimeout` at its first use, half of a worker's start. Such a signal cannot
 * be cancelled: so it looks when it rings whether there is something to wait for,
 * and waits for no more than `SIGNAL_MS` at a time.
 */
class Deadline {
  #due = Infinity;
  #again = 0;
  #pass = nothing;
  #wasLate = false;
  #rings = Infinity;
  #signal?: AbortSignal;

  /**
   * Calls `pass` after so many ms, or `again` ms after this thread was late;
   * forgets what it was armed with before.
   */
  arm(ms: number, pass: () => void, again = ms): void {
    this.#again = again;
    this.#pass = pass;
    this.#wasLate = false;
    this.#due = performance.now() + ms;
    this.#wait();
  }

  disarm(): void {
    this.#due = Infinity;
    this.#pass = nothing; // it may hold what was waited for
  }

  /** Disarms it and leaves nothing behind that could ring. */
  dispose(): void {
    this.disarm();
    this.#signal?.removeEventListener("abort", this.#ring);
  }

  get isArmed(): boolean {
    return this.#due < Infinity;
  }

  #wait(): void {
    const now = performance.now();
    const rings = Math.min(this.#due, now + SIGNAL_MS);
    if (this.#rings <= rings) return; // it looks again then
    this.#signal?.removeEventListener("abort", this.#ring);
    this.#rings = rings;
    this.#signal = AbortSignal.timeout(Math.max(0, Math.ceil(rings - now)));
    this.#signal.addEventListener("abort", this.#ring);
  }

  readonly #ring = (): void => {
    const now = performance.now();
    const isLate = now - this.#rings > LATE_MS;
    this.#rings = Infinity;
    if (!this.isArmed) return;
    if (isLate && !this.#wasLate && this.#due <= now) {
      this.#wasLate = true;
      this.#due = now + this.#again;
    }
    if (now < this.#due) return this.#wait();
    const pass = this.#pass;
    this.disarm();
    pass();
  };
}

const nothing = (): void => {};

/**
 * One worker, from `new Worker` to the end of its thread.
 *
 * It is in one state, which has one deadline at most:
 *
 * | state      | from                   | deadline            | then       |
 * | ---------- | ---------------------- | ------------------- | ---------- |
 * | starting   | `new Worker`           | `startTimeout`      | ending     |
 * | idle       | ready, last chunk done | `idleTimeout`       | ending     |
 * | busy       | a chunk was sent       | an item's `timeout` | cancelling |
 * | cancelling | timeout, abort         | `GRACE_MS`          | ending     |
 * | ending     | any of them            | `UNRESPONSIVE_MS`   | stuck      |
 * | ended      | its lock is free       |                     |            |
 *
 * In any of the first four its lock, free without having been asked for, tells
 * that it has died.
 */
class WorkerHandle {
  state: "starting" | "idle" | "busy" | "cancelling" | "ending" | "ended" =
    "starting";
  /** What it was sent: the first chunk is being run, a second one waits there. */
  readonly chunks: Chunk[] = [];
  /** Why it did not start, or the uncaught error that it ended of. */
  cause: unknown;
  /** It was told to stop, or did not serve in time, and has not come back. */
  isStuck = false;
  /** It was told to end long ago. */
  isUnresponsive = false;
  /** To be added to the worker's time for the pool's, in ms. */
  clockOffset = 0;
  readonly #deadline = new Deadline();
  readonly #slots = [newSlot(), newSlot()];
  #worker?: Worker;
  #port?: MessagePort;
  /** How many items it has been given in chunks that are done. */
  #given = 0;
  /** When it was sent `start`, in milliseconds since the epoch. */
  #helloAt = 0;
  /** When it was ready, when it last became busy, how long it was before. */
  #readyAt = 0;
  #busySince = 0;
  #busyMs = 0;
  /** The item that was told to stop, or whose time runs, and since when. */
  #watched?: { chunk: Chunk; position: number; since: number };
  /** It has ended by itself; until what it sent before has arrived. */
  #death?: ReturnType<typeof setTimeout>;
  /** Fulfils when the worker holds its lock, or that is not waited for. */
  readonly #hello = Promise.withResolvers<void>();
  /** Withdraws the request for its lock; pending, it holds up the process. */
  readonly #watch = new AbortController();
  /** Fulfils when its lock is free, or the request was withdrawn. */
  #lockFree: Promise<unknown> = Promise.resolve();
  readonly #ended = Promise.withResolvers<void>();

  constructor(readonly id: number, private readonly scheduler: Scheduler) {}

  /** Whether it has started and is not ending. */
  get isServing(): boolean {
    return ["idle", "busy", "cancelling"].includes(this.state);
  }

  /** Whether it serves, or may do so soon. */
  get isLive(): boolean {
    return this.isServing || this.state === "starting";
  }

  get name(): string {
    return `${this.scheduler.options.name ?? "manyhands"} ${this.id}`;
  }

  /** How many more items it may be given. */
  get allowance(): number {
    const { maxTasksPerWorker = Infinity } = this.scheduler.options;
    const given = (sum: number, { length }: Chunk) => sum + length;
    return maxTasksPerWorker - this.chunks.reduce(given, this.#given);
  }

  /** Which part of its time it has been busy. */
  get load(): number {
    const now = performance.now();
    const since = this.chunks.length > 0 ? now - this.#busySince : 0;
    return Math.min(1, (this.#busyMs + since) / (now - this.#readyAt || 1));
  }

  /** In how many ms what it runs takes longer than had been thought. */
  get overdueIn(): number {
    return this.chunks[0].since + OVERDUE_MS - performance.now();
  }

  /** Whether it can be sent a second chunk, as what it runs ends soon. */
  get canTakeAhead(): boolean {
    if (this.state !== "busy" || this.chunks.length > 1) return false;
    const [{ call, length }] = this.chunks;
    const isShort = length * call.estimate.perItem <= OVERDUE_MS;
    return isShort && this.allowance > 0 && this.overdueIn > 0;
  }

  // Starting

  start(): void {
    const { startTimeout = 30_000, permissions } = this.scheduler.options;
    this.#deadline.arm(startTimeout, () => {
      this.isStuck = true; // until it says hello after all
      const why = `it did not serve within ${startTimeout} ms`;
      this.#failStart(new Error(why));
    });
    const options: WorkerOptions & { deno?: unknown } = {
      type: "module",
      name: this.name,
      ...permissions !== undefined && { deno: { permissions } },
    };
    try {
      this.#worker = new Worker(this.scheduler.url, options);
    } catch (error) {
      return this.#crash(error);
    }
    this.#worker.onmessage = ({ data }) => {
      if (data?.type === "manyhands:hello") this.#onHello(data);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault(); // or it ends the program
      this.#crash(this.cause ?? new Error(event.message));
    };
  }

  #onHello({ lock }: Hello): void {
    const { signal } = this.#watch;
    const free = locks().request(lock, { signal }, () => true)
      .catch(() => false);
    this.#lockFree = free;
    this.#hello.resolve();
    if (this.state !== "starting") return;
    // A worker that ends by itself fires no event, but its lock is released.
    free.then((isFree) => isFree && this.#die());
    const { port1, port2: port } = new MessageChannel();
    this.#port = port1;
    this.#helloAt = now();
    port1.onmessage = ({ data }) => this.#receive(data);
    const start: Start = {
      type: "manyhands:start",
      port,
      init: this.scheduler.options.init,
      slots: this.#slots,
      depth: depth + 1,
    };
    try {
      this.#worker!.postMessage(start, [port]);
    } catch (error) {
      port.close();
      this.#failStart(error);
    }
  }

  #receive(message: Ready | Results | Crashed): void {
    if (this.#isGone) return;
    if (message.type === "results") this.#answer(message);
    else if (message.type === "ready") this.#serve(message);
    else this.#crash(revive(message.error));
    // It has died, but there may be more: that is known a turn later.
    if (this.#death !== undefined) this.#die();
  }

  /** Whether what it sends is of no interest any more. */
  get #isGone(): boolean {
    return !this.isLive && this.#death === undefined;
  }

  #serve({ at }: Ready): void {
    if (this.state !== "starting") return;
    // Both clocks differ where the machine slept or its time was set since the
    // program began: `at` was between these two times.
    this.clockOffset = Math.max(this.#helloAt - at, Math.min(now() - at, 0));
    this.#readyAt = performance.now();
    this.#settle();
    this.scheduler.onReady();
  }

  /** Something in the worker threw where nobody could catch it. */
  #crash(cause: unknown): void {
    this.cause = cause;
    // One that serves is ending by itself, and its lock will tell.
    if (this.state !== "starting") return;
    this.#hello.resolve(); // it is not waited for
    this.#failStart(cause);
  }

  #failStart(cause: unknown): void {
    this.cause = cause;
    this.end();
    this.scheduler.onStartFailed(cause);
  }

  // Working

  /** Sends the next chunk; an error tells that an item cannot be cloned. */
  send(segments: Segment[]): { error: unknown } | undefined {
    const slot = this.chunks[0]?.slot === 0 ? 1 : 0;
    const chunk = new Chunk(slot, this.#slots[slot], segments);
    const { job, spread, options: { transfer } } = chunk.call;
    const { items, prompt } = chunk;
    const timed = this.scheduler.options.onTask !== undefined;
    const start = performance.now();
    try {
      const run: Run = { type: "run", slot, job, spread, items, timed, prompt };
      const moved = transfer ? items.flatMap((item) => transfer(item)) : [];
      post(this.#port!, run, moved);
    } catch (error) {
      return { error };
    }
    chunk.since = start;
    chunk.sending = performance.now() - start;
    this.chunks.push(chunk);
    if (this.chunks.length === 1) {
      this.#busySince = start;
      this.#settle();
    }
    // What of the items ran while they were sent may have ended their call.
    for (const { call } of segments) if (call.isEnded) this.cancel(call);
  }

  #answer(results: Results): void {
    const chunk = this.chunks.find(({ slot }) => slot === results.slot)!;
    if (results.last) this.#finish(chunk);
    if (this.state === "cancelling" && !this.#isStopping) this.#settle();
    this.scheduler.onResults(this, chunk, results);
  }

  #finish(chunk: Chunk): void {
    const now = performance.now();
    this.chunks.splice(this.chunks.indexOf(chunk), 1);
    this.#given += chunk.length;
    if (this.chunks.length > 0) this.chunks[0].since = now;
    else this.#busyMs += now - this.#busySince;
    if (this.state === "busy") this.#settle();
  }

  /** Becomes busy, idle or ending, whatever its work is now. */
  #settle(): void {
    if (!this.isLive) return;
    this.#watched = undefined;
    this.isStuck = false;
    this.#deadline.disarm();
    const { idleTimeout = Infinity } = this.scheduler.options;
    if (this.chunks.length > 0) {
      const [{ timeout, size }] = this.chunks;
      this.state = "busy";
      if (timeout === Infinity) return;
      // Of items that share a look at the clock, the one that is being run has to
      // be seen once before it is known since when.
      const ms = size > LOOK_EACH_MAX ? OVERDUE_MS : Infinity;
      this.#checkTimeoutIn(Math.min(ms, timeout));
    } else if (this.allowance <= 0) this.end();
    else {
      this.state = "idle";
      if (idleTimeout === Infinity) return;
      this.#deadline.arm(idleTimeout, () => this.end());
    }
  }

  // Timed out, aborted

  #checkTimeoutIn(ms: number): void {
    // What runs, and since when, is in shared memory: so a late look is to be
    // trusted, but what was sent before has to be heard first.
    const again = Math.min(ms, LATE_MS);
    this.#deadline.arm(ms, () => this.#checkTimeout(), again);
  }

  #checkTimeout(): void {
    const [chunk] = this.chunks;
    const position = chunk.running;
    if (!this.#isWatched(chunk, position)) {
      const start = chunk.startOf(position);
      const since = start === undefined ? now() : start + this.clockOffset;
      this.#watched = { chunk, position, since };
    }
    const left = this.#watched!.since + chunk.timeoutAt(position) - now();
    // It is followed by others, whose limit may be shorter.
    const next = Math.min(left > 0 ? left : Infinity, chunk.timeout);
    // It may have ended in this very moment; what is told from here on is late.
    const isOver = chunk.running !== position;
    if (left > 0 || isOver) return this.#checkTimeoutIn(next);
    chunk.cancel(position);
    this.#tell(chunk, position);
    if (chunk.timeOut(position)) this.scheduler.counts.failed++;
  }

  /** Cancels what it has of a call; aborted, what runs must end soon. */
  cancel(call: Call): void {
    for (const chunk of this.chunks) {
      const position = chunk.cancelCall(call);
      if (call.isAborted && position >= 0) this.#tell(chunk, position);
    }
  }

  /** An item was told to stop: it ends soon, or the worker is given up. */
  #tell(chunk: Chunk, position: number): void {
    const isTold = this.state === "cancelling";
    if (!this.isServing || isTold && this.#isWatched(chunk, position)) return;
    this.#watched = { chunk, position, since: now() };
    this.state = "cancelling";
    this.isStuck = true;
    this.#deadline.arm(GRACE_MS, () => {
      if (!this.#isStopping) return this.#settle();
      this.end();
      this.scheduler.onLost(this, false);
    });
  }

  #isWatched(chunk: Chunk, position: number): boolean {
    const watched = this.#watched;
    return watched?.chunk === chunk && watched.position === position;
  }

  /** Whether the item that was told to stop is still being run. */
  get #isStopping(): boolean {
    return this.#watched?.chunk.running === this.#watched?.position;
  }

  // Ending

  /**
   * It has died by itself. What it sent may take several turns of the loop to
   * arrive: it is lost after the first one without a message.
   */
  #die(): void {
    if (this.#isGone) return;
    this.state = "ending";
    this.#deadline.disarm();
    this.isStuck = false;
    clearTimeout(this.#death);
    // The first timer may be due already, as a message took its time; before
    // the second one is, the loop has looked for more.
    this.#death = setTimeout(() => {
      this.#death = setTimeout(() => {
        this.#death = undefined;
        this.#leave();
        if (this.#readyAt > 0) return this.scheduler.onLost(this, true);
        this.scheduler.onStartFailed(this.cause ??= new Error(UNUSED));
      });
    });
  }

  /** Ends it; fulfils when its thread is gone, or nobody waits for that. */
  end(): Promise<void> {
    if (this.isLive) {
      this.state = "ending";
      this.#deadline.arm(UNRESPONSIVE_MS, () => {
        this.isUnresponsive = this.isStuck = true;
        this.scheduler.schedule();
      });
      this.#leave();
    }
    return this.#ended.promise;
  }

  async #leave(): Promise<void> {
    // One that is just starting would take its lock after it was ended.
    await this.#hello.promise;
    this.#worker?.terminate();
    await this.#lockFree;
    this.#port?.close();
    this.#deadline.dispose();
    this.state = "ended";
    this.isStuck = false;
    this.#ended.resolve();
    this.scheduler.onEnded(this);
  }

  /** Waits no more for the thread. */
  forget(): void {
    this.#hello.resolve();
    this.#watch.abort();
  }
}

const UNUSED = "it ended before any job";

function newSlot(): Slot {
  const shared = (bytes: number) => new SharedArrayBuffer(bytes);
  return {
    claims: new Int32Array(shared(4)),
    started: new Int32Array(shared(4)),
    startedAt: new Float64Array(shared(8)),
    cancelled: new Uint8Array(shared(CHUNK_MAX)),
    kinds: new Uint8Array(shared(CHUNK_MAX)),
    numbers: new Float64Array(shared(8 * CHUNK_MAX)),
  };
}

/**
 * Hands out what calls have to workers: starts them, feeds them, replaces them.
 * The deadlines of a worker are the worker handle's own.
 */
class Scheduler implements Host {
  readonly size: number;
  /** `init` as it was when the pool was made: it may change, or be moved away. */
  readonly options: PoolOptions;
  readonly counts = { done: 0, failed: 0, lost: 0 };
  /** All whose threads are not known to be gone. */
  readonly workers = new Set<WorkerHandle>();
  readonly calls: Calls;
  /** The calls that may have items to hand out, the next one first. */
  #ready = new Set<Call>();
  readonly #estimates = new Map<string, Estimate>();
  #isScheduling = false;
  #scheduleAgain = false;
  #isEnded = false;
  #started = 0;
  /** Starts in a row that failed, and the pause before the next one. */
  #failedStarts = 0;
  readonly #pause = new Deadline();
  /** Workers in a row that ended before they began an item. */
  #unused = 0;
  /** Until what is sent has to be shared out again. */
  readonly #sharing = new Deadline();

  constructor(readonly url: string, options: PoolOptions, jobs?: Jobs) {
    const { size = navigator.hardwareConcurrency, eager, init } = options;
    this.size = size;
    this.options = { ...options, init: structuredClone(init) };
    this.calls = new Calls(this, jobs);
    if (eager) this.#startEagerly();
  }

  // For the calls

  get isHungry(): boolean {
    let live = 0;
    for (const worker of this.workers) {
      if (worker.state === "idle") return true;
      if (worker.isLive) live++;
    }
    return live < this.size;
  }

  estimate(job: string): Estimate {
    let estimate = this.#estimates.get(job);
    if (!estimate) this.#estimates.set(job, estimate = new Estimate());
    return estimate;
  }

  onOffer(call: Call): void {
    if (call.isEnded) return;
    this.#ready.add(call);
    this.schedule();
  }

  cancel(call: Call): void {
    this.#ready.delete(call);
    if (!call.isUnderWay) return;
    for (const worker of this.workers) worker.cancel(call);
  }

  // Handing out

  schedule(): void {
    // An input that is pulled here may use the pool itself, and get here again
    // while a worker is half served.
    this.#scheduleAgain = true;
    if (this.#isScheduling) return;
    this.#isScheduling = true;
    while (this.#scheduleAgain) {
      this.#scheduleAgain = false;
      this.#handOut();
    }
    this.#isScheduling = false;
  }

  /** Idle workers first, then new ones, then what can be sent ahead. */
  #handOut(): void {
    for (const worker of this.workers) {
      if (this.#ready.size === 0) break;
      if (worker.state === "idle") this.#feed(worker, false);
    }
    this.#startWorkers();
    for (const worker of this.workers) {
      if (this.#ready.size === 0) break;
      if (worker.canTakeAhead) this.#feed(worker, true);
    }
    const { isHungry } = this;
    const isWaiting = this.#waiting(1) > 0;
    if (!isHungry || !isWaiting) this.#share(isHungry);
  }

  /**
   * Sends a worker its next chunk, if there is one. Where some item of it cannot
   * be cloned, the second half waits again, so that the item is found in steps,
   * each of which sends what can be sent; alone, it fails.
   */
  #feed(worker: WorkerHandle, isAhead: boolean): void {
    let segments = this.#nextChunk(worker.allowance, isAhead);
    while (segments.length > 0) {
      const failure = worker.send(segments);
      if (!failure) return;
      this.#scheduleAgain = true; // for the worker may be free still
      const count = countOf(segments);
      const [half, rest] = split(segments, count >> 1);
      if (count > 1) this.#takeBack(rest);
      else this.#fail(rest[0], failure.error);
      segments = half;
    }
  }

  /**
   * Takes the next chunk of items. Calls take turns, first in, first out; small
   * ones of the same job share a message.
   *
   * Only what is short is sent ahead to a worker that is busy still. A call for
   * which that does not hold is not passed over: if others kept coming, it would
   * wait for ever.
   */
  #nextChunk(allowance: number, isAhead: boolean): Segment[] {
    const segments: Segment[] = [];
    let count = 0;
    let left = this.#ready.size; // those that are added meanwhile come later
    for (const call of this.#ready) {
      const size = Math.min(call.chunkSize, allowance);
      if (left-- === 0) break;
      const isFull = count >= size;
      if (count > 0 && (isFull || !canShare(segments[0].call, call))) break;
      if (isAhead && !canGoAhead(call, size)) break;
      const { isAlone } = call;
      if (isAlone && count > 0) break;
      const segment = call.take(size - count);
      // To the back; what has nothing now will offer again.
      this.#ready.delete(call);
      if (call.hasMore) this.#ready.add(call);
      if (!segment) continue;
      segments.push(segment);
      count += segment.items.length;
      if (isAlone) break;
    }
    return segments;
  }

  /** Has items wait again, before all others: their turn had come. */
  #takeBack(segments: Segment[]): void {
    for (const segment of segments) segment.call.takeBack(segment);
    const open = segments.map(({ call }) => call).filter((c) => !c.isEnded);
    if (open.length > 0) this.#ready = new Set(open).union(this.#ready);
    this.#scheduleAgain = true;
  }

  /**
   * Takes back from workers what they have not begun, where what they run takes
   * longer than had been thought: for a worker that has nothing to do, or for
   * other calls, which come next then. No call's items are sent twice on average,
   * nor before they have waited for longer than that takes.
   */
  #share(isHungry: boolean): void {
    if (this.#sharing.isArmed) return; // it is looked at then
    for (const worker of this.workers) {
      if (worker.isServing) this.#shareOut(worker, isHungry);
    }
  }

  #shareOut(worker: WorkerHandle, isHungry: boolean): void {
    const [running, ahead] = worker.chunks;
    if (!running || (!isHungry && !this.#isInTheWay(running, ahead))) return;
    const holder = running.canBeShared ? running.holder : undefined;
    // The last one first, as what is taken back comes before all that waits; and
    // none without those behind it. So nothing that was sent ahead gets before
    // the rest of what runs, unless that is of one call, which comes after others:
    // these are next where they are, and need not travel again.
    const isNext = !isHungry &&
      running.segments.every(({ call }) => call === holder) &&
      !ahead?.segments.some(({ call }) => call === holder);
    let sending = 0;
    for (const chunk of isNext ? [running] : worker.chunks.toReversed()) {
      sending = Math.max(sending, chunk.sending);
      const ms = worker.overdueIn + RESEND_WORTH * sending;
      if (chunk === running && chunk.size === 1 || !chunk.canBeShared) continue;
      // What has not been begun may still be on its way.
      const isOnItsWay = chunk === running && chunk.claimed === 0;
      if (ms > 0 || isOnItsWay) {
        // No later than another one could be due that is not there yet.
        const wait = Math.max(1, Math.min(ms, OVERDUE_MS));
        if (!this.#sharing.isArmed) {
          this.#sharing.arm(wait, () => this.schedule());
        }
      } else if (isHungry || holder) {
        chunk.call.estimate.chunkSize = 1;
        const segments = chunk.revoke();
        this.#takeBack(segments.map((each) => ({ ...each, isResent: true })));
        // It has had its turn.
        if (chunk === running && holder) this.#toTheBack(holder);
      }
    }
  }

  /** Whether other calls wait, or were sent ahead behind that chunk. */
  #isInTheWay({ call }: Chunk, ahead?: Chunk): boolean {
    const isBehind = (other: Call) => other !== call;
    return this.#ready.values().some(isBehind) ||
      (ahead?.segments.some(({ call }) => isBehind(call)) ?? false);
  }

  #toTheBack(call: Call): void {
    if (this.#ready.delete(call)) this.#ready.add(call);
  }

  // Starting workers

  /** Starts workers for the items that find none, up to the pool's size. */
  #startWorkers(): void {
    if (this.#ready.size === 0 || this.#pause.isArmed) return;
    let live = 0, starting = 0;
    for (const { isLive, state } of this.workers) {
      if (isLive) live++;
      if (state === "starting") starting++;
    }
    if (live >= this.size || this.#isBlocked(live)) return;
    for (; live < this.size && this.#waiting(starting + 1) > starting; live++) {
      this.#start();
      starting++;
    }
  }

  /**
   * Whether so many threads may run for ever that no other is started, or the pool
   * would grow. Where there are only these, and none comes back, all calls fail.
   */
  #isBlocked(live: number): boolean {
    const stuck = [...this.workers].filter(({ isStuck }) => isStuck);
    if (stuck.length < Math.max(2, this.size)) return false;
    if (live === 0 && stuck.every(({ isUnresponsive }) => isUnresponsive)) {
      const why = `${stuck.length} jobs were cancelled and do not end`;
      this.#giveUp(stuck[0].cause ?? new Error(why));
    }
    return true;
  }

  /** Counts waiting items, no further than `enough`. */
  #waiting(enough: number): number {
    let count = 0;
    for (const call of this.#ready) {
      const waiting = call.prepare(enough);
      count += waiting;
      if (waiting === 0) this.#ready.delete(call); // it will offer again
      if (count >= enough) break;
    }
    return count;
  }

  #start(): void {
    const worker = new WorkerHandle(++this.#started, this);
    this.workers.add(worker);
    worker.start();
  }

  #startEagerly(): void {
    if (this.#isEnded || this.#started >= this.size) return;
    this.#start();
    new Deadline().arm(0, () => this.#startEagerly());
  }

  #giveUp(cause: unknown): void {
    this.#failedStarts = this.#unused = 0;
    this.#pause.disarm();
    this.calls.fail(new WorkerStartError(this.url, cause));
  }

  // Told by workers

  onReady(): void {
    this.#failedStarts = 0;
    this.schedule();
  }

  /** It is tried again, at once, then after pauses that grow, not for ever. */
  onStartFailed(cause: unknown): void {
    if (this.#isEnded) return;
    const failed = ++this.#failedStarts;
    const isLive = this.workers.values().some((worker) => worker.isLive);
    if (failed >= this.size + 2 && !isLive) return this.#giveUp(cause);
    if (failed > 1) {
      const pause = Math.min(RESTART_MS * 2 ** (failed - 2), RESTART_MAX_MS);
      this.#pause.arm(pause, () => this.schedule());
    }
    this.schedule();
  }

  onResults(worker: WorkerHandle, chunk: Chunk, results: Results): void {
    const { elapsed, values } = results;
    const answered = chunk.answer(values.length);
    this.#unused = 0;
    this.#isScheduling = true; // what follows for workers is decided at the end
    const isWhole = this.#settle(answered, results);
    this.#isScheduling = false;
    if (isWhole) this.#measure(chunk, elapsed);
    // A call that has held a worker comes after those that came meanwhile.
    for (const { call } of answered) this.#toTheBack(call);
    this.schedule();
    if (this.options.onTask) this.#tell(worker, singles(answered), results);
  }

  /**
   * Has the job's other calls learn of a chunk, and its own: these may differ (one
   * of 3,000 short items took 158 turns beside one of long ones instead of 14).
   */
  #measure(chunk: Chunk, elapsed: number): void {
    const { call } = chunk;
    const ofJob = this.estimate(call.job);
    ofJob.measure(chunk, elapsed);
    if (chunk.isShared || call.isEnded) return;
    if (call.estimate === ofJob) call.estimate = new Estimate();
    call.estimate.measure(chunk, elapsed);
  }

  /** Gives answers to the calls that wait for them; tells whether all were run. */
  #settle(answered: Segment[], { values, failures }: Results): boolean {
    let isWhole = true;
    let from = 0;
    for (const segment of failures ? singles(answered) : answered) {
      const { call, first, items: { length }, isOver } = segment;
      const failure = failures?.get(from);
      // A slice of one costs a tenth of the whole call.
      const results = length === 1
        ? [values[from]]
        : values.slice(from, from + length);
      from += length;
      isWhole &&= failure !== null;
      if (isOver) continue;
      if (failure) this.#fail(segment, revive(failure));
      else {
        if (failure !== null) this.counts.done += length;
        call.settle(first, results);
      }
    }
    return isWhole;
  }

  #fail({ call, first }: Segment, cause: unknown): void {
    this.counts.failed++;
    call.settle(first, [new JobError(call.job, first, cause)], true);
  }

  #tell(
    { id: worker, clockOffset }: WorkerHandle,
    answered: Segment[],
    { times, failures }: Results,
  ): void {
    for (const [i, { call: { job }, first: index }] of answered.entries()) {
      if (failures?.get(i) === null) continue;
      const start = times[2 * i] + clockOffset;
      const end = times[2 * i + 1] + clockOffset;
      this.options.onTask!({ worker, job, index, start, end });
    }
  }

  /** What a worker had not begun goes to others; what it was at is lost. */
  onLost({ id, name, chunks, cause }: WorkerHandle, isUnasked: boolean): void {
    // Those that end before they begin anything would be replaced for ever.
    const hasBegun = chunks.some(({ claimed }) => claimed > 0);
    this.#unused = hasBegun ? 0 : this.#unused + 1;
    let lost = 0;
    this.#isScheduling = true;
    for (const chunk of chunks.toReversed()) {
      this.#takeBack(chunk.revoke());
      const counts = chunk.lose(cause);
      this.counts.done += counts.done;
      lost += counts.lost;
    }
    this.#isScheduling = false;
    if (isUnasked) {
      this.counts.lost++;
      const { onWorkerLost } = this.options;
      if (onWorkerLost) onWorkerLost({ worker: id, cause });
      else if (lost === 0 && cause !== undefined) {
        console.error(`error: Uncaught (in worker "${name}") ${textOf(cause)}`);
      }
    }
    if (this.#unused > UNUSED_MAX) this.#giveUp(cause ?? new Error(UNUSED));
    this.schedule();
  }

  onEnded(worker: WorkerHandle): void {
    this.workers.delete(worker);
    this.schedule();
  }

  /** Ends all workers; those that do not end are left behind. */
  async end(): Promise<void> {
    this.#isEnded = true;
    this.#pause.dispose();
    this.#sharing.dispose();
    const workers = [...this.workers];
    const ended = Promise.all(workers.map((worker) => worker.end()));
    const deadline = new Deadline();
    const forget = () => workers.forEach((worker) => worker.forget());
    if (workers.every(({ isUnresponsive }) => isUnresponsive)) forget();
    else deadline.arm(END_MS, forget);
    await ended;
    deadline.dispose();
  }
}

/** Whether a call's next items may be sent to a worker that is busy still. */
function canGoAhead(call: Call, size: number): boolean {
  // What was moved cannot be taken back, should it wait for long. (Sent ahead
  // where the call needs all of it anyway, it was only 8 % faster.)
  if (call.options.transfer || call.isAlone) return false;
  if (size * call.estimate.perItem > OVERDUE_MS) return false;
  return call.prepare(size) >= size || call.isExhausted;
}

/** Whether items of two calls can go in one message. */
function canShare(a: Call, b: Call): boolean {
  return a.estimate === b.estimate && a.spread === b.spread &&
    !a.options.transfer && !b.options.transfer &&
    a.options.chunkSize === b.options.chunkSize;
}

/**
 * Runs the jobs of a service in workers.
 *
 * Workers are started when there is work for them, up to `size`. With a worker
 * that dies the item that it was running is lost, as a
 * {@linkcode WorkerLostError} (and what it had not yet reported, at most some
 * 4 ms of short items); the rest goes to others, and the next worker to be needed
 * is a new one. Neither a job that exits nor a module that does not load holds up
 * a pool. A job that never returns does, unless its call has a `timeout`, or a
 * `signal` that is aborted.
 *
 * A pool that is neither closed nor terminated keeps the program alive: use
 * `await using`, which terminates it.
 *
 * @typeParam J The jobs of the service; with a bare URL it goes in by hand
 *
 * @example Sharing out calls
 * ```ts
 * import { Pool } from "./mod.ts";
 * import { service } from "./workers/logscan.ts";
 *
 * await using pool = new Pool(service, { size: 2 });
 * console.log(pool.size);
 * ```
 */
export class Pool<J extends Jobs> extends Runner<J> {
  /** How many workers there are at most. */
  readonly size: number;
  readonly #scheduler: Scheduler;
  #ended?: Promise<void>;

  /**
   * Makes a pool; its workers start with the first calls, unless it is `eager`.
   *
   * @param service What {@linkcode serve} returned, or the module's URL
   * @param options See {@linkcode PoolOptions}
   * @throws {RangeError} If an option is out of range
   * @throws {TypeError} If `service` is neither a service nor an absolute URL,
   * or an option is unknown or of the wrong type
   * @throws {DOMException} If `init` cannot be cloned ("DataCloneError")
   * @throws {Error} If this is a worker that was started from the same module,
   * and none of its jobs is running: it would start workers without an end
   */
  constructor(service: Service<J> | URL | string, options: PoolOptions = {}) {
    super();
    const given = isObject(service) && "jobs" in service;
    const href = absolute(given ? service.url : service);
    check("make a pool", options, POOL_OPTIONS);
    refuseRecursion(href);
    const jobs = given ? service.jobs : undefined;
    this.#scheduler = new Scheduler(href, options, jobs);
    this.size = this.#scheduler.size;
  }

  /**
   * Tells what the pool is doing and has done.
   *
   * @returns A snapshot; it does not change later
   *
   * @example How busy the workers are
   * ```ts
   * import { Pool } from "./mod.ts";
   * import { service } from "./workers/logscan.ts";
   *
   * await using pool = new Pool(service);
   * const { busy, queued, workers } = pool.stats();
   * console.log(busy, queued, workers.map(({ busy }) => busy));
   * ```
   */
  stats(): PoolStats {
    const { calls, counts, workers: all } = this.#scheduler;
    const workers = [...all];
    const serving = workers.filter(({ isServing }) => isServing);
    const sent = serving.flatMap(({ chunks }) => chunks);
    return {
      size: this.size,
      busy: serving.filter(({ chunks }) => chunks.length > 0).length,
      queued: sent.reduce((sum, chunk) => sum + chunk.unclaimed, calls.queued),
      ...counts,
      stuck: workers.filter(({ isStuck }) => isStuck).length,
      workers: serving.map(({ id, load }) => ({ worker: id, busy: load })),
    };
  }

  /** Lets outstanding calls finish and ends the workers. */
  override async close(): Promise<void> {
    await this.calls.drain();
    await this.terminate();
  }

  /** Rejects outstanding calls and ends the workers now. */
  override terminate(): Promise<void> {
    this.calls.terminate();
    return this.#ended ??= this.#scheduler.end();
  }

  /** Those that the pool has to run. */
  protected override get calls(): Calls {
    return this.#scheduler.calls;
  }
}

// Checks

/** A module's URL as text. Relative to what a path is, only its caller knows. */
function absolute(url: unknown): string {
  const text = textOf(url);
  const { href } = URL.parse(text) ?? {};
  if (href !== undefined) return href;
  throw new TypeError(
    "Cannot make a pool as 'service' must be what serve returned, or an " +
      `absolute URL as import.meta.resolve gives: current value is ${text}`,
  );
}

/**
 * What an option must be, in words, whether a value is that, and the error where
 * a number is not.
 */
type Rule = [string, (value: unknown) => boolean, ErrorConstructor?];

const ANYTHING: Rule = ["", () => true];

function ofType(type: "boolean" | "function" | "string"): Rule {
  // deno-lint-ignore valid-typeof
  return [`of type ${type}`, (value) => typeof value === type];
}

/** A whole number; Infinity means, where it may be, that there is no limit. */
function whole(least: number, most?: number, mayBeInfinite = false): Rule {
  const must = `a whole number from ${least}` + (most ? ` to ${most}` : "") +
    (mayBeInfinite ? ", or Infinity" : "");
  const fits = (value: unknown) =>
    value === Infinity ? mayBeInfinite : Number.isInteger(value) &&
      least <= (value as number) && (value as number) <= (most ?? Infinity);
  return [must, fits, RangeError];
}

const SEQUENTIAL_OPTIONS: Record<string, Rule> = {
  init: ANYTHING,
  onTask: ofType("function"),
};
const POOL_OPTIONS: Record<string, Rule> = {
  ...SEQUENTIAL_OPTIONS,
  size: whole(1),
  eager: ofType("boolean"),
  idleTimeout: whole(0, TIMER_MAX, true),
  maxTasksPerWorker: whole(1, undefined, true),
  name: ofType("string"),
  onWorkerLost: ofType("function"),
  permissions: ANYTHING,
  startTimeout: whole(1, TIMER_MAX),
};
const CALL_OPTIONS: Record<string, Rule> = {
  signal: ["of type AbortSignal", (value) => value instanceof AbortSignal],
  timeout: whole(1, TIMER_MAX, true),
  retries: whole(0, undefined, true),
  chunkSize: whole(1),
  settle: ofType("boolean"),
  transfer: ofType("function"),
};

/** Refuses options that are unknown or wrong, naming option and value. */
function check(
  what: string,
  options: object,
  rules: Record<string, Rule>,
): void {
  if (typeof options !== "object" || options === null) {
    throw wrong(what, "options", "an object", options);
  }
  for (const [option, value] of Object.entries(options)) {
    if (!Object.hasOwn(rules, option)) {
      const known = Object.keys(rules).join(", ");
      throw new TypeError(
        `Cannot ${what} as '${option}' is not an option: there are ${known}`,
      );
    }
    const [must, fits, ofNumber] = rules[option];
    if (value === undefined || fits(value)) continue;
    const kind = typeof value === "number" ? ofNumber : undefined;
    throw wrong(what, option, must, value, kind);
  }
}

function checkCall(
  { job, items, single, options = NO_OPTIONS }: CallRequest,
  jobs?: Jobs,
): void {
  if (jobs && !Object.hasOwn(jobs, job)) throw unknownJob(jobs, job);
  const what = `run '${job}'`;
  if (options !== NO_OPTIONS) check(what, options, CALL_OPTIONS);
  const [args] = single ? items as unknown[] : [[]];
  if (!Array.isArray(args)) throw wrong(what, "args", "an array", args);
  if (!isIterable(items)) throw wrong(what, "items", "iterable", items);
}

function wrong(
  what: string,
  name: string,
  must: string,
  value: unknown,
  kind: ErrorConstructor = TypeError,
): Error {
  const current = `current value is ${textOf(value)}`;
  return new kind(`Cannot ${what} as '${name}' must be ${must}: ${current}`);
}

function isIterable(value: unknown): boolean {
  const items = Object(value);
  return items[Symbol.iterator] !== undefined ||
    items[Symbol.asyncIterator] !== undefined;
}

// The calling thread's side

/**
 * Runs the jobs of a service on the calling thread, each call's one by one.
 *
 * It has the methods, results and errors of a {@linkcode Pool}, which so can be
 * measured against it. Nothing is copied: a job gets the very items, and the
 * caller the very results. Nothing is computed ahead, before `close` asks for
 * it. A job that blocks cannot be interrupted: that it is aborted is heard at its
 * end. Timed out, it is told by {@linkcode cancelled} and otherwise rejected at
 * its end.
 *
 * @param service What {@linkcode serve} returned
 * @param options See {@linkcode SequentialOptions}
 * @returns A runner without workers
 * @throws {TypeError} If an option is unknown or of the wrong type
 *
 * @example The same code, with and without workers
 * ```ts
 * import { type Runner, sequential, serve } from "./mod.ts";
 *
 * const jobs = { square: (n: number) => n * n };
 * const service = serve(import.meta, jobs);
 *
 * async function sum(runner: Runner<typeof jobs>): Promise<number> {
 *   const squares = await runner.map("square", [1, 2, 3]);
 *   return squares.reduce((a, b) => a + b);
 * }
 * console.log(await sum(sequential(service))); // 14
 * ```
 */
export function sequential<J extends Jobs>(
  service: Service<J>,
  options: SequentialOptions = {},
): Runner<J> {
  return new Sequential(service, options);
}

class Sequential<J extends Jobs> extends Runner<J> implements Host {
  readonly size = 0;
  readonly isHungry = true;
  readonly #service: Service<J>;
  readonly #options: SequentialOptions;
  protected override readonly calls: Calls;
  /** Those whose items are being run. */
  readonly #running = new Set<Call>();
  #setUp?: Promise<unknown>;

  constructor(service: Service<J>, options: SequentialOptions) {
    super();
    check("run sequentially", options, SEQUENTIAL_OPTIONS);
    this.#service = service;
    this.#options = options;
    this.calls = new Calls(this, service.jobs);
  }

  override close(): Promise<void> {
    return this.calls.drain();
  }

  override terminate(): Promise<void> {
    this.calls.terminate();
    return Promise.resolve();
  }

  estimate(): Estimate {
    return new Estimate(); // of one item at a time, and never measured
  }

  cancel(): void {
    // What runs asks by itself, and goes on as long as it likes.
  }

  async onOffer(call: Call): Promise<void> {
    if (this.#running.has(call)) return;
    this.#running.add(call);
    try {
      const { setup } = this.#service;
      const { init } = this.#options;
      await (this.#setUp ??= (async () => await setup?.(init as never))());
      let turned = now();
      for (let item; (item = call.take(1));) {
        // No await where a job needs none: it would flatter the pool.
        const ended = this.#run(item);
        if (ended) await ended;
        // But a signal is only heard where the event loop gets its turn.
        if (call.options.signal && now() - turned > TURN_MS) {
          await new Promise((resolve) => setImmediate(resolve));
          turned = now();
        }
      }
    } catch (error) {
      call.end({ error }); // it could not be set up
    }
    this.#running.delete(call);
  }

  /** Runs an item; gives a promise only where the job did. */
  #run(item: Segment): Promise<void> | undefined {
    const { call, first: index, items: [args] } = item;
    const { job, spread, timeout, options: { signal } } = call;
    const start = now();
    const isCancelled = () => call.isEnded || now() - start > timeout;
    const settle = (value: unknown, bad = false) => {
      awaited.delete(isCancelled);
      const end = now();
      this.#options.onTask?.({ worker: 0, job, index, start, end });
      if (end - start > timeout) call.miss(item, timeoutError(call, index));
      else if (bad) call.settle(index, [new JobError(job, index, value)], true);
      else call.settle(index, [value]);
    };
    const code = this.#service.jobs[job] as (...args: unknown[]) => unknown;
    const run = () => spread ? code(...args as unknown[]) : code(args);
    const isAlone = timeout === Infinity && !signal;
    const fail = (thrown: unknown) => settle(thrown, true);
    let value: unknown;
    try {
      value = isAlone ? run() : within(isCancelled, run);
      if (isThenable(value)) {
        if (isAlone) awaited.add(isCancelled);
        return inTime(value, timeout).then(settle, fail);
      }
    } catch (thrown) {
      fail(thrown);
      return;
    }
    settle(value); // what `onTask` throws is not the job's error
  }
}

/** What a promise gives, or nothing when its time is up. */
async function inTime(
  value: PromiseLike<unknown>,
  timeout: number,
): Promise<unknown> {
  if (timeout === Infinity) return await value;
  const { promise: timedOut, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, Math.min(timeout + 1, TIMER_MAX));
  try {
    return await Promise.race([value, timedOut]);
  } finally {
    clearTimeout(timer);
  }
}

interface Contexts {
  run<T>(isCancelled: () => boolean, code: () => T): T;
  getStore(): (() => boolean) | undefined;
}

/** Several calls may run at once: what is cancelled follows code through awaits. */
let contexts: Contexts | undefined;

/**
 * The items without a signal and a timeout are not worth that. So which of them
 * asks is not known, and they are told once none of those that run is wanted.
 */
const awaited = new Set<() => boolean>();

/** Runs code that may await, so that `cancelled` knows its item. */
function within<T>(isCancelled: () => boolean, code: () => T): T {
  // Not imported, as mod.ts imports nothing, and not before it is needed, as
  // loading it takes as long as two workers.
  contexts ??= new (Reflect.get(globalThis, "process")
    .getBuiltinModule("node:async_hooks").AsyncLocalStorage)() as Contexts;
  return contexts.run(isCancelled, code);
}

/** The clock that all threads share: milliseconds since the epoch. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return isObject(value) && "then" in value && typeof value.then === "function";
}

/** Whether it is an object, also of another realm or without a prototype. */
function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null ||
    typeof value === "function";
}

/**
 * The error of an item that ran too long.
 *
 * @internal
 */
export function timeoutError(
  { job, timeout }: Call,
  index: number,
): DOMException {
  const what = `Job '${job}' ran longer than ${timeout} ms on item ${index}`;
  return new DOMException(what, "TimeoutError");
}
