/**
 * A worker pool for Deno in one file without dependencies.
 *
 * A job module exports ordinary functions and one line, {@linkcode serve}. The
 * program hands the resulting {@linkcode Service} to a {@linkcode Pool}, which
 * runs the functions on every core, or to {@linkcode sequential}, which runs
 * them one after another on the calling thread. Both are a
 * {@linkcode Runner}, so code that takes a runner can be measured both ways.
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
 * - Strategies for choosing a worker: idle workers pull, so the next item goes
 *   to whoever is free.
 * - Custom queues: items may come from an async iterable, which can decide what
 *   comes next as late as it is pulled.
 * - Heap limits per worker: Deno's workers have none, and running out of heap
 *   ends the whole process. So jobs bound what they hold.
 *
 * It is made for Deno 2.9 or later. Elsewhere: without Web Locks
 * (`navigator.locks`; Node before 24, Bun) no worker starts, in browsers
 * `SharedArrayBuffer` wants a cross-origin isolated page, and
 * {@linkcode PoolOptions.permissions} is ignored.
 *
 * @module
 */

// What travels between the pool and a worker, all of it.
//
// A worker opens with `hello` and gets `start`, on the channel that every
// worker has. All else goes over the MessagePort in `start`: a port's round
// trip takes half as long.

type Message = Hello | Start | Ready | Run | Results | Crashed | Ping;

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
  board: Board;
  /** How many chunks to run side by side. */
  concurrency: number;
}

/** Worker to pool, once: `setup` has run. */
interface Ready {
  type: "ready";
  /** What time it is in the worker. */
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
  /** Whether anybody wants to know when an item begins and ends. */
  timed: boolean;
  /** Whether each item is to be reported as soon as it is done. */
  prompt: boolean;
}

/** Worker to pool: what has been finished of a chunk since the last message. */
interface Results {
  type: "results";
  slot: number;
  values: unknown[];
  /** Which of the values are failures, by position. */
  failures?: Map<number, Failure>;
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

/** Pool to worker and back: does the thread still come to its messages? */
interface Ping {
  type: "ping";
}

/** Memory shared with a worker. Each chunk that is with it has a slot there. */
interface Board {
  /** How many items of the chunk have been claimed. */
  claims: Int32Array<SharedArrayBuffer>;
  /** Which item is cancelled, counted from 1. */
  cancels: Int32Array<SharedArrayBuffer>;
  /** When the last claimed item began, in the worker's time; if timed. */
  starts: Float64Array<SharedArrayBuffer>;
}

/** What was thrown; a structured clone would lose an error's name and `code`. */
interface Failure {
  /** Of an Error. */
  texts?: { name: string; message: string; stack: string };
  /** The error's own other properties, or what was thrown instead of one. */
  value: unknown;
  cause?: Failure;
  /** Of an AggregateError. */
  errors?: Failure[];
}

/** How long a chunk should take, in ms: hand-over vanishes, balance does not. */
const CHUNK_MS = 4;
/**
 * How long a message may take to be sent, in ms. Buffers by the megabyte take
 * ten times as long as by the kilobyte: without this limit 1,000 of 64 kB took
 * 133 ms instead of 37.
 */
const SEND_MS = 0.5;
/** Above this many items a message gains nothing more (measured). */
const CHUNK_MAX = 4096;
/** The same where results are consumed one by one; it bounds the look-ahead. */
const STREAM_CHUNK_MAX = 256;
/** Results of chunks up to this size are not gathered: they are long, or the first. */
const PROMPT_MAX = 16;
/** Idle workers leave a chunk alone that ends sooner than this, in ms. */
const STEAL_MS = 2;
/** Added to a claim counter, it ends the chunk: no item has such a position. */
const REVOKED = 2 ** 30;
/** How long a cancelled job may take to listen before its thread is given up. */
const GRACE_MS = 100;
/** How long a thread that others still use may leave its messages alone. */
const SILENCE_MS = 5000;
/** How long an ended worker's thread may take; an endless loop has no end. */
const END_MS = 500;
/** So many workers in a row may end before they begin anything. */
const UNUSED_MAX = 30;
/** After how long such a thread is not expected any more: calls are rejected. */
const LATE_MS = 2000;
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
   * How many items a worker has under way side by side. For jobs that wait, for
   * a network say: only one of them computes at a time, and one that computes
   * for 5 s beside one that was cancelled counts as hanging. Default: 1.
   */
  concurrency?: number;
  /**
   * After how long without work a worker ends, in milliseconds; the next work
   * starts one again. Default: never.
   */
  idleTimeout?: number;
  /**
   * After how many items a worker is replaced by a new one, for jobs that leak.
   * Default: never.
   */
  maxTasksPerWorker?: number;
  /** What the workers are called in debuggers and uncaught errors. */
  name?: string;
  /**
   * A structured-cloneable value for the module's `setup`, which runs once in
   * every worker before its first job.
   */
  init?: unknown;
  /**
   * What the workers may do, at most what the program may. Deno wants the flag
   * `--unstable-worker-options` for it (or `"unstable": ["worker-options"]` in
   * deno.json), and without it ends the program, saying so. Their own module
   * is loaded with the program's permissions. Default: `"inherit"`.
   */
  permissions?: Deno.PermissionOptions;
  /**
   * How long a worker may take to load its module and set it up, in
   * milliseconds, before it is a {@linkcode WorkerStartError}. Default: 10,000.
   */
  startTimeout?: number;
}

/** Options for every method of a {@linkcode Runner}. */
export interface CallOptions {
  /**
   * Rejects the call with the signal's reason, at once, wherever its items are:
   * those that are not begun never run, those that run see
   * {@linkcode cancelled}. A worker whose job does not end within a tenth of a
   * second then is given up and replaced.
   */
  signal?: AbortSignal;
  /**
   * How long one item may run, in milliseconds, counted from its start in the
   * worker. Then it is rejected with a "TimeoutError", as if it had been
   * aborted, also while it blocks its thread. ({@linkcode sequential} cannot
   * interrupt a job that blocks: it rejects afterwards.)
   */
  timeout?: number;
  /**
   * How often an item is run again that was lost with its worker or timed out;
   * a job that threw is not. Default: 0.
   */
  retries?: number;
  /**
   * How many items go to a worker in one message. Default: as many as take a
   * few milliseconds, measured while they run.
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
  /** Items that wait; those not yet pulled from their input do not count. */
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

/** No options. */
export type None = Record<never, never>;

/** A call as a {@linkcode Runner} gets it. */
export interface CallRequest {
  /** The job's name. */
  job: string;
  /** What to run it on. */
  items: Items<unknown>;
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
   * @throws {TypeError} If there is no such job or option, or an option has a
   * wrong type (with a bare URL only the workers know the jobs: a `JobError`)
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
  async apply<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    args: Parameters<J[K]>,
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>> {
    const items = [args];
    return (await this.gather({ job, items, spread: true, options }))[0];
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
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    return this.gather({ job, items, options });
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
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    return this.gather({ job, items, spread: true, options });
  }

  /**
   * Runs a job on items pulled as they are needed and yields the results in
   * order.
   *
   * It begins with the first `next()`. A pool pulls no more than two chunks for
   * each lane of a worker beyond what has been read, so that an endless input runs in constant
   * memory; only `close` lifts that bound. Leaving the loop early closes the
   * input, and nothing more of it is begun. An error comes at its item's place;
   * an abort comes at once. It throws what `map` throws.
   *
   * @param job The job's name
   * @param items The arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns The results, one for each item
   */
  imap<K extends keyof J & string, const O extends CallOptions = None>(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.stream({ job, items, options });
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
    options?: O,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.stream({ job, items, unordered: true, options });
  }

  /**
   * Takes no more calls, lets the outstanding ones finish, and ends.
   *
   * What `imap` has not been read of is computed now and kept, so this may be
   * awaited inside a `for await`. It never fails; called twice it does no more
   * than once.
   *
   * @returns When all is done and nothing is left
   */
  abstract close(): Promise<void>;

  /**
   * Rejects what is outstanding with an "AbortError", and ends.
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

  /** Behind `apply`, `map` and `starmap`: all results, in order. */
  // deno-lint-ignore no-explicit-any
  protected abstract gather(request: CallRequest): Promise<any[]>;

