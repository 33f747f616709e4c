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
 * Idle workers pull work, so there is no strategy for choosing a worker and no
 * queue to replace. Deno's workers have no heap limit of their own: a job that
 * runs out of memory ends the whole process, so jobs bound what they hold.
 *
 * @module
 */

// What travels between the pool and a worker, all of it.
//
// A worker opens with `hello` and gets `start`, on the channel that every
// worker has. All else goes over the MessagePort in `start`: a port's round
// trip takes half as long.

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
  /** For each slot, how many items of the chunk in it have been claimed. */
  claims: Int32Array<SharedArrayBuffer>;
}

/** Worker to pool, once: `setup` has run. */
interface Ready {
  type: "ready";
}

/** Pool to worker: a chunk of items, to be run one after another. */
interface Run {
  type: "run";
  slot: number;
  job: string;
  /** Whether an item is the list of arguments or the only argument. */
  spread: boolean;
  items: unknown[];
  /** Whether `times` are wanted. */
  timed: boolean;
}

/** Worker to pool: what has been finished of a chunk since the last message. */
interface Results {
  type: "results";
  slot: number;
  values: unknown[];
  /** Which of the values are failures, by position. */
  failures: Map<number, Failure>;
  /** Start and end of every item, in milliseconds since the epoch. */
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

/** An error on the wire; a structured clone would lose its name and `code`. */
interface Failure {
  /** Absent where something else than an Error was thrown. */
  name?: string;
  message: string;
  stack?: string;
  /** The error's own other properties, or what was thrown instead of one. */
  value: unknown;
  cause?: Failure;
  /** Of an AggregateError. */
  errors?: Failure[];
}

/** How long a chunk should take, in ms: hand-over vanishes, balance does not. */
const CHUNK_MS = 4;
/** Above this many items a message gains nothing more (measured). */
const CHUNK_MAX = 4096;
/** The same where results are consumed one by one; it bounds the look-ahead. */
const STREAM_CHUNK_MAX = 256;
/** Idle workers leave a chunk alone that ends sooner than this, in ms. */
const STEAL_MS = 2;
/** Added to a claim counter, it ends the chunk: no item has such a position. */
const REVOKED = 2 ** 30;
/** The longest time of a timer, in ms; a longer one would fire at once. */
const TIMER_MAX = 2 ** 31 - 1;
/** How long to wait for an ended worker's thread; an endless loop has no end. */
const END_MS = 500;

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

/** What happened in a worker when, for {@linkcode PoolOptions.onTask}. */
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
  /** What the workers are called in debuggers and uncaught errors. */
  name?: string;
  /**
   * A structured-cloneable value for the module's `setup`, which runs once in
   * every worker before its first job.
   */
  init?: unknown;
  /**
   * How long a worker may take to load its module, in milliseconds, before it
   * is a {@linkcode WorkerStartError}. Default: 10,000.
   */
  startTimeout?: number;
}