  /** Behind `imap` and `imapUnordered`: the results, as they are read. */
  protected abstract stream(
    request: CallRequest,
    // deno-lint-ignore no-explicit-any
  ): AsyncGenerator<any, void, void>;
}

// Errors

/**
 * A job threw, or its argument or result could not be cloned.
 *
 * `cause` is what was thrown, with the name, message and stack that it had in
 * the worker.
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

/** Deeper causes are left out: a chain of them may be endless. */
const CAUSES_MAX = 16;

/** Puts what was thrown in a form that any port can carry. */
function describe(thrown: unknown, depth = 0): Failure {
  try {
    if (!(thrown instanceof Error)) return { value: cloneable(thrown) };
    const { name, message, stack, cause, errors, ...own } =
      thrown as AggregateError;
    const entries = Object.entries(own);
    const deeper = (error: unknown) => describe(error, depth + 1);
    return {
      texts: {
        name: textOf(name),
        message: textOf(message),
        stack: textOf(stack),
      },
      value: new Map(entries.map(([key, value]) => [key, cloneable(value)])),
      ...depth < CAUSES_MAX && {
        cause: cause === undefined ? undefined : deeper(cause),
        errors: Array.isArray(errors) ? errors.map(deeper) : undefined,
      },
    };
  } catch { // a getter or a proxy that throws when it is looked at
    return { value: "what was thrown is unreadable" };
  }
}

/** Makes of that an error of the same class, where this thread has it. */
function revive({ texts, value, cause, errors }: Failure): unknown {
  if (!texts) return value;
  const known: unknown = Reflect.get(globalThis, texts.name);
  // A DOMException's properties are getters, which want a real one.
  const isClass = typeof known === "function" && known !== DOMException &&
    known.prototype instanceof Error;
  const error = Object.setPrototypeOf(
    new Error(texts.message),
    isClass ? known.prototype : Error.prototype,
  );
  const define = (key: string, value: unknown, enumerable = false) =>
    Object.defineProperty(error, key, {
      value,
      enumerable,
      configurable: true,
      writable: true,
    });
  define("name", texts.name);
  define("stack", texts.stack);
  if (cause) define("cause", revive(cause));
  if (errors) define("errors", errors.map(revive));
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
    return textOf(thrown instanceof Error ? thrown.message : thrown);
  } catch { // a proxy that does not say of what class it is
    return textOf(undefined);
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
 * Marks a job's result to be moved to the caller instead of being copied.
 *
 * What is moved cannot be used in the worker any more. On the calling thread,
 * with {@linkcode sequential}, nothing happens: the value is already there.
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
  transfers.set(value, buffers);
  return value;
}

/** Whether the item was cancelled that it belongs to. */
type Verdict = () => boolean;

interface Contexts {
  run<T>(verdict: Verdict, code: () => T): T;
  getStore(): Verdict | undefined;
}

/** Of the item at hand, where a thread has one at a time. */
let verdict: Verdict | undefined;
/** Where it has several, they follow the code through its awaits. */
let contexts: Contexts | undefined;

/** Runs code that may await, so that `cancelled` knows its item. */
function within<T>(verdict: Verdict, code: () => T): T {
  // Not imported, as mod.ts imports nothing, and not before it is needed, as
  // loading it takes as long as two workers.
  contexts ??= new (Reflect.get(globalThis, "process")
    .getBuiltinModule("node:async_hooks").AsyncLocalStorage)() as Contexts;
  return contexts.run(verdict, code);
}

/**
 * Tells a job whether nobody waits for its result any more: its call was
 * aborted, has failed or was left, or the item timed out.
 *
 * It costs tens of nanoseconds and needs no `await`, so long loops can ask it
 * again and again. A job that ends soon after keeps its worker from being
 * replaced; what it returns or throws is dropped.
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
  return (contexts?.getStore() ?? verdict)?.() ?? false;
}

/**
 * Offers a module's functions as jobs.
 *
 * In a worker that was started from this very module it begins to answer the
 * pool; anywhere else it only describes the module, whose functions can still
 * be imported and called. (`import.meta.main` tells them apart, as Deno has
 * it.)
 *
 * @param meta The module's `import.meta`
 * @param jobs The functions by name; their arguments and results are copied
 * between threads, so they must be structured-cloneable
 * @param options `setup` runs once per worker before its first job, with the
 * pool's `init` value, and may be asynchronous; where it throws, the worker
 * counts as not started
 * @returns What {@linkcode Pool} and {@linkcode sequential} take
 * @throws {TypeError} If a job is not a function
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
    if (typeof job !== "function") {
      throw new TypeError(
        `Cannot serve '${name}' as a job must be a function: it is ${typeof job}`,
      );
    }
  }
  const setup = options.setup as Service<J>["setup"];
  const service = { url: meta.url, jobs, setup };
  if (meta.main && "WorkerGlobalScope" in globalThis) answer(service);
  return service;
}

/** Types of Deno's workers and locks; the standard library has neither here. */
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
  // The lock comes first: the pool asks for it once it was greeted, and then
  // can only get it from a worker that has ended. The worker speaks first, as
  // what is sent to one whose module still waits at the top level is lost.
  locks().request(lock, {}, () => {
    scope.postMessage({ type: "manyhands:hello", lock });
    return new Promise(() => {});
  });
}

function begin(
  scope: WorkerScope,
  { jobs, setup }: Service<Jobs>,
  start: Start,
) {
  const { port, init, board, concurrency } = start;
  // What nobody catches ends the worker. Said here, with the stack, since the
  // pool's own error event has none, and would be printed as well.
  const crashed = (event: Event, thrown: unknown) => {
    if (event.defaultPrevented) return; // the module has a handler of its own
    event.preventDefault();
    post(port, { type: "crashed", error: describe(thrown) });
    scope.close();
  };
  scope.addEventListener(
    "error",
    (event) => crashed(event, (event as ErrorEvent).error),
  );
  scope.addEventListener(
    "unhandledrejection",
    (event) => crashed(event, (event as PromiseRejectionEvent).reason),
  );
  const chunks: Run[] = [];
  let lanes = concurrency;
  const work = async () => {
    if (lanes === 0) return;
    lanes--;
    for (let run; (run = chunks.shift());) {
      await runChunk(jobs, port, board, run, concurrency > 1);
    }
    lanes++;
  };
  port.onmessage = ({ data }: MessageEvent<Run | Ping>) => {
    if (data.type === "ping") return post(port, data);
    chunks.push(data);
    work();
  };
  const ready = async () => {
    if (concurrency > 1) within(() => false, () => {}); // loads what it needs
    await setup?.(init as never);
    post(port, { type: "ready", at: now() });
  };
  ready(); // where it fails, the rejection is an uncaught error, as above
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
  { claims, cancels, starts }: Board,
  { slot, job, spread, items, timed, prompt }: Run,
  besides: boolean,
): Promise<void> {
  const call = (Object.hasOwn(jobs, job) ? jobs[job] : () => {
    throw unknownJob(jobs, job);
  }) as (...args: unknown[]) => unknown;
  // In large chunks the clock costs more than an item: they share a look at it.
  let clockEvery = items.length > 256 ? 16 : 1;
  const began = performance.now();
  let reported = began;
  const results = (): Results => (
    { type: "results", slot, values: [], times: [], elapsed: 0, last: false }
  );
  let done = results();
  let i = 0;
  const isCancelled = () => Atomics.load(cancels, slot) === i + 1;
  const run = () => spread ? call(...items[i] as unknown[]) : call(items[i]);
  if (!besides) verdict = isCancelled;
  for (;;) {
    // Before the claim: the pool may see an item begin too late, not too early.
    const start = timed ? now() : 0;
    starts[slot] = start;
    // A claim and the pool's revocation are both one atomic addition to the same
    // counter, so an item is either run here or returned there, never both.
    i = Atomics.add(claims, slot, 1);
    if (i >= items.length) break;
    try {
      let value = besides ? within(isCancelled, run) : run();
      if (isThenable(value)) value = await value;
      done.values.push(value);
    } catch (thrown) {
      (done.failures ??= new Map()).set(done.values.length, describe(thrown));
      done.values.push(undefined);
    }
    if (timed) done.times.push(start, now());
    if (i % clockEvery !== 0 || i + 1 === items.length) continue;
    const at = performance.now();
    if (!prompt && at - reported < CHUNK_MS) continue;
    clockEvery = 1; // they are not so short after all
    done.elapsed = at - began;
    report(port, done);
    done = results();
    reported = at;
  }
  done.last = true;
  done.elapsed = performance.now() - began;
  report(port, done);
}

function unknownJob(jobs: Jobs, job: string): TypeError {
  const names = Object.keys(jobs).join(", ");
  return new TypeError(
    `Cannot run '${job}' as the service has only: ${names}`,
  );
}

/** Sends results; where one cannot be cloned, only that one is a failure. */
function report(port: MessagePort, done: Results): void {
  const { values, failures, times } = done;
  const moved = values.flatMap((value) =>
    value instanceof Object ? transfers.get(value) ?? [] : []
  );
  // What is to be moved is gone after a failure: there is no second try.
  if (values.length < 2 || moved.length === 0) {
    try {
      return post(port, done, moved);
    } catch (thrown) {
      if (values.length < 2) {
        const failure = new Map([[0, describe(thrown)]]);
        return post(port, { ...done, values: [undefined], failures: failure });
      }
    }
  }
  values.forEach((value, i) => {
    const failure = failures?.get(i);
    report(port, {
      ...done,
      values: [value],
      failures: failure && new Map([[0, failure]]),
      times: times.slice(2 * i, 2 * i + 2),
      last: done.last && i === values.length - 1,
    });
  });
}

// The pool's side

/** One try of an item of a call, on its way through the pool. */
interface Task {
  call: Call;
  index: number;
  item: unknown;
  /** How often it was lost or timed out before. */
  tries: number;
  /** Its outcome is known, or another try has taken its place. */
  over: boolean;
}

/** Items of one job that were sent to a worker together. */
interface Chunk {
  tasks: Task[];
  /** What all of their calls have in common is the same in the first. */
  call: Call;
  slot: number;
  /** How many results have arrived; they come in order. */
  answered: number;
  /** When it was sent, and how long that took, in ms. */
  sent: number;
  sending: number;
  /** The shortest time that one of its items may run, in ms. */
  timeout: number;
  /** From when an item is cancelled until it ends, or is given up. */
  grace?: ReturnType<typeof setTimeout>;
}

/** What a call needs of its pool. */
interface Dispatcher {
  /** How many items can be under way at once. */
  readonly lanes: number;
  /** The call has items to hand out, or room for results. */
  offered(call: Call): void;
  /** The call has ended; some of its items may be under way. */
  ended(call: Call): void;
}

/** How fast a job has been lately, and what follows for its chunks. */
interface Pace {
  /** Milliseconds per item, hand-over included. */
  perItem: number;
  chunkSize: number;
}

/** An open call: pulls its input, hands out tasks, takes their outcomes. */
abstract class Call {
  readonly job: string;
  readonly spread: boolean;
  readonly options: CallOptions;
  readonly pace: Pace;
  protected readonly pool: Dispatcher;
  /** Tasks that were pulled, or came back, and wait to be handed out. */
  protected waiting: Task[] = [];
  protected pulled = 0;
  protected answered = 0;
  exhausted = false;
  ended = false;
  /** Its signal was aborted while it was open. */
  aborted = false;
  /** Halved while an item is looked for that cannot be cloned. */
  chunkLimit = Infinity;
  /** The pool is closing: nothing bounds the look-ahead any more. */
  unbounded = false;
  readonly #iterator: Iterator<unknown> | AsyncIterator<unknown>;
  readonly #async: boolean;
  #pulling = false;
  /** The input was told that it is not wanted any more, or has ended. */
  #closed = false;

  constructor(pool: Dispatcher, pace: Pace, request: CallRequest) {
    const { job, items, spread = false, options = {} } = request;
    this.pool = pool;
    this.pace = pace;
    this.job = job;
    this.spread = spread;
    this.options = options;
    this.#async = isAsync(items);
    this.#iterator = isAsync(items)
      ? items[Symbol.asyncIterator]()
      : items[Symbol.iterator]();
  }

  protected abstract readonly chunkMax: number;
  /** How many more items may be pulled now. */
  protected abstract room(): number;
  /** Takes note of a result or an error; they come in any order. */
  protected abstract noted(index: number, value: unknown, bad: boolean): void;
  /** The input threw. */
  protected abstract inputFailed(error: unknown): void;
  /** All results are in, or the call cannot go on. */
  protected abstract finished(failure?: { error: unknown }): void;

  /** How many items make a chunk at present. */
  get chunkSize(): number {
    // What is moved is gone where its message fails, so it travels alone.
    if (this.options.transfer) return 1;
    const size = this.options.chunkSize ??
      Math.min(this.chunkMax, this.pace.chunkSize);
    return Math.min(size, this.chunkLimit);
  }

  /** How many items keep all workers busy: two chunks for each lane. */
  get capacity(): number {
    return 2 * this.pool.lanes * this.chunkSize;
  }

  /** How many tasks wait to be handed out. */
  get queued(): number {
    return this.waiting.length;
  }

  /** How many tasks are with workers. */
  get underWay(): number {
    return this.pulled - this.waiting.length - this.answered;
  }

  /** Whether it can hand out more at once, without offering again. */
  get hasMore(): boolean {
    if (this.waiting.length > 0) return true;
    return !this.#async && !this.exhausted && !this.ended && this.room() > 0;
  }

  /** Has up to `count` tasks wait, as far as there are any now. */
  prepare(count: number): number {
    if (!this.#async) this.#pull(count);
    else if (!this.#pulling) this.#pullAsync();
    return this.waiting.length;
  }

  /** Hands out up to `count` tasks; fewer where there are no more now. */
  take(count: number): Task[] {
    if (this.prepare(count) > count) return this.waiting.splice(0, count);
    const tasks = this.waiting;
    this.waiting = [];
    return tasks;
  }

  /** Takes tasks back that no worker has begun. */
  returned(tasks: Task[]): void {
    if (this.ended) return;
    this.waiting = tasks.concat(this.waiting);
    this.pool.offered(this);
  }

  /** Takes a result, or an error where `bad`; the last one ends the call. */
  settled(task: Task, value: unknown, bad = false): void {
    if (this.ended || task.over) return;
    task.over = true;
    this.answered++;
    this.noted(task.index, value, bad);
    if (this.exhausted && this.answered === this.pulled) this.end();
  }

  /** Takes the error of a task; tells whether that is final. */
  missed(task: Task, error: unknown): boolean {
    const { retries = 0, transfer } = this.options;
    if (task.tries >= retries || transfer) {
      this.settled(task, error, true);
      return true;
    }
    if (!task.over) {
      task.over = true;
      this.returned([{ ...task, tries: task.tries + 1, over: false }]);
    }
    return false;
  }

  /** Ends the call with an error; what has not begun is never run. */
  fail(error: unknown): void {
    this.end({ error });
  }

  /** Ends the call: all results are in, or nobody wants any more. */
  end(failure?: { error: unknown }): void {
    if (this.ended) return;
    this.ended = true;
    this.waiting = [];
    this.pool.ended(this);
    this.closeInput();
    this.finished(failure);
  }

  #pull(count: number): void {
    if (this.#pulling) return;
    this.#pulling = true;
    const room = Math.min(count - this.waiting.length, this.room());
    try {
      for (let i = 0; i < room && !this.exhausted && !this.ended; i++) {
        this.#arrived((this.#iterator as Iterator<unknown>).next());
      }
    } catch (error) {
      this.inputFailed(error);
    }
    this.#pulling = false;
    // What the input did may have ended the call: it could not be closed then.
    if (this.ended) this.closeInput();
  }

  async #pullAsync(): Promise<void> {
    this.#pulling = true;
    try {
      while (
        !this.exhausted && !this.ended && this.room() > 0 &&
        this.waiting.length < this.capacity
      ) {
        this.#arrived(await this.#iterator.next());
        // A worker that is free takes the first; the rest gathers meanwhile.
        const { length } = this.waiting;
        if (length === 1 || length === this.chunkSize) this.pool.offered(this);
      }
    } catch (error) {
      this.inputFailed(error);
    } finally {
      this.#pulling = false;
    }
  }

  #arrived({ done, value }: IteratorResult<unknown>): void {
    if (done) this.#closed = true;
    if (this.ended) return; // by what the input did meanwhile
    if (done) return this.exhaust();
    const index = this.pulled++;
    this.waiting.push(
      { call: this, index, item: value, tries: 0, over: false },
    );
  }

  /** Pulls nothing more; ends the call if all results are in. */
  protected exhaust(): void {
    this.exhausted = true;
    if (this.answered === this.pulled) this.end();
  }