/** Options for every method of a {@linkcode Runner}. */
export interface CallOptions {
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
   * a worker that dies.
   */
  // deno-lint-ignore no-explicit-any
  transfer?: (item: any) => Transferable[];
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

/** A call as a {@linkcode Runner} gets it. */
export interface CallRequest {
  /** The job's name. */
  job: string;
  /** What to run it on. */
  items: Items<unknown>;
  /** Whether an item is the list of arguments or the only argument. */
  spread: boolean;
  /** Whether the results are wanted in the order of the items. */
  ordered: boolean;
  /** See {@linkcode CallOptions}. */
  options: CallOptions;
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
   * @throws {DOMException} If the runner is terminated ("AbortError") or was
   * closed before ("InvalidStateError")
   * @throws {RangeError} If an option is out of range
   * @throws {TypeError} If there is no such job, or an option has a wrong type
   */
  async apply<
    K extends keyof J & string,
    const O extends CallOptions = Record<never, never>,
  >(
    job: K,
    args: Parameters<J[K]>,
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>> {
    const items = [args];
    const [result] = await this.gather(
      { job, items, spread: true, ordered: true, options: options ?? {} },
    );
    return result as Outcome<Result<J, K>, O>;
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
  async map<
    K extends keyof J & string,
    const O extends CallOptions = Record<never, never>,
  >(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    const results = await this.gather(
      { job, items, spread: false, ordered: true, options: options ?? {} },
    );
    return results as Outcome<Result<J, K>, O>[];
  }

  /**
   * Like `map`, for jobs of several arguments.
   *
   * @param job The job's name
   * @param items The lists of arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns One result for each list
   */
  async starmap<
    K extends keyof J & string,
    const O extends CallOptions = Record<never, never>,
  >(
    job: K,
    items: Items<Parameters<J[K]>>,
    options?: O,
  ): Promise<Outcome<Result<J, K>, O>[]> {
    const results = await this.gather(
      { job, items, spread: true, ordered: true, options: options ?? {} },
    );
    return results as Outcome<Result<J, K>, O>[];
  }

  /**
   * Runs a job on items pulled as they are needed and yields the results in
   * order.
   *
   * It begins with the first `next()`. A pool pulls no more than two chunks per
   * worker beyond what has been read, so that an endless input runs in constant
   * memory; only `close` lifts that bound. Leaving the loop early closes the
   * input, and nothing more of it is begun. It throws what `map` throws.
   *
   * @param job The job's name
   * @param items The arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns The results, one for each item
   */
  imap<
    K extends keyof J & string,
    const O extends CallOptions = Record<never, never>,
  >(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.stream(
      { job, items, spread: false, ordered: true, options: options ?? {} },
    ) as AsyncGenerator<Outcome<Result<J, K>, O>>;
  }

  /**
   * Like `imap`, but yields each result as soon as it is there.
   *
   * @param job The job's name
   * @param items The arguments, one for each run
   * @param options See {@linkcode CallOptions}
   * @returns The results, one for each item, in no particular order
   */
  imapUnordered<
    K extends keyof J & string,
    const O extends CallOptions = Record<never, never>,
  >(
    job: K,
    items: Items<Only<J[K]>>,
    options?: O,
  ): AsyncGenerator<Outcome<Result<J, K>, O>, void, void> {
    return this.stream(
      { job, items, spread: false, ordered: false, options: options ?? {} },
    ) as AsyncGenerator<Outcome<Result<J, K>, O>>;
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
   * the process; it is left behind.
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
  protected abstract gather(request: CallRequest): Promise<unknown[]>;

  /** Behind `imap` and `imapUnordered`: the results, as they are read. */
  protected abstract stream(
    request: CallRequest,
  ): AsyncGenerator<unknown, void, void>;
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
    if (!(thrown instanceof Error)) {
      return { message: textOf(thrown), value: cloneable(thrown) };
    }
    const own = Object.entries(thrown).map(([key, value]) =>
      [key, cloneable(value)] as const
    );
    const failure: Failure = {
      name: textOf(thrown.name),
      message: textOf(thrown.message),
      stack: textOf(thrown.stack),
      value: new Map(own),
    };
    if (depth === CAUSES_MAX) return failure;
    if (thrown.cause !== undefined) {
      failure.cause = describe(thrown.cause, depth + 1);
    }
    if (thrown instanceof AggregateError) {
      failure.errors = thrown.errors.map((error) => describe(error, depth + 1));
    }
    return failure;
  } catch { // a getter or a proxy that throws when it is looked at
    return { message: "unreadable", value: "what was thrown is unreadable" };
  }
}

/** Makes of that an error of the same class, where this thread has it. */
function revive(failure: Failure): unknown {
  const { name, message, stack, value, cause, errors } = failure;
  if (name === undefined) return value;
  const error = new Error(message);
  const known: unknown = Reflect.get(globalThis, name);
  // A DOMException's properties are getters, which want a real one.
  if (
    typeof known === "function" && known.prototype instanceof Error &&
    known !== DOMException
  ) {
    Object.setPrototypeOf(error, known.prototype);
  }
  const define = (key: string, value: unknown, enumerable = false) =>
    Object.defineProperty(error, key, {
      value,
      enumerable,
      configurable: true,
      writable: true,
    });
  define("name", name);
  define("stack", stack);
  if (cause) define("cause", revive(cause));
  if (errors) define("errors", errors.map(revive));
  const own = value as Map<string, unknown>;
  for (const [key, value] of own) define(key, value, true);
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
const locks = (navigator as unknown as { locks: LockManager }).locks;

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
  locks.request(lock, {}, () => {
    scope.postMessage({ type: "manyhands:hello", lock });
    return new Promise(() => {});
  });
}

function begin(
  scope: WorkerScope,
  service: Service<Jobs>,
  { port, init, claims }: Start,
): void {
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
  // One chunk after another, also where jobs are asynchronous.
  let running = Promise.resolve();
  port.onmessage = ({ data }: MessageEvent<Run>) => {
    running = running.then(() => runChunk(service.jobs, port, claims, data));
  };
  const ready = async () => {
    await service.setup?.(init as never);
    post(port, { type: "ready" });
  };
  ready(); // where it fails, the rejection is an uncaught error, as above
}

function post(
  port: MessagePort,
  message: Message,
  moved: Transferable[] = [],
): void {
  port.postMessage(message, moved);
}

/** Runs what it can claim of a chunk and reports every few milliseconds. */
async function runChunk(
  jobs: Jobs,
  port: MessagePort,
  claims: Int32Array,
  { slot, job, spread, items, timed }: Run,
): Promise<void> {
  const call = jobs[job] as (...args: unknown[]) => unknown;
  // In small chunks items are long, or the first: each is reported at once.
  // In large ones the clock costs more than an item: they share a look at it.
  const patience = items.length > 16 ? CHUNK_MS : 0;
  let clockEvery = items.length > 256 ? 16 : 1;
  const began = performance.now();
  let reported = began;
  const results = (): Results => ({
    type: "results",
    slot,
    values: [],
    failures: new Map(),
    times: [],
    elapsed: 0,
    last: false,
  });
  let done = results();
  // A claim and the pool's revocation are both one atomic addition to the same
  // counter, so that an item is either run here or returned there, never both.
  for (let i; (i = Atomics.add(claims, slot, 1)) < items.length;) {
    if (timed) done.times.push(now());
    try {
      if (!Object.hasOwn(jobs, job)) throw new TypeError(unknownJob(jobs, job));
      let value = spread ? call(...items[i] as unknown[]) : call(items[i]);
      if (isThenable(value)) value = await value;
      done.values.push(value);
    } catch (thrown) {
      done.failures.set(done.values.length, describe(thrown));
      done.values.push(undefined);
    }
    if (timed) done.times.push(now());
    if (i % clockEvery !== 0) continue;
    const at = performance.now();
    if (at - reported < patience || i + 1 === items.length) continue;
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

function unknownJob(jobs: Jobs, job: string): string {
  const names = Object.keys(jobs).join(", ");
  return `Cannot run '${job}' as the service has only: ${names}`;
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
    const failure = failures.get(i);
    report(port, {
      ...done,
      values: [value],
      failures: new Map(failure && [[0, failure]]),
      times: times.slice(2 * i, 2 * i + 2),
      last: done.last && i === values.length - 1,
    });
  });
}

// The pool's side

/** One item of a call on its way through the pool. */
interface Task {
  call: Call;
  index: number;
  item: unknown;
}

/** Items of one job that were sent to a worker together. */
interface Chunk {
  tasks: Task[];
  slot: number;
  /** How many results have arrived; they come in order. */
  answered: number;
  /** When it was sent, and how long that took, in ms. */
  sent: number;
  sending: number;
  revoked: boolean;
  /** Its items were moved to the worker, so they cannot be taken back. */
  moved: boolean;
}

/** What a call needs of its pool. */
interface Dispatcher {
  /** How many workers there are at most. */
  readonly size: number;
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
  protected exhausted = false;
  ended = false;
  /** Halved while an item is looked for that cannot be cloned. */
  chunkLimit = Infinity;
  /** The pool is closing: nothing bounds the look-ahead any more. */
  unbounded = false;
  readonly #iterator: Iterator<unknown> | AsyncIterator<unknown>;
  readonly #async: boolean;
  #pulling = false;

  constructor(pool: Dispatcher, pace: Pace, request: CallRequest) {
    this.pool = pool;
    this.pace = pace;
    this.job = request.job;
    this.spread = request.spread;
    this.options = request.options;
    this.#async = isAsync(request.items);
    this.#iterator = isAsync(request.items)
      ? request.items[Symbol.asyncIterator]()
      : request.items[Symbol.iterator]();
  }

  protected abstract readonly chunkMax: number;
  /** How many more items may be pulled now. */
  protected abstract room(): number;
  /** Takes note of a result or an error; they come in any order. */
  protected abstract noted(
    index: number,
    outcome: PromiseSettledResult<unknown>,
  ): void;
  /** All results are in. */
  protected abstract finished(): void;
  /** The call cannot go on. */
  protected abstract failed(error: unknown): void;

  /** How many items make a chunk at present. */
  get chunkSize(): number {
    // What is moved is gone where its message fails, so it travels alone.
    if (this.options.transfer) return 1;
    const size = this.options.chunkSize ??
      Math.min(this.chunkMax, this.pace.chunkSize);
    return Math.min(size, this.chunkLimit);
  }

  /** How many items keep all workers busy: two chunks each. */
  get capacity(): number {
    return 2 * this.pool.size * this.chunkSize;
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

  /** Whether it has so many tasks, or will never have. */
  fills(count: number): boolean {
    return this.prepare(count) >= count || this.exhausted;
  }

  /** Has up to `count` tasks wait, as far as there are any now. */
  prepare(count: number): number {
    if (!this.#async) this.#pull(count);
    else if (!this.#pulling) this.#pullAsync();
    return this.waiting.length;
  }

  /** Hands out up to `count` tasks; fewer where there are no more now. */
  take(count: number): Task[] {
    this.prepare(count);
    return this.waiting.splice(0, count);
  }

  /** Takes tasks back that no worker has begun. */
  returned(tasks: Task[]): void {
    if (this.ended) return;
    this.waiting = tasks.concat(this.waiting);
    this.pool.offered(this);
  }

  /** Takes the outcome of an item; the last one ends the call. */
  settled(index: number, outcome: PromiseSettledResult<unknown>): void {
    if (this.ended) return;
    this.noted(index, outcome);
    this.answered++;
    if (this.exhausted && this.answered === this.pulled) this.#finish();
  }

  /** Ends the call with an error; what has not begun is never run. */
  fail(error: unknown): void {
    if (this.ended) return;
    this.cancel();
    this.failed(error);
  }

  /** Ends the call: nothing more is pulled, and the input is told. */
  cancel(): void {
    if (this.ended) return;
    this.ended = true;
    this.waiting = [];
    this.pool.ended(this);
    if (!this.exhausted) this.#closeInput();
  }

  #finish(): void {
    if (this.ended) return;
    this.ended = true;
    this.pool.ended(this);
    this.finished();
  }

  #pull(count: number): void {
    const room = Math.min(count - this.waiting.length, this.room());
    try {
      for (let i = 0; i < room && !this.exhausted && !this.ended; i++) {
        this.#arrived((this.#iterator as Iterator<unknown>).next());
      }
    } catch (error) {
      this.fail(error);
    }
  }

  async #pullAsync(): Promise<void> {
    this.#pulling = true;
    try {
      while (
        !this.exhausted && !this.ended && this.room() > 0 &&
        this.waiting.length < this.capacity
      ) {
        const next = await this.#iterator.next();
        if (this.ended) return;
        this.#arrived(next);
        // A worker that is free takes the first; the rest gathers meanwhile.
        const { length } = this.waiting;
        if (length === 1 || length === this.chunkSize) this.pool.offered(this);
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.#pulling = false;
    }
  }

  #arrived(next: IteratorResult<unknown>): void {
    if (this.ended) return; // by what the input did meanwhile
    if (!next.done) {
      this.waiting.push({ call: this, index: this.pulled++, item: next.value });
      return;
    }
    this.exhausted = true;
    if (this.answered === this.pulled) this.#finish();
  }

  #closeInput(): void {
    this.exhausted = true;
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
  readonly #promise = Promise.withResolvers<unknown[]>();

  get results(): Promise<unknown[]> {
    return this.#promise.promise;
  }

  protected override readonly chunkMax = CHUNK_MAX;

  protected override room(): number {
    return Infinity;
  }

  protected override noted(
    index: number,
    outcome: PromiseSettledResult<unknown>,
  ): void {
    if (this.options.settle) this.#results[index] = outcome;
    else if (outcome.status === "fulfilled") {
      this.#results[index] = outcome.value;
    } else this.fail(outcome.reason);
  }

  protected override finished(): void {
    this.#promise.resolve(this.#results);
  }

  protected override failed(error: unknown): void {
    this.#promise.reject(error);
  }
}

/** A call whose results are consumed one by one: `imap`, `imapUnordered`. */
class Stream extends Call {
  protected override readonly chunkMax = STREAM_CHUNK_MAX;
  readonly #ordered: boolean;
  /** By index; where the order does not matter, as they came. */
  readonly #unread = new Map<number, PromiseSettledResult<unknown>>();
  #read = 0;
  #failure?: { error: unknown };
  #wake?: () => void;

  constructor(pool: Dispatcher, pace: Pace, request: CallRequest) {
    super(pool, pace, request);
    this.#ordered = request.ordered;
  }

  protected override room(): number {
    if (this.unbounded) return Infinity;
    // It starts slowly: no further ahead than as much again as has been read.
    const ahead = Math.min(this.capacity, this.#read + this.pool.size);
    return ahead - (this.pulled - this.#read);
  }

  protected override noted(
    index: number,
    outcome: PromiseSettledResult<unknown>,
  ): void {
    this.#unread.set(this.#ordered ? index : this.answered, outcome);
    this.#wake?.();
  }

  protected override finished(): void {
    this.#wake?.();
  }

  protected override failed(error: unknown): void {
    this.#failure = { error };
    this.#wake?.();
  }

  /** Yields outcomes until the input is used up; leaving early cancels. */
  async *read(begin: () => void): AsyncGenerator<unknown, void, void> {
    const { settle } = this.options;
    begin();
    try {
      for (;;) {
        const outcome = this.#next();
        if (outcome === undefined) {
          // Errors come after the results that were there before them.
          if (this.#failure) throw this.#failure.error;
          if (this.ended) return;
          // First, as the input may fail while it is pulled by the offer.
          const change = this.#change();
          this.pool.offered(this);
          await change;
        } else if (settle) yield outcome;
        else if (outcome.status === "rejected") throw outcome.reason;
        else yield outcome.value;
      }
    } finally {
      this.cancel();
    }
  }

  #next(): PromiseSettledResult<unknown> | undefined {
    const outcome = this.#unread.get(this.#read);
    if (!outcome) return;
    this.#unread.delete(this.#read++);
    // Room for a whole chunk is worth a message; less is not.
    if (!this.exhausted && this.room() >= this.chunkSize) {
      this.pool.offered(this);
    }
    return outcome;
  }

  #change(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    return promise;
  }
}

/** A worker as the pool sees it, from its start to its end. */
class Hand {
  readonly id: number;
  readonly claims = new Int32Array(new SharedArrayBuffer(8));
  worker?: Worker;
  port?: MessagePort;
  lock = "";
  /** Fulfils when the worker holds its lock. */
  readonly greeted = Promise.withResolvers<void>();
  ready = false;
  /** What is with the worker, in the order sent: one chunk, or one ahead. */
  readonly chunks: Chunk[] = [];
  /** Whether it ever began an item. */
  used = false;
  /** The uncaught error that it is ending of. */
  cause: unknown;
  /** Of its start, and of its end. */
  timer?: ReturnType<typeof setTimeout>;
  /** Withdraws the requests for its lock; pending, they hold up the process. */
  readonly watch = new AbortController();

  constructor(id: number) {
    this.id = id;
  }

  /**
   * Takes back what the worker has not claimed of a chunk. From here on it
   * cannot claim any more of it.
   */
  revoke(chunk: Chunk): Task[] {
    if (chunk.revoked) return [];
    chunk.revoked = true;
    const claimed = Atomics.add(this.claims, chunk.slot, REVOKED);
    return chunk.tasks.splice(claimed);
  }

  /** How many items of a chunk the worker has not claimed yet. */
  unclaimed(chunk: Chunk): number {
    const claimed = Atomics.load(this.claims, chunk.slot);
    return Math.max(0, chunk.tasks.length - claimed);
  }

  /** Ends the worker; fulfils when its thread is gone, or will not go. */
  async end(): Promise<void> {
    clearTimeout(this.timer);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, END_MS);
    // One that is just starting would take its lock after it was ended.
    await Promise.race([this.greeted.promise, late.promise]);
    this.worker?.terminate();
    this.port?.close();
    if (this.lock) await Promise.race([this.released(), late.promise]);
    clearTimeout(timer);
    this.watch.abort();
  }

  /** Tells when the worker has let go of its lock: true unless withdrawn. */
  released(): Promise<boolean> {
    const { signal } = this.watch;
    return locks.request(this.lock, { signal }, () => true).catch(() => false);
  }
}

/**
 * Runs the jobs of a service in workers.
 *
 * Workers are started when there is work for them, up to `size`. A worker that
 * dies takes the item that it was running with it, as a
 * {@linkcode WorkerLostError} (and what it had finished but not yet reported);
 * what it had not begun goes to others, and the next worker to be needed is a
 * new one. A pool that is neither closed nor terminated keeps the program
 * alive: use `await using`, which terminates it.
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
  readonly #dispatcher: Dispatcher;
  readonly #hands = new Set<Hand>();
  readonly #paces = new Map<string, Pace>();
  /** All calls that have not ended. */
  readonly #calls = new Set<Call>();
  /** Those of them that may have tasks to hand out, next one first. */
  readonly #offers = new Set<Call>();
  #state: "open" | "closing" | "closed" = "open";
  /** Of a pool that takes no more calls: the last one has ended. */
  readonly #drained = Promise.withResolvers<void>();
  #dismissed?: Promise<void>;
  #dispatching = false;
  #dispatchAgain = false;
  #started = 0;
  /** Workers that did not start; they are not tried again for ever. */
  #failedStarts = 0;
  #stealTimer?: ReturnType<typeof setTimeout>;
  /** Workers that are no longer of the pool, but not quite gone. */
  readonly #ending = new Set<Promise<void>>();

  /**
   * Makes a pool; its workers start with the first calls.
   *
   * @param service What {@linkcode serve} returned, or the module's URL
   * @param options See {@linkcode PoolOptions}
   * @throws {RangeError} If an option is out of range
   * @throws {TypeError} If `service` is neither a service nor an absolute URL,
   * or an option is of the wrong type
   * @throws {DOMException} If `init` cannot be cloned ("DataCloneError")
   */
  constructor(service: Service<J> | URL | string, options: PoolOptions = {}) {
    super();
    const given = typeof service === "object" && "jobs" in service;
    this.#url = new URL(given ? service.url : service).href;
    if (given) this.#jobs = service.jobs;
    const { size = navigator.hardwareConcurrency, startTimeout, init } =
      options;
    checkCount("make a pool", "size", size);
    checkCount("make a pool", "startTimeout", startTimeout, TIMER_MAX);
    checkType("make a pool", "onTask", options.onTask, "function");
    checkType("make a pool", "name", options.name, "string");
    structuredClone(init);
    this.size = size;
    this.#options = options;
    this.#dispatcher = {
      size,
      offered: (call) => this.#offered(call),
      ended: (call) => this.#ended(call),
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
  protected override async gather(request: CallRequest): Promise<unknown[]> {
    this.#check(request);
    const pace = this.#pace(request.job);
    const call = new Batch(this.#dispatcher, pace, request);
    this.#submitted(call);
    return await call.results;
  }

  /** Puts a call into the pool that is read one by one. */
  protected override stream(
    request: CallRequest,
  ): AsyncGenerator<unknown, void, void> {
    this.#check(request);
    const pace = this.#pace(request.job);
    const call = new Stream(this.#dispatcher, pace, request);
    return call.read(() => this.#submitted(call));
  }

  #check({ job, items, options }: CallRequest): void {
    if (this.#jobs) checkJob(this.#jobs, job);
    checkCall(job, items, options);
    if (this.#state !== "open") throw closedError(job, this.#state);
  }

  #submitted(call: Call): void {
    this.#calls.add(call);
    // It may have been closed since the call was made, or by its input.
    if (this.#state !== "open") call.fail(closedError(call.job, this.#state));
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

  #handOut(): void {
    for (const hand of this.#hands) {
      if (hand.ready && hand.chunks.length === 0) this.#feed(hand);
    }
    this.#hire();
    for (const hand of this.#hands) {
      if (hand.ready && hand.chunks.length === 1) this.#feed(hand);
    }
    if (this.#offers.size === 0) this.#balance();
  }

  /** Starts workers for the tasks that find none, up to the pool's size. */
  #hire(): void {
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
    const tasks = this.#nextTasks(hand.chunks.length > 0);
    if (tasks.length > 0) this.#send(hand, tasks);
  }

  /**
   * Takes the next chunk of tasks. Calls take turns; small ones of the same job
   * share a message. Ahead of need only what is so short that a hand-over
   * would show: a long item must not wait behind a busy worker.
   */
  #nextTasks(ahead: boolean): Task[] {
    const tasks: Task[] = [];
    for (const call of this.#offers) {
      const { chunkSize } = call;
      const isShort = chunkSize * call.pace.perItem <= 2 * CHUNK_MS;
      if (ahead && !(isShort && call.fills(chunkSize))) continue;
      if (tasks.length > 0 && !canShare(tasks[0].call, call)) break;
      const taken = call.take(chunkSize - tasks.length);
      for (const task of taken) tasks.push(task);
      // To the back; what has nothing now will offer again.
      this.#offers.delete(call);
      if (call.hasMore) this.#offers.add(call);
      if (tasks.length >= chunkSize) break;
    }
    return tasks;
  }

  #send(hand: Hand, tasks: Task[]): void {
    const { call: { job, spread, options: { transfer } } } = tasks[0];
    const slot = hand.chunks[0]?.slot === 0 ? 1 : 0;
    const items = tasks.map((task) => task.item);
    const timed = this.#options.onTask !== undefined;
    const sent = performance.now();
    Atomics.store(hand.claims, slot, 0);
    try {
      const moved = transfer ? items.flatMap(transfer) : [];
      post(hand.port!, { type: "run", slot, job, spread, items, timed }, moved);
    } catch (error) {
      this.#dispatchAgain = true; // for the worker is free still
      return this.#notSent(tasks, error);
    }
    hand.chunks.push({
      tasks,
      slot,
      answered: 0,
      sent,
      sending: performance.now() - sent,
      revoked: false,
      moved: transfer !== undefined,
    });
  }

  /** An item could not be cloned: alone, it fails; else it is looked for. */
  #notSent(tasks: Task[], error: unknown): void {
    const limit = tasks.length > 1 ? tasks.length >> 1 : Infinity;
    for (const { call } of tasks) call.chunkLimit = limit;
    if (tasks.length > 1) return this.#returned(tasks);
    const [{ call, index }] = tasks;
    const reason = new JobError(call.job, index, error);
    call.settled(index, { status: "rejected", reason });
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
    clearTimeout(this.#stealTimer);
    const idle = this.#hands.values().find((hand) =>
      hand.ready && hand.chunks.length === 0
    );
    if (!idle) return;
    let most = 0;
    let from: { hand: Hand; chunk: Chunk } | undefined;
    for (const hand of this.#hands) {
      for (const chunk of hand.chunks) {
        if (chunk.revoked || chunk.moved || hand.unclaimed(chunk) <= most) {
          continue;
        }
        most = hand.unclaimed(chunk);
        from = { hand, chunk };
      }
    }
    if (!from) return;
    const { perItem } = from.chunk.tasks[0].call.pace;
    const wait = from.chunk.sent + 2 * CHUNK_MS - performance.now();
    if (most * perItem < STEAL_MS && wait > 0) {
      this.#stealTimer = setTimeout(() => this.#dispatch(), wait);
      return;
    }
    this.#steal(idle, from.hand, from.chunk);
  }

  #steal(idle: Hand, hand: Hand, chunk: Chunk): void {
    const tasks = hand.revoke(chunk);
    if (tasks.length === 0) return; // claimed since they were counted
    this.#send(idle, tasks.splice(0, Math.ceil(tasks.length / 2)));
    this.#returned(tasks);
  }

  // Started

  #start(): void {
    const hand = new Hand(++this.#started);
    this.#hands.add(hand);
    const { name = "manyhands", startTimeout = 10_000 } = this.#options;
    hand.timer = setTimeout(() => {
      const late = `it did not serve within ${startTimeout} ms`;
      this.#notStarted(hand, new Error(late));
    }, startTimeout);
    try {
      hand.worker = new Worker(this.#url, {
        type: "module",
        name: `${name} ${hand.id}`,
      });
    } catch (error) {
      return this.#notStarted(hand, error);
    }
    hand.worker.onmessage = ({ data }) => {
      if (data?.type !== "manyhands:hello") return; // the module's own
      hand.lock = data.lock;
      hand.greeted.resolve();
      if (this.#hands.has(hand)) this.#greeted(hand);
    };
    hand.worker.onerror = (event) => {
      event.preventDefault(); // or it ends the program
      hand.cause ??= new Error(event.message);
      if (!hand.ready) this.#notStarted(hand, hand.cause);
    };
  }

  #greeted(hand: Hand): void {
    const { port1, port2 } = new MessageChannel();
    hand.port = port1;
    port1.onmessage = ({ data }) => this.#received(hand, data);
    const start: Start = {
      type: "manyhands:start",
      port: port2,
      init: this.#options.init,
      claims: hand.claims,
    };
    hand.worker!.postMessage(start, [port2]);
  }

  #received(hand: Hand, message: Ready | Results | Crashed): void {
    if (!this.#hands.has(hand)) return;
    if (message.type === "results") this.#replied(hand, message);
    else if (message.type === "ready") this.#ready(hand);
    else {
      hand.cause = revive(message.error);
      if (!hand.ready) this.#notStarted(hand, hand.cause);
    }
  }

  #ready(hand: Hand): void {
    clearTimeout(hand.timer);
    hand.ready = true;
    this.#failedStarts = 0;
    // A worker that ends by itself fires no event, but its lock is released.
    // What it sent before that is there then, but perhaps not delivered: one
    // in ten exits right after a reply lost it without this turn of the loop.
    hand.released().then((gone) => {
      if (!gone || !this.#hands.has(hand)) return;
      hand.timer = setTimeout(() => this.#lost(hand));
    });
    this.#dispatch();
  }

  #notStarted(hand: Hand, cause: unknown): void {
    hand.greeted.resolve(); // it is not waited for
    if (this.#remove(hand)) this.#failedStart(cause);
  }

  /** The others go on without it; where there are none, nothing can. */
  #failedStart(cause: unknown): void {
    this.#failedStarts++;
    if (this.#hands.size > 0) return;
    this.#failedStarts = 0;
    const error = new WorkerStartError(this.#url, cause);
    for (const call of this.#calls) call.fail(error);
  }

  // Replied

  #replied(hand: Hand, results: Results): void {
    const { slot, values, failures, times, last } = results;
    const chunk = hand.chunks.find((chunk) => chunk.slot === slot)!;
    const tasks = chunk.tasks.slice(
      chunk.answered,
      chunk.answered + values.length,
    );
    chunk.answered += values.length;
    hand.used = true;
    this.#failedStarts = 0;
    if (last) hand.chunks.splice(hand.chunks.indexOf(chunk), 1);
    if (tasks.length > 0) measure(tasks[0].call.pace, chunk, results);
    tasks.forEach(({ call, index }, i) => {
      const failure = failures.get(i);
      if (failure) {
        const reason = new JobError(call.job, index, revive(failure));
        call.settled(index, { status: "rejected", reason });
      } else call.settled(index, { status: "fulfilled", value: values[i] });
    });
    this.#dispatch();
    const { onTask } = this.#options;
    if (!onTask) return;
    tasks.forEach(({ call: { job }, index }, i) => {
      const [start, end] = [times[2 * i], times[2 * i + 1]];
      onTask({ worker: hand.id, job, index, start, end });
    });
  }

  // Died

  #lost(hand: Hand): void {
    if (!this.#remove(hand)) return;
    for (const chunk of hand.chunks) {
      const back = chunk.moved ? [] : hand.revoke(chunk);
      if (chunk.tasks.length > chunk.answered) hand.used = true;
      for (const { call, index } of chunk.tasks.slice(chunk.answered)) {
        const reason = new WorkerLostError(call.job, index, hand.cause);
        call.settled(index, { status: "rejected", reason });
      }
      this.#returned(back);
    }
    // One that ends before it begins anything would be replaced for ever.
    if (hand.used) this.#dispatch();
    else this.#failedStart(hand.cause ?? new Error("it ended before any job"));
  }

  // Ended

  #ended(call: Call): void {
    this.#calls.delete(call);
    this.#offers.delete(call);
    if (call.underWay > 0) this.#withdraw(call);
    if (this.#state !== "open" && this.#calls.size === 0) {
      this.#drained.resolve();
    }
  }

  /** Keeps workers from beginning any more of a call that has ended. */
  #withdraw(call: Call): void {
    for (const hand of this.#hands) {
      for (const chunk of hand.chunks) {
        if (chunk.tasks.some((task) => task.call === call)) {
          this.#returned(hand.revoke(chunk));
        }
      }
    }
  }

  #dismiss(): Promise<void> {
    return this.#dismissed ??= this.#endAll();
  }