  protected closeInput(): void {
    this.exhausted = true;
    if (this.#closed || (this.#pulling && !this.#async)) return;
    this.#closed = true;
    try {
      // Not awaited: an input that is stuck must not hold up its consumer.
      Promise.resolve(this.#iterator.return?.()).catch(() => {});
    } catch {
      // The call has its own error already, or nobody is there to hear.
    }
  }
}

/** A call that gathers all results: `apply`, `map`, `starmap`. */
class Batch extends Call {
  readonly #results: unknown[] = [];
  readonly promise = Promise.withResolvers<unknown[]>();

  protected override readonly chunkMax = CHUNK_MAX;

  protected override room(): number {
    return Infinity;
  }

  protected override noted(index: number, value: unknown, bad: boolean): void {
    const results = this.#results;
    // Written far beyond its end, an array turns into a slow table (measured:
    // a third of the time of a map over numbers).
    while (results.length < index) results.push(undefined);
    if (this.options.settle) results[index] = outcome(value, bad);
    else if (bad) this.fail(value);
    else results[index] = value;
  }

  protected override inputFailed(error: unknown): void {
    this.fail(error);
  }

  protected override finished(failure?: { error: unknown }): void {
    if (failure) this.promise.reject(failure.error);
    else this.promise.resolve(this.#results);
  }
}

/** A call whose results are consumed one by one: `imap`, `imapUnordered`. */
class Stream extends Call {
  protected override readonly chunkMax = STREAM_CHUNK_MAX;
  readonly #unordered: boolean;
  /** By index; where the order does not matter, as they came. */
  readonly #unread = new Map<number, { value: unknown; bad: boolean }>();
  #arrivals = 0;
  #read = 0;
  #failure?: { error: unknown };
  #wake?: () => void;

  constructor(pool: Dispatcher, pace: Pace, request: CallRequest) {
    super(pool, pace, request);
    this.#unordered = request.unordered ?? false;
  }

  protected override room(): number {
    if (this.unbounded) return Infinity;
    // It starts slowly: no further ahead than as much again as has been read.
    const ahead = Math.min(this.capacity, this.#read + this.pool.lanes);
    return ahead - (this.pulled - this.#read);
  }

  protected override noted(index: number, value: unknown, bad: boolean): void {
    const place = this.#unordered ? this.#arrivals++ : index;
    this.#unread.set(place, { value, bad });
    this.#wake?.();
  }

  /** The error's place is after the items that came before it. */
  protected override inputFailed(error: unknown): void {
    if (this.ended) return;
    this.#failure = { error };
    this.closeInput();
    this.exhaust();
  }

  protected override finished(failure?: { error: unknown }): void {
    if (failure) {
      this.#failure = failure;
      this.#unread.clear();
    }
    this.#wake?.();
  }

  /** Yields outcomes until the input is used up; leaving early ends the call. */
  async *read(begin: () => void): AsyncGenerator<unknown, void, void> {
    begin();
    try {
      for (;;) {
        const result = this.#next();
        if (result === undefined) {
          if (this.ended && this.#failure) throw this.#failure.error;
          if (this.ended) return;
          // First, as the input may fail while it is pulled by the offer.
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#wake = resolve;
          this.pool.offered(this);
          await promise;
        } else if (this.options.settle) {
          yield outcome(result.value, result.bad);
        } else if (result.bad) throw result.value;
        else yield result.value;
      }
    } finally {
      this.end();
    }
  }

  #next(): { value: unknown; bad: boolean } | undefined {
    const result = this.#unread.get(this.#read);
    if (!result) return;
    this.#unread.delete(this.#read++);
    // Room for a whole chunk is worth a message; less is not.
    if (!this.exhausted && this.room() >= this.chunkSize) {
      this.pool.offered(this);
    }
    return result;
  }
}

function outcome(value: unknown, bad: boolean): PromiseSettledResult<unknown> {
  return bad
    ? { status: "rejected", reason: value }
    : { status: "fulfilled", value };
}

/** A worker as the pool sees it, from its start to its end. */
class Hand {
  readonly id: number;
  readonly board: Board;
  worker?: Worker;
  port?: MessagePort;
  /** Fulfils when the worker holds its lock, or nobody waits for that. */
  readonly greeted = Promise.withResolvers<void>();
  ready = false;
  /** What is with the worker, in the order sent: one per lane, and one ahead. */
  readonly chunks: Chunk[] = [];
  /** How many items it was given, less those that were taken back. */
  given = 0;
  /** It is given nothing more. */
  retired = false;
  /** It was told to stop, and has not come back yet. */
  stuck = false;
  /** It was ended, but its thread goes on. */
  late = false;
  /** The uncaught error that it is ending of. */
  cause: unknown;
  /** To be added to the worker's time for the pool's, in ms. */
  skew = 0;
  /** When it was sent `start`, in milliseconds since the epoch. */
  greetedAt = 0;
  /** When it was ready, when it last became busy, how long it was before. */
  born = 0;
  busySince = 0;
  busy = 0;
  /** Of its start, or its silence. */
  alarm?: Alarm;
  /** It has ended by itself; until what it sent before has arrived. */
  death?: ReturnType<typeof setTimeout>;
  /** Until an item may be timed out. */
  watchdog?: ReturnType<typeof setTimeout>;
  /** Until it has been idle for too long. */
  idle?: ReturnType<typeof setTimeout>;
  /** Withdraws the request for its lock; pending, it holds up the process. */
  readonly watch = new AbortController();
  /** Fulfils when its lock is free: with true unless that was withdrawn. */
  gone: Promise<boolean> = Promise.resolve(false);
  /** Fulfils when nothing of it is left, or nobody waits for that. */
  ended?: Promise<void>;

  constructor(id: number, slots: number) {
    this.id = id;
    const shared = new SharedArrayBuffer(16 * slots);
    this.board = {
      starts: new Float64Array(shared, 0, slots),
      claims: new Int32Array(shared, 8 * slots, slots),
      cancels: new Int32Array(shared, 12 * slots, slots),
    };
  }

  get freeSlot(): number {
    let slot = 0;
    while (this.chunks.some((chunk) => chunk.slot === slot)) slot++;
    return slot;
  }

  /** How many items of a chunk the worker has claimed, or one more at its end. */
  claimed({ slot }: Chunk): number {
    return Atomics.load(this.board.claims, slot) % REVOKED;
  }

  /** How many items of a chunk the worker has not claimed yet. */
  unclaimed(chunk: Chunk): number {
    return Math.max(0, chunk.tasks.length - this.claimed(chunk));
  }

  /**
   * Takes back what the worker has not claimed of a chunk. From here on it
   * cannot claim any more of it.
   */
  revoke({ slot, tasks }: Chunk): Task[] {
    const { claims } = this.board;
    if (Atomics.load(claims, slot) >= REVOKED) return [];
    const back = tasks.splice(Atomics.add(claims, slot, REVOKED));
    this.given -= back.length;
    return back;
  }

  /** Ends the worker; fulfils when its thread is gone, or nobody waits. */
  async end(): Promise<void> {
    this.alarm?.cancel();
    for (const { grace } of this.chunks) cancel(grace);
    const { death, watchdog, idle } = this;
    for (const each of [death, watchdog, idle]) cancel(each);
    // One that is just starting would take its lock after it was ended.
    await this.greeted.promise;
    this.worker?.terminate();
    this.port?.close();
    await this.gone;
  }

  /** Waits no more for the thread. */
  forget(): void {
    this.greeted.resolve();
    this.watch.abort();
  }
}

/**
 * Rings after a while, in ms, unless that is cancelled. Deno takes 13 ms to load
 * `setTimeout` at its first use, `clearTimeout` too, half of what it takes to
 * start a worker: so that is left to those who need many timers. An alarm that
 * was cancelled is forgotten only when its time has come.
 */
class Alarm {
  readonly #signal: AbortSignal;
  readonly #ring: () => void;

  constructor(ms: number, ring: () => void) {
    this.#signal = AbortSignal.timeout(ms);
    this.#ring = ring;
    this.#signal.addEventListener("abort", ring);
  }

  cancel(): void {
    this.#signal.removeEventListener("abort", this.#ring);
  }
}

/** Cancels a timer, and loads none where there is none. */
function cancel(timer?: ReturnType<typeof setTimeout>): void {
  if (timer !== undefined) clearTimeout(timer);
}

/**
 * Runs the jobs of a service in workers.
 *
 * Workers are started when there is work for them, up to `size`. A worker that
 * dies takes the item that it was running with it, as a
 * {@linkcode WorkerLostError} (and what it had finished but not yet reported,
 * at most some 4 ms of short items); what it had not begun goes to others, and
 * the next worker to be needed is a new one. Neither a job that exits nor a
 * module that does not load holds up a pool. A job that never returns does,
 * unless its call has a `timeout`, or a `signal` that is aborted.
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
  readonly #url: string;
  readonly #jobs?: Jobs;
  readonly #options: PoolOptions;
  readonly #concurrency: number;
  readonly #dispatcher: Dispatcher;
  readonly #hands = new Set<Hand>();
  /** Workers that are no longer of the pool, but not quite gone. */
  readonly #leaving = new Set<Hand>();
  readonly #paces = new Map<string, Pace>();
  /** All calls that have not ended. */
  readonly #calls = new Set<Call>();
  /** Those of them that may have tasks to hand out, next one first. */
  readonly #offers = new Set<Call>();
  /** One listener a signal: ten thousand on one took a third of a second. */
  readonly #signals = new Map<AbortSignal, Set<Call>>();
  readonly #counts = { done: 0, failed: 0, lost: 0 };
  #state: "open" | "closing" | "closed" = "open";
  /** Of a pool that takes no more calls: the last one has ended. */
  readonly #drained = Promise.withResolvers<void>();
  #dismissed?: Promise<void>;
  #dispatching = false;
  #dispatchAgain = false;
  #started = 0;
  /** Workers that did not start; they are not tried again for ever. */
  #failedStarts = 0;
  /** Workers in a row that ended before they began an item. */
  #unused = 0;
  #stealTimer?: ReturnType<typeof setTimeout>;

  /**
   * Makes a pool; its workers start with the first calls.
   *
   * @param service What {@linkcode serve} returned, or the module's URL
   * @param options See {@linkcode PoolOptions}
   * @throws {RangeError} If an option is out of range
   * @throws {TypeError} If `service` is neither a service nor an absolute URL,
   * or an option is unknown or of the wrong type
   * @throws {DOMException} If `init` cannot be cloned ("DataCloneError")
   */
  constructor(service: Service<J> | URL | string, options: PoolOptions = {}) {
    super();
    const given = typeof service === "object" && "jobs" in service;
    this.#url = new URL(given ? service.url : service).href;
    if (given) this.#jobs = service.jobs;
    check("make a pool", options, POOL_OPTIONS);
    structuredClone(options.init);
    const { size = navigator.hardwareConcurrency, concurrency = 1 } = options;
    this.size = size;
    this.#concurrency = concurrency;
    this.#options = options;
    this.#dispatcher = {
      lanes: size * concurrency,
      offered: (call) => this.#offered(call),
      ended: (call) => this.#ended(call),
    };
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
    const hands = [...this.#hands];
    const now = performance.now();
    let queued = 0;
    for (const call of this.#calls) queued += call.queued;
    for (const hand of hands) {
      for (const chunk of hand.chunks) queued += hand.unclaimed(chunk);
    }
    return {
      size: this.size,
      busy: hands.filter((hand) => hand.chunks.length > 0).length,
      queued,
      ...this.#counts,
      stuck: this.#stuck().length,
      workers: hands.filter((hand) => hand.ready).map((hand) => {
        const since = hand.chunks.length > 0 ? now - hand.busySince : 0;
        return {
          worker: hand.id,
          busy: Math.min(1, (hand.busy + since) / (now - hand.born || 1)),
        };
      }),
    };
  }

  /** Lets outstanding calls finish and ends the workers. */
  override async close(): Promise<void> {
    if (this.#state === "open") this.#state = "closing";
    for (const call of this.#calls) {
      call.unbounded = true;
      this.#offered(call);
    }
    if (this.#calls.size === 0) this.#drained.resolve();
    await this.#drained.promise;
    await this.#dismiss();
  }

  /** Rejects outstanding calls and ends the workers now. */
  override async terminate(): Promise<void> {
    this.#state = "closed";
    const error = terminatedError();
    for (const call of this.#calls) call.fail(error);
    await this.#dismiss();
  }

  // Submitted

  /** Puts a call into the pool that gathers its results. */
  // deno-lint-ignore no-explicit-any
  protected override gather(request: CallRequest): Promise<any[]> {
    // Not async: of ten thousand calls at once each promise is felt (a fifth).
    try {
      this.#check(request);
      const pace = this.#pace(request.job);
      const call = new Batch(this.#dispatcher, pace, request);
      this.#submitted(call);
      return call.promise.promise;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Puts a call into the pool that is read one by one. */
  protected override stream(
    request: CallRequest,
    // deno-lint-ignore no-explicit-any
  ): AsyncGenerator<any, void, void> {
    this.#check(request);
    const pace = this.#pace(request.job);
    const call = new Stream(this.#dispatcher, pace, request);
    return call.read(() => this.#submitted(call));
  }

  #check(request: CallRequest): void {
    checkCall(request, this.#jobs);
    if (this.#state !== "open") throw closedError(request.job, this.#state);
  }

  #submitted(call: Call): void {
    const { signal } = call.options;
    this.#calls.add(call);
    if (signal) this.#listen(call, signal);
    // It may have been closed since the call was made, or by its input.
    if (this.#state !== "open") call.fail(closedError(call.job, this.#state));
    else if (signal?.aborted) call.fail(signal.reason);
    else this.#offered(call);
  }

  #offered(call: Call): void {
    this.#offers.add(call);
    this.#dispatch();
  }

  // Handing out

  #pace(job: string): Pace {
    let pace = this.#paces.get(job);
    if (!pace) {
      // Unknown is slow: nothing is sent ahead, one item at a time.
      this.#paces.set(job, pace = { perItem: Infinity, chunkSize: 1 });
    }
    return pace;
  }

  #dispatch(): void {
    // An input that is pulled here may use the pool itself, and get here again
    // while a worker is half served.
    this.#dispatchAgain = true;
    if (this.#dispatching) return;
    this.#dispatching = true;
    try {
      while (this.#dispatchAgain) {
        this.#dispatchAgain = false;
        this.#handOut();
      }
    } finally {
      this.#dispatching = false;
    }
  }

  /** Idle workers first, then new ones, then what can be sent ahead. */
  #handOut(): void {
    for (let full = 0; full <= this.#concurrency; full++) {
      for (const hand of this.#hands) {
        if (this.#offers.size === 0) break;
        if (hand.ready && hand.chunks.length === full) this.#feed(hand);
      }
      if (full === 0) this.#hire();
    }
    if (this.#offers.size === 0) this.#balance();
  }

  /** Starts workers for the tasks that find none, up to the pool's size. */
  #hire(): void {
    if (this.#offers.size === 0) return;
    const stuck = this.#stuck();
    // Threads that may run for ever bound the new ones, or the pool would grow.
    if (stuck.length >= Math.max(2, this.size)) {
      if (this.#hands.size === 0 && stuck.every(({ late }) => late)) {
        const why = `${stuck.length} jobs were cancelled and do not end`;
        this.#giveUp(stuck[0].cause ?? new Error(why));
      }
      return;
    }
    let starting = 0;
    for (const hand of this.#hands) if (!hand.ready) starting++;
    while (
      this.#hands.size + this.#failedStarts < this.size &&
      this.#waiting(starting + 1) > starting
    ) {
      this.#start();
      starting++;
    }
  }

  #stuck(): Hand[] {
    const hands = [...this.#hands, ...this.#leaving];
    return hands.filter(({ stuck }) => stuck);
  }

  /** Counts waiting tasks, no further than `enough`. */
  #waiting(enough: number): number {
    let count = 0;
    for (const call of this.#offers) {
      count += call.prepare(enough);
      if (count >= enough) break;
    }
    return count;
  }

  #feed(hand: Hand): void {
    const { maxTasksPerWorker = Infinity } = this.#options;
    const most = hand.retired ? 0 : maxTasksPerWorker - hand.given;
    const ahead = hand.chunks.length === this.#concurrency;
    const tasks = most > 0 ? this.#nextTasks(most, ahead) : [];
    if (tasks.length > 0) this.#send(hand, tasks);
  }

  /**
   * Takes the next chunk of tasks. Calls take turns; small ones of the same job
   * share a message. Ahead of need only what is so short that a hand-over
   * would show: a long item must not wait behind a busy worker.
   */
  #nextTasks(most: number, ahead: boolean): Task[] {
    const tasks: Task[] = [];
    for (const call of this.#offers) {
      const size = Math.min(call.chunkSize, most);
      if (ahead) {
        // What was moved cannot be taken back, should it wait for long.
        const isShort = size * call.pace.perItem <= 2 * CHUNK_MS;
        if (!isShort || call.options.transfer) continue;
        if (call.prepare(size) < size && !call.exhausted) continue;
      }
      if (tasks.length > 0 && !canShare(tasks[0].call, call)) break;
      const taken = call.take(size - tasks.length);
      for (const task of taken) tasks.push(task);
      // To the back; what has nothing now will offer again.
      this.#offers.delete(call);
      if (call.hasMore) this.#offers.add(call);
      if (tasks.length >= size) break;
    }
    return tasks;
  }

  #send(hand: Hand, tasks: Task[]): void {
    const { board, freeSlot: slot } = hand;
    const { call } = tasks[0];
    const { job, spread, options: { transfer } } = call;
    const items = tasks.map((task) => task.item);
    let timeout = Infinity;
    let prompt = items.length <= PROMPT_MAX;
    for (const { call: { options } } of tasks) {
      // What is done must not wait for what may have to be given up.
      if (options.timeout || options.signal) prompt = true;
      if (options.timeout) timeout = Math.min(timeout, options.timeout);
    }
    const timed = timeout < Infinity || this.#options.onTask !== undefined;
    const sent = performance.now();
    Atomics.store(board.claims, slot, 0);
    Atomics.store(board.cancels, slot, 0);
    try {
      const moved = transfer ? items.flatMap((item) => transfer(item)) : [];
      const message: Run = {
        type: "run",
        slot,
        job,
        spread,
        items,
        timed,
        prompt,
      };
      post(hand.port!, message, moved);
    } catch (error) {
      this.#dispatchAgain = true; // for the worker is free still
      return this.#notSent(tasks, error);
    }
    if (hand.chunks.length === 0) hand.busySince = sent;
    hand.given += tasks.length;
    hand.chunks.push({
      tasks,
      call,
      slot,
      answered: 0,
      sent,
      sending: performance.now() - sent,
      timeout,
    });
    cancel(hand.idle);
    if (timeout < Infinity) this.#watch(hand);
  }

  /** An item could not be cloned: alone, it fails; else it is looked for. */
  #notSent(tasks: Task[], error: unknown): void {
    const limit = tasks.length > 1 ? tasks.length >> 1 : Infinity;
    for (const { call } of tasks) call.chunkLimit = limit;
    if (tasks.length > 1) return this.#returned(tasks);
    const [{ call }] = tasks;
    this.#counts.failed++;
    call.settled(tasks[0], new JobError(call.job, tasks[0].index, error), true);
  }

  #returned(tasks: Task[]): void {
    for (const [call, own] of Map.groupBy(tasks, (task) => task.call)) {
      call.returned(own);
    }
  }

  /**
   * Takes items back from a busy worker for an idle one, when nothing else is
   * waiting: the chunk took longer than had been thought.
   */
  #balance(): void {
    cancel(this.#stealTimer);
    const isIdle = (hand: Hand) => hand.ready && hand.chunks.length === 0;
    if (!this.#hands.values().some(isIdle)) return;
    let most = 0;
    let from: { hand: Hand; chunk: Chunk } | undefined;
    for (const hand of this.#hands) {
      for (const chunk of hand.chunks) {
        const count = hand.unclaimed(chunk);
        const { transfer, chunkSize } = chunk.call.options;
        if (count <= most || transfer || chunkSize) continue;
        most = count;
        from = { hand, chunk };
      }
    }
    if (!from) return;
    const { chunk, hand } = from;
    const { pace } = chunk.call;
    const wait = chunk.sent + 2 * CHUNK_MS - performance.now();
    if (most * pace.perItem < STEAL_MS && wait > 0) {
      this.#stealTimer = setTimeout(() => this.#dispatch(), wait);
      return;
    }
    pace.chunkSize = Math.ceil(most / 2);
    this.#returned(hand.revoke(chunk));
  }

  // Started

  #start(): void {
    const hand = new Hand(++this.#started, this.#concurrency + 1);
    this.#hands.add(hand);
    const { name = "manyhands", startTimeout = 10_000, permissions } =
      this.#options;
    this.#expect(hand, startTimeout);
    try {
      const options: WorkerOptions & { deno?: unknown } = {
        type: "module",
        name: `${name} ${hand.id}`,
        ...permissions !== undefined && { deno: { permissions } },
      };
      hand.worker = new Worker(this.#url, options);
    } catch (error) {
      return this.#failed(hand, error);
    }
    hand.worker.onmessage = ({ data }) => {
      if (data?.type === "manyhands:hello") this.#greeted(hand, data);
    };
    hand.worker.onerror = (event) => {
      event.preventDefault(); // or it ends the program
      this.#failed(hand, hand.cause ?? new Error(event.message));
    };
  }

  #expect(hand: Hand, startTimeout: number): void {
    const due = performance.now() + startTimeout;
    hand.alarm = new Alarm(startTimeout, () => {
      // Not its fault, where this thread was blocked and could not answer.
      if (performance.now() > due + GRACE_MS) {
        return this.#expect(hand, startTimeout);
      }
      hand.cause = new Error(`it did not serve within ${startTimeout} ms`);
      hand.stuck = true; // until it greets after all
      this.#notStarted(hand);
    });
  }

  #greeted(hand: Hand, { lock }: Hello): void {
    const { signal } = hand.watch;
    hand.gone = locks().request(lock, { signal }, () => true)
      .catch(() => false);
    hand.greeted.resolve();
    if (!this.#hands.has(hand)) return;
    // A worker that ends by itself fires no event, but its lock is released.
    hand.gone.then((gone) => {
      if (gone && this.#hands.has(hand)) this.#died(hand);
    });
    const { port1, port2 } = new MessageChannel();
    hand.port = port1;
    hand.greetedAt = now();
    port1.onmessage = ({ data }) => this.#received(hand, data);
    const { board } = hand;
    const { init } = this.#options;
    const concurrency = this.#concurrency;
    const start: Start = {
      type: "manyhands:start",
      port: port2,
      init,
      board,
      concurrency,
    };
    hand.worker!.postMessage(start, [port2]);
  }

  #received(hand: Hand, message: Ready | Results | Crashed | Ping): void {
    if (!this.#hands.has(hand)) return;
    if (message.type === "results") this.#replied(hand, message);
    else if (message.type === "ready") this.#ready(hand, message);
    else if (message.type === "ping") hand.alarm?.cancel();
    else this.#failed(hand, revive(message.error));
    if (hand.death && this.#hands.has(hand)) this.#died(hand);
  }

  #ready(hand: Hand, { at }: Ready): void {
    hand.alarm?.cancel();
    hand.ready = true;
    this.#failedStarts = 0;
    // Both clocks count from the same epoch, unless the machine slept or its
    // time was set since the program began: `at` was between these two times.
    hand.skew = Math.max(hand.greetedAt - at, Math.min(now() - at, 0));
    hand.born = performance.now();
    this.#dispatch();
    this.#rest(hand);
  }

  /** Something in the worker threw where nobody could catch it. */
  #failed(hand: Hand, cause: unknown): void {
    hand.cause = cause;
    if (hand.ready) return; // it is ending, and its lock will tell
    hand.greeted.resolve(); // it is not waited for
    this.#notStarted(hand);
  }

  /** The others go on without it; where there are none, nothing can. */
  #notStarted(hand: Hand): void {
    if (!this.#remove(hand)) return;
    this.#failedStarts++;
    if (this.#hands.size === 0) this.#giveUp(hand.cause);
  }

  #giveUp(cause: unknown): void {
    this.#failedStarts = this.#unused = 0;
    const error = new WorkerStartError(this.#url, cause);
    for (const call of this.#calls) call.fail(error);
  }

  // Replied

  #replied(hand: Hand, results: Results): void {
    const chunk = hand.chunks.find(({ slot }) => slot === results.slot)!;
    const { values, failures, last } = results;
    const from = chunk.answered;
    chunk.answered += values.length;
    this.#unused = 0;
    if (values.length > 0) measure(chunk, results);
    if (last) this.#freed(hand, chunk);
    for (let i = 0; i < values.length; i++) {
      const task = chunk.tasks[from + i];
      if (task.over) continue; // it was timed out before
      const failure = failures?.get(i);
      this.#counts[failure ? "failed" : "done"]++;
      if (failure) {
        const { call, index } = task;
        const error = new JobError(call.job, index, revive(failure));
        call.settled(task, error, true);
      } else task.call.settled(task, values[i]);
    }
    this.#dispatch();
    this.#rest(hand);
    this.#tell(hand, chunk.tasks.slice(from, chunk.answered), results);
  }

  /** A lane of the worker is free; so is the worker, where it is to end. */
  #freed(hand: Hand, chunk: Chunk): void {
    hand.chunks.splice(hand.chunks.indexOf(chunk), 1);
    cancel(chunk.grace);
    hand.stuck = hand.chunks.some(({ grace }) => grace !== undefined);
    if (hand.chunks.length === 0) {
      hand.busy += performance.now() - hand.busySince;
      const { maxTasksPerWorker = Infinity } = this.#options;
      hand.retired ||= hand.given >= maxTasksPerWorker;
    }
    if (hand.retired && !hand.chunks.some(isWanted)) this.#remove(hand);
  }

  /** Lets a worker that found nothing to do end after a while. */
  #rest(hand: Hand): void {
    const { idleTimeout } = this.#options;
    cancel(hand.idle);
    if (idleTimeout === undefined || hand.chunks.length > 0) return;
    if (this.#hands.has(hand)) {
      hand.idle = setTimeout(() => this.#remove(hand), idleTimeout);
    }
  }

  #tell({ id, skew }: Hand, tasks: Task[], { times }: Results): void {
    const { onTask } = this.#options;
    if (!onTask) return;
    tasks.forEach(({ call: { job }, index }, i) => {
      const [start, end] = [times[2 * i] + skew, times[2 * i + 1] + skew];
      onTask({ worker: id, job, index, start, end });
    });
  }

  // Timed out, aborted

  /** Looks after the items that may run only so long, until there are none. */
  #watch(hand: Hand): void {
    cancel(hand.watchdog);
    let next = Infinity;
    for (const chunk of [...hand.chunks]) {
      const position = hand.claimed(chunk);
      const task = chunk.tasks[position - 1];
      const timeout = task && !task.over && task.call.options.timeout;
      // One that has no limit is followed by others that may.
      let left = chunk.timeout;
      if (timeout) {
        const start = hand.board.starts[chunk.slot] + hand.skew;
        left = start + timeout - now();
        if (left <= 0 && this.#timedOut(hand, chunk, position)) continue;
      }
      next = Math.min(next, Math.max(left, 1));
    }
    if (next === Infinity) return;
    hand.watchdog = setTimeout(() => this.#watch(hand), Math.ceil(next));
  }

  /** Cancels an item, unless it has ended in this moment. */
  #timedOut(hand: Hand, chunk: Chunk, position: number): boolean {
    const task = chunk.tasks[position - 1];
    const { call, index } = task;
    const back = hand.revoke(chunk);
    const isRunning = hand.claimed(chunk) === position;
    if (isRunning) {
      this.#stop(hand, chunk, position);
      if (call.missed(task, timeoutError(call, index))) this.#counts.failed++;
    }
    this.#returned(back);
    return isRunning;
  }

  readonly #aborted = ({ target }: Event): void => {
    const { reason } = target as AbortSignal;
    for (const call of this.#signals.get(target as AbortSignal)!) {
      call.aborted = true;
      call.fail(reason);
    }
  };

  #listen(call: Call, signal: AbortSignal): void {
    const calls = this.#signals.get(signal) ?? new Set();
    if (calls.size === 0) signal.addEventListener("abort", this.#aborted);
    this.#signals.set(signal, calls.add(call));
  }

  #unlisten(call: Call, signal: AbortSignal): void {
    const calls = this.#signals.get(signal);
    if (!calls?.delete(call) || calls.size > 0) return;
    this.#signals.delete(signal);
    signal.removeEventListener("abort", this.#aborted);
  }

  /** Tells the job at a position of a revoked chunk to end, and waits for it. */
  #stop(hand: Hand, chunk: Chunk, position: number): void {
    Atomics.store(hand.board.cancels, chunk.slot, position);
    hand.stuck = true;
    // What was sent while this thread was blocked comes before the last turn.
    chunk.grace ??= setTimeout(() => {
      chunk.grace = setTimeout(() => this.#overdue(hand));
    }, GRACE_MS);
  }

  /**
   * An item was cancelled and has not ended. Alone in its worker it ends with
   * it; what is beside it may end first, while the thread comes to its messages.
   */
  #overdue(hand: Hand): void {
    if (hand.death) return;
    hand.retired = true;
    this.#takeBack(hand);
    if (!hand.chunks.some(isWanted)) return this.#lost(hand);
    post(hand.port!, { type: "ping" });
    hand.alarm?.cancel();
    hand.alarm = new Alarm(SILENCE_MS, () => {
      hand.cause = new Error("a job beside it blocks the thread");
      this.#lost(hand);
    });
  }

  // Died

  /**
   * It has ended. What it sent before may take several turns of the loop to
   * arrive: it is lost after the first one without a message.
   */
  #died(hand: Hand): void {
    cancel(hand.death);
    // The first timer may be due already, as a message took its time; before
    // the second one is, the loop has looked for more.
    hand.death = setTimeout(() => {
      hand.death = setTimeout(() => {
        this.#counts.lost++;
        this.#lost(hand);
      });
    });
  }

  #lost(hand: Hand): void {
    const { cause = new Error("it ended before any job") } = hand;
    if (!hand.ready) return this.#failed(hand, cause);
    if (!this.#remove(hand)) return;
    // Those that end before they begin anything would be replaced for ever.
    const begun = hand.chunks.some((chunk) => hand.claimed(chunk) > 0);
    this.#unused = begun ? 0 : this.#unused + 1;
    if (this.#unused > UNUSED_MAX) this.#giveUp(cause);
    this.#takeBack(hand);
    for (const chunk of hand.chunks) {
      for (const task of chunk.tasks.slice(chunk.answered)) {
        const { call, index } = task;
        call.missed(task, new WorkerLostError(call.job, index, hand.cause));
      }
    }
    this.#dispatch();
  }

  /** Takes back all that a worker has not begun. */
  #takeBack(hand: Hand): void {
    for (const chunk of hand.chunks) {
      if (!chunk.call.options.transfer) this.#returned(hand.revoke(chunk));
    }
  }

  // Ended

  #ended(call: Call): void {
    this.#calls.delete(call);
    this.#offers.delete(call);
    if (call.options.signal) this.#unlisten(call, call.options.signal);
    if (call.underWay > 0) this.#withdraw(call);
    if (this.#state !== "open" && this.#calls.size === 0) {
      this.#drained.resolve();
    }
  }

  /** Keeps workers from beginning any more of a call that has ended. */
  #withdraw(call: Call): void {
    for (const hand of this.#hands) {
      for (const chunk of hand.chunks) {
        if (!chunk.tasks.some((task) => task.call === call)) continue;
        // First, so that the item that is running then is the last one.
        const back = hand.revoke(chunk);
        const position = hand.claimed(chunk);
        if (chunk.tasks[position - 1]?.call === call) {
          if (call.aborted) this.#stop(hand, chunk, position);
          else Atomics.store(hand.board.cancels, chunk.slot, position);
        }
        this.#returned(back);
      }
    }
  }

  #dismiss(): Promise<void> {
    return this.#dismissed ??= this.#endAll();
  }

  async #endAll(): Promise<void> {
    this.#state = "closed";
    cancel(this.#stealTimer);
    for (const hand of this.#hands) this.#remove(hand);
    const leaving = [...this.#leaving];
    for (const hand of leaving) if (hand.late) hand.forget();
    const alarm = new Alarm(END_MS, () => {
      for (const hand of leaving) hand.forget();
    });
    await Promise.all(leaving.map(({ ended }) => ended));
    alarm.cancel();
  }

  /** Takes a worker out of the pool; false if it was out already. */
  #remove(hand: Hand): boolean {
    if (!this.#hands.delete(hand)) return false;
    this.#leaving.add(hand);
    const alarm = new Alarm(LATE_MS, () => {
      hand.late = true;
      this.#dispatch();
    });
    hand.ended = hand.end().then(() => {
      alarm.cancel();
      this.#leaving.delete(hand);
      this.#dispatch();
    });
    return true;
  }
}

/** Fits the next chunks of a job to how long this one takes. */
function measure(chunk: Chunk, { elapsed }: Results): void {
  const { call: { pace }, tasks, answered, sending } = chunk;
  pace.perItem = elapsed / answered + sending / tasks.length;
  // Step by step, as the first items may be the short ones.
  const size = Math.min(
    CHUNK_MS / pace.perItem,
    SEND_MS * tasks.length / sending,
    Math.max(pace.chunkSize, 4 * tasks.length),
  );
  pace.chunkSize = Math.max(1, Math.min(CHUNK_MAX, Math.floor(size)));
}

/** Whether somebody waits for what is still to come of a chunk. */
function isWanted({ tasks, answered }: Chunk): boolean {
  return tasks.slice(answered).some(({ over, call }) => !over && !call.ended);
}

/** Whether single items of two calls can go in one message. */
function canShare(a: Call, b: Call): boolean {
  return a.job === b.job && a.spread === b.spread && !a.options.transfer &&
    !b.options.transfer &&
    a.options.chunkSize === b.options.chunkSize;
}

function isAsync(items: Items<unknown>): items is AsyncIterable<unknown> {
  return (items as AsyncIterable<unknown>)[Symbol.asyncIterator] !== undefined;
}

// Checks

/** What an option must be: of a type, or a whole number from … to …. */
type Rule = string | [least: number, most: number];

const COUNT: Rule = [1, Infinity];
const MILLISECONDS: Rule = [1, TIMER_MAX];
const SEQUENTIAL_OPTIONS: Record<string, Rule> = {
  init: "value",
  onTask: "function",
};
const POOL_OPTIONS: Record<string, Rule> = {
  ...SEQUENTIAL_OPTIONS,
  size: COUNT,
  concurrency: COUNT,
  idleTimeout: MILLISECONDS,
  maxTasksPerWorker: COUNT,
  name: "string",
  permissions: "value",
  startTimeout: MILLISECONDS,
};
const CALL_OPTIONS: Record<string, Rule> = {
  signal: "AbortSignal",
  timeout: MILLISECONDS,
  retries: [0, Infinity],
  chunkSize: COUNT,
  settle: "boolean",
  transfer: "function",
};

/** Refuses options that are unknown or wrong, naming option and value. */
function check(
  what: string,
  options: object,
  rules: Record<string, Rule>,
): void {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      `Cannot ${what} as 'options' must be an object: ` +
        `current value is ${textOf(options)}`,
    );
  }
  for (const [option, value] of Object.entries(options)) {
    if (!Object.hasOwn(rules, option)) {
      const known = Object.keys(rules).join(", ");
      throw new TypeError(
        `Cannot ${what} as '${option}' is not an option: there are ${known}`,
      );
    }
    const rule = rules[option];
    if (value === undefined || rule === "value" || fits(value, rule)) continue;
    const number = typeof value === "number" && typeof rule !== "string";
    const must = typeof rule === "string"
      ? `of type ${rule}`
      : `a whole number from ${rule[0]}` +
        (rule[1] < Infinity ? ` to ${rule[1]}` : "");
    throw new (number ? RangeError : TypeError)(
      `Cannot ${what} as '${option}' must be ${must}: ` +
        `current value is ${textOf(value)}`,
    );
  }
}

function fits(value: unknown, rule: Rule): boolean {
  if (rule === "AbortSignal") return value instanceof AbortSignal;
  const type = typeof value;
  if (typeof rule === "string") return type === rule;
  return Number.isInteger(value) && rule[0] <= (value as number) &&
    (value as number) <= rule[1];
}

function checkCall(
  { job, items, options = {} }: CallRequest,
  jobs?: Jobs,
): void {
  if (jobs && !Object.hasOwn(jobs, job)) throw unknownJob(jobs, job);
  check(`run '${job}'`, options, CALL_OPTIONS);
  const { [Symbol.iterator]: each, [Symbol.asyncIterator]: eachAsync } = Object(
    items,
  );
  if (each || eachAsync) return;
  throw new TypeError(
    `Cannot run '${job}' as 'items' must be iterable: ` +
      `current value is ${textOf(items)}`,
  );
}

// The calling thread's side

/**
 * Runs the jobs of a service on the calling thread, each call's one by one.
 *
 * It has the same methods as a {@linkcode Pool}, with the same results and
 * errors, so that what a pool brings can be measured against it. Nothing is
 * copied: a job gets the very items, and the caller the very results. Nothing
 * is computed ahead either: `close` does not wait for an `imap` that is being
 * read, which goes on as it is read. A job that blocks cannot be interrupted;
 * aborted or timed out, it is asked by {@linkcode cancelled} and otherwise
 * rejected at its end.
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

class Sequential<J extends Jobs> extends Runner<J> {
  readonly #service: Service<J>;
  readonly #options: SequentialOptions;
  readonly #running = new Set<Promise<unknown>>();
  readonly #terminated = new AbortController();
  #setUp?: Promise<unknown>;
  #closed = false;

  constructor(service: Service<J>, options: SequentialOptions) {
    super();
    check("run sequentially", options, SEQUENTIAL_OPTIONS);
    this.#service = service;
    this.#options = options;
  }

  override async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#running);
  }

  override terminate(): Promise<void> {
    this.#closed = true;
    this.#terminated.abort(terminatedError());
    return Promise.resolve();
  }

  // deno-lint-ignore no-explicit-any
  protected override async gather(request: CallRequest): Promise<any[]> {
    this.#check(request);
    const running = this.#gather(request);
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  async #gather(request: CallRequest): Promise<unknown[]> {
    const signals = this.#signals(request);
    await abortable(() => this.#ready(), signals);
    const results: unknown[] = [];
    const { items } = request;
    if (isAsync(items)) {
      for await (const item of pulled(items, signals)) {
        results.push(await this.#run(request, item, results.length));
      }
      return results;
    }
    // No await where a job needs none: it would flatter the pool.
    for (const item of items) {
      const result = this.#run(request, item, results.length);
      results.push(result instanceof Promise ? await result : result);
    }
    return results;
  }

  protected override stream(
    request: CallRequest,
    // deno-lint-ignore no-explicit-any
  ): AsyncGenerator<any, void, void> {
    this.#check(request);
    return this.#each(request);
  }

  async *#each(request: CallRequest): AsyncGenerator<unknown, void, void> {
    this.#check(request); // it may have been closed meanwhile
    const signals = this.#signals(request);
    await abortable(() => this.#ready(), signals);
    const { items } = request;
    let index = 0;
    if (isAsync(items)) {
      for await (const item of pulled(items, signals)) {
        yield await this.#run(request, item, index++);
      }
    } else {
      for (const item of items) yield await this.#run(request, item, index++);
    }
  }

  #check(request: CallRequest): void {
    checkCall(request, this.#service.jobs);
    if (this.#closed) throw closedError(request.job, "closed");
  }

  /** What may end a call before its time. */
  #signals({ options }: CallRequest): AbortSignal[] {
    const { signal } = this.#terminated;
    return options?.signal ? [signal, options.signal] : [signal];
  }

  async #ready(): Promise<void> {
    const { setup } = this.#service;
    await (this.#setUp ??=
      (async () => await setup?.(this.#options.init as never))());
  }

  /** Runs one item; gives a promise only where the job did. */
  #run(
    request: CallRequest,
    item: unknown,
    index: number,
    tries = 0,
  ): unknown {
    const { job, spread, options = {} } = request;
    const { settle, timeout = Infinity, retries = 0 } = options;
    const signals = this.#signals(request);
    for (const signal of signals) signal.throwIfAborted();
    const call = this.#service.jobs[job] as (...args: unknown[]) => unknown;
    const run = () => spread ? call(...item as unknown[]) : call(item);
    const start = now();
    let timedOut = false;
    const isLate = () => timedOut ||= now() - start > timeout;
    const isCancelled = () => isLate() || signals.some((s) => s.aborted);
    const ended = (value: unknown, bad = false): unknown => {
      this.#options.onTask?.({ worker: 0, job, index, start, end: now() });
      for (const signal of signals) signal.throwIfAborted();
      if (isLate() && tries < retries) {
        return this.#run(request, item, index, tries + 1);
      }
      if (isLate()) [value, bad] = [timeoutError(request, index), true];
      else if (bad) value = new JobError(job, index, value);
      if (settle) return outcome(value, bad);
      if (bad) throw value;
      return value;
    };
    let value: unknown;
    let result: Promise<unknown> | undefined;
    try {
      const alone = timeout === Infinity && !options.signal;
      value = alone ? run() : within(isCancelled, run);
      if (isThenable(value)) result = Promise.resolve(value);
    } catch (thrown) {
      return ended(thrown, true);
    }
    if (!result) return ended(value);
    const limit = new AbortController();
    const timer = timeout === Infinity ? undefined : setTimeout(() => {
      limit.abort(timedOut = true);
    }, timeout);
    return abortable(() => result, [...signals, limit.signal])
      .finally(() => cancel(timer))
      .then((value) => ended(value), (thrown) => ended(thrown, true));
  }
}

/** Pulls an input; an abort ends the wait for the next item, and closes it. */
async function* pulled(
  items: AsyncIterable<unknown>,
  signals: AbortSignal[],
): AsyncGenerator<unknown, void, void> {
  const iterator = items[Symbol.asyncIterator]();
  let open = true;
  try {
    for (;;) {
      const next = await abortable(
        async () => await iterator.next(),
        signals,
      );
      open = !next.done;
      if (next.done) return;
      yield next.value;
    }
  } finally {
    // Not awaited: an input that is stuck must not hold up its consumer.
    if (open) (async () => await iterator.return?.())().catch(() => {});
  }
}

/** Does some work, but rejects as soon as one of the signals is aborted. */
async function abortable<T>(
  work: () => Promise<T>,
  signals: AbortSignal[],
): Promise<T> {
  for (const signal of signals) signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = ({ target }: Event) => reject((target as AbortSignal).reason);
  for (const signal of signals) signal.addEventListener("abort", abort);
  try {
    return await Promise.race([work(), promise]);
  } finally {
    for (const signal of signals) signal.removeEventListener("abort", abort);
  }
}

/** The clock that all threads share: milliseconds since the epoch. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return value instanceof Object && "then" in value &&
    typeof value.then === "function";
}

function timeoutError(
  { job, options }: Pick<CallRequest, "job" | "options">,
  index: number,
): DOMException {
  return new DOMException(
    `Job '${job}' ran longer than ${options?.timeout} ms on item ${index}`,
    "TimeoutError",
  );
}

function closedError(job: string, state: string): DOMException {
  return new DOMException(
    `Cannot run '${job}' as the runner is ${state}`,
    "InvalidStateError",
  );
}

function terminatedError(): DOMException {
  return new DOMException("The runner was terminated", "AbortError");
}