  async #endAll(): Promise<void> {
    this.#state = "closed";
    clearTimeout(this.#stealTimer);
    for (const hand of this.#hands) this.#remove(hand);
    await Promise.all(this.#ending);
  }

  /** Takes a worker out of the pool; false if it was out already. */
  #remove(hand: Hand): boolean {
    if (!this.#hands.delete(hand)) return false;
    const ending = hand.end().then(() => void this.#ending.delete(ending));
    this.#ending.add(ending);
    return true;
  }
}

/** Fits the next chunks of a job to how long this one takes. */
function measure(pace: Pace, chunk: Chunk, { elapsed }: Results): void {
  pace.perItem = elapsed / chunk.answered + chunk.sending / chunk.tasks.length;
  // Step by step, as the first items may be the short ones.
  const size = Math.min(CHUNK_MS / pace.perItem, 4 * pace.chunkSize);
  pace.chunkSize = Math.max(1, Math.min(CHUNK_MAX, Math.floor(size)));
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

function checkJob(jobs: Jobs, job: string): void {
  if (!Object.hasOwn(jobs, job)) throw new TypeError(unknownJob(jobs, job));
}

function checkCall(job: string, items: unknown, options: CallOptions): void {
  const what = `run '${job}'`;
  checkCount(what, "chunkSize", options.chunkSize);
  checkType(what, "settle", options.settle, "boolean");
  checkType(what, "transfer", options.transfer, "function");
  const { [Symbol.iterator]: each, [Symbol.asyncIterator]: eachAsync } = Object(
    items,
  );
  if (each || eachAsync) return;
  throw new TypeError(
    `Cannot run '${job}' as 'items' must be iterable: ` +
      `current value is ${textOf(items)}`,
  );
}

/** Refuses what is not a whole number from 1, naming option and value. */
function checkCount(
  what: string,
  option: string,
  value?: number,
  most = Infinity,
): void {
  checkType(what, option, value, "number");
  if (value === undefined) return;
  if (Number.isInteger(value) && value > 0 && value <= most) return;
  const upTo = most === Infinity ? "" : ` up to ${most}`;
  throw new RangeError(
    `Cannot ${what} as '${option}' must be a positive integer${upTo}: ` +
      `current value is ${value}`,
  );
}

function checkType(
  what: string,
  option: string,
  value: unknown,
  type: string,
): void {
  if (value === undefined || typeof value === type) return;
  throw new TypeError(
    `Cannot ${what} as '${option}' must be a ${type}: ` +
      `current value is ${textOf(value)}`,
  );
}

// The calling thread's side

/**
 * Runs the jobs of a service one after another on the calling thread.
 *
 * It has the same methods as a {@linkcode Pool}, with the same results and
 * errors, so that what a pool brings can be measured against it. Nothing is
 * copied: a job gets the very items, and the caller the very results. Nothing
 * is computed ahead either: `close` does not wait for an `imap` that is being
 * read, which goes on as it is read.
 *
 * @param service What {@linkcode serve} returned
 * @param options See {@linkcode SequentialOptions}
 * @returns A runner without workers
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
  readonly #terminated = Promise.withResolvers<never>();
  #setUp?: Promise<unknown>;
  #state: "open" | "closed" | "terminated" = "open";

  constructor(service: Service<J>, options: SequentialOptions) {
    super();
    checkType("run sequentially", "onTask", options.onTask, "function");
    this.#service = service;
    this.#options = options;
    this.#terminated.promise.catch(() => {}); // not an error by itself
  }

  override async close(): Promise<void> {
    if (this.#state === "open") this.#state = "closed";
    await Promise.allSettled(this.#running);
  }

  override terminate(): Promise<void> {
    this.#state = "terminated";
    this.#terminated.reject(terminatedError());
    return Promise.resolve();
  }

  protected override async gather(request: CallRequest): Promise<unknown[]> {
    this.#check(request);
    const running = this.#gather(request);
    this.#running.add(running);
    try {
      // A job that never answers must not keep its caller after the end.
      return await Promise.race([running, this.#terminated.promise]);
    } finally {
      this.#running.delete(running);
    }
  }

  async #gather(request: CallRequest): Promise<unknown[]> {
    await this.#ready();
    const results: unknown[] = [];
    const { items } = request;
    if (isAsync(items)) {
      for await (const item of items) {
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
  ): AsyncGenerator<unknown, void, void> {
    this.#check(request);
    return this.#read(request);
  }

  async *#read(request: CallRequest): AsyncGenerator<unknown, void, void> {
    this.#check(request); // it may have been closed meanwhile
    await this.#ready();
    const { items } = request;
    let index = 0;
    if (isAsync(items)) {
      for await (const item of items) {
        yield await this.#run(request, item, index++);
      }
    } else {
      for (const item of items) yield await this.#run(request, item, index++);
    }
  }

  #check({ job, items, options }: CallRequest): void {
    checkJob(this.#service.jobs, job);
    checkCall(job, items, options);
    if (this.#state !== "open") throw closedError(job, "closed");
  }

  async #ready(): Promise<void> {
    const { setup } = this.#service;
    await (this.#setUp ??=
      (async () => await setup?.(this.#options.init as never))());
  }

  /** Runs one item; gives a promise only where the job did. */
  #run(
    { job, spread, options: { settle } }: CallRequest,
    item: unknown,
    index: number,
  ): unknown {
    if (this.#state === "terminated") throw terminatedError();
    const call = this.#service.jobs[job] as (...args: unknown[]) => unknown;
    const start = now();
    const ended = () =>
      this.#options.onTask?.({ worker: 0, job, index, start, end: now() });
    const fulfilled = (value: unknown) => {
      ended();
      return settle ? { status: "fulfilled", value } : value;
    };
    const rejected = (thrown: unknown) => {
      ended();
      const reason = new JobError(job, index, thrown);
      if (settle) return { status: "rejected", reason };
      throw reason;
    };
    let value: unknown;
    try {
      value = spread ? call(...item as unknown[]) : call(item);
      if (isThenable(value)) {
        return Promise.resolve(value).then(fulfilled, rejected);
      }
    } catch (thrown) {
      return rejected(thrown);
    }
    return fulfilled(value);
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

function closedError(job: string, state: string): DOMException {
  return new DOMException(
    `Cannot run '${job}' as the runner is ${state}`,
    "InvalidStateError",
  );
}

function terminatedError(): DOMException {
  return new DOMException("The runner was terminated", "AbortError");
}
