/** What must hold of a pool, whatever happens: its specification. */
import {
  JobError,
  type Pool,
  type TaskTiming,
  WorkerLostError,
  WorkerStartError,
} from "../../../mod.ts";
import type { Observer } from "./observer.ts";
import {
  type Call,
  type Chunk,
  describe,
  ENDLESS,
  isStream,
  type Item,
  nameOf,
  rangesOf,
  type Run,
  type Seat,
  valueOf,
} from "./records.ts";
import { EPOCH } from "./world.ts";

/** Something that must not be. */
export interface Violation {
  /** Which of the invariants it is; 0 where it is none of them. */
  invariant: number;
  /** What of it, in a few words that do not change. */
  what: string;
  details: string;
  time: number;
}

/** How long a chunk should take, in ms. */
const CHUNK_MS = 4;
/** How long a cancelled item may take to end, in ms. */
const GRACE_MS = 100;
/** How long an ended thread may take before it counts as stuck, in ms. */
const END_MS = 2000;
/** No pause after a failed start is longer, in ms. */
const RESTART_MS = 1000;
/** So many workers in a row may end before they begin anything. */
const UNUSED_MAX = 30;

/** What an input throws. */
export const inputError = new Error("the input throws");

export class Invariants {
  readonly violations: Violation[] = [];
  pool!: Pool<Record<string, (...args: never[]) => unknown>>;
  readonly #observer: Observer;
  /** Nothing goes wrong but in jobs and arguments; nothing is cancelled. */
  readonly #calm: boolean;
  /** What is checked when it is known what this task has led to. */
  readonly #checks: (() => void)[] = [];
  /** When there was reason to give up, last. */
  #hopeless = -Infinity;
  /** Since when a worker is idle, or could be started. */
  #free?: number;
  /** Since when there are fewer workers than are needed. */
  #missing?: number;
  /** By kind of single calls: which was begun last. */
  readonly #order = new Map<string, number>();
  /** By job, how long all items take; and the longest turn of a call, in ms. */
  readonly #work = new Map<string, number>();
  #longestTurn = 0;

  constructor(observer: Observer, calm: boolean) {
    this.#observer = observer;
    this.#calm = calm;
  }

  broken(invariant: number, what: string, details = ""): void {
    if (this.violations.some((other) => other.what === what)) return;
    const { world } = this.#observer;
    world.log(() => `BROKEN ${invariant}: ${what} ${details}`);
    this.violations.push({ invariant, what, details, time: world.time });
  }

  afterTask(): void {
    this.#noteHopeless();
    for (const check of this.#checks.splice(0)) check();
    const { open, present, terminated } = this.#observer;
    for (const call of open) this.#checkProgress(call);
    for (const seat of present) this.#checkRunning(seat);
    // Of a stream that was given up nobody hears before it is read.
    const isUnheard = open.values()
      .some((call) => isStream(call) && call.submitted! <= this.#hopeless);
    if (open.size === 0 || terminated !== undefined || isUnheard) {
      this.#free = this.#missing = undefined;
    } else this.#checkWorkers();
    if (this.#observer.world.random.chance(0.05)) this.#checkStats();
  }

  // 1. An item settles exactly once, runs at most 1 + `retries` times, and runs
  // again only after its worker was lost or its time was up.

  onBegun(run: Run, before: Run | undefined, { thread }: Seat): void {
    const { item } = run;
    const { call } = item;
    if (item.runs > 1 + (call.options.retries ?? 0)) {
      this.broken(1, "more runs than tries", nameOf(item));
    }
    if (before) {
      this.#checks.push(() => {
        if (before.lost || before.timedOut) return;
        this.broken(1, "run again without need", nameOf(item));
      });
    }
    if (call.ended !== undefined) {
      this.broken(1, "begun after its call had ended", nameOf(item));
    }
    if (thread.terminated === undefined) this.#checkBehind(run);
    const isFirst = call.begun === undefined && call.over === 0;
    if (isFirst && this.#calm) this.#checkTurn(call);
  }

  onSkipped({ call, index }: Item): void {
    this.#checks.push(() => {
      if (!this.#isWanted(call)) return;
      this.broken(1, "skipped though its call goes on", `${index}`);
    });
  }

  /** An item was told to stop; was its time up? */
  onStopped({ item }: Run, isUp: boolean): void {
    if (isUp || !this.#isWanted(item.call)) return;
    this.broken(1, "cancelled before its time", nameOf(item));
  }

  onMovedTwice(item: Item): void {
    this.broken(1, "moved twice", nameOf(item));
  }

  /** An outcome has reached the caller: one of what happened to the item. */
  onResult(item: Item, result: { value: unknown } | { error: unknown }): void {
    this.#checks.push(() => {
      if ("error" in result) this.#checkError(item, result.error);
      else if (result.value !== valueOf(item)) {
        this.broken(1, "a wrong value", `${nameOf(item)}: ${result.value}`);
      } else if (item.over !== "answered") {
        this.broken(1, "a value from nowhere", nameOf(item));
      }
    });
  }

  #checkError(item: Item, error: unknown): void {
    const { fault, runs, over, call } = item;
    const isTimeout = (error as Error)?.name === "TimeoutError";
    const fits = error instanceof JobError
      ? over === "failed" || over === "not sent"
      : error instanceof WorkerLostError
      ? over === "lost"
      : isTimeout && over === "timed out";
    if (!fits) {
      const why = `${nameOf(item)}: ${over}, ${fault}, ${runs} runs: ${error}`;
      return this.broken(1, "an error without reason", why);
    }
    const { job, index } = error as JobError;
    if (isTimeout || (job === call.job && index === item.index)) return;
    this.broken(1, "an error of another item", nameOf(item));
  }

  /** A call fails by what it did itself, or with the pool as a whole. */
  #checkFailure(call: Call, error: unknown): void {
    const { items, options, aborted, submitted, throwsAt } = call;
    const { closed, terminated } = this.#observer;
    if (error instanceof WorkerStartError) return this.#checkGivenUp(call);
    if (aborted !== undefined && error === options.signal!.reason) return;
    if (throwsAt < Infinity && error === inputError) return;
    if (error instanceof JobError || error instanceof WorkerLostError) {
      return this.#checkError(items[error.index], error);
    }
    const { name } = error as Error;
    const isTimedOut = items.some(({ over }) => over === "timed out");
    if (name === "TimeoutError" && isTimedOut) return;
    if (name === "AbortError" && terminated !== undefined) return;
    if (name === "InvalidStateError" && closed! <= submitted!) return;
    const why = `${describe(call)} ${error}`;
    this.broken(1, "a call fails without reason", why);
  }

  /** `onTask` is told once of every item that was run, with its very times. */
  onTold(timings: TaskTiming[], runs: Run[], clockOffset: number): void {
    const fits = timings.length === runs.length &&
      timings.every(({ index, start }, i) =>
        runs[i].item.index === index &&
        (clockOffset || Math.abs(runs[i].start + EPOCH - start) < 0.001)
      );
    if (!fits) this.broken(1, "onTask was told something else");
  }

  // 2. A call ends in the turn in which its last item settles: whether its input
  // has more is asked then, not when a worker is free. It waits for no other
  // call's items.

  #checkProgress(call: Call): void {
    const { options, over, pulled, asked, items, input, aborted } = call;
    const { read, reading } = call;
    if (isStream(call) && !reading) return;
    if (aborted !== undefined) {
      this.broken(2, "an aborted call goes on", describe(call));
    }
    const isThere = call.method === "imap"
      ? items[read]?.over !== undefined
      : over > read;
    if (isStream(call) && isThere) {
      this.broken(2, "a result is not given", describe(call));
    }
    if (!isStream(call) && !options.settle && call.bad > 0) {
      this.broken(2, "a failed call goes on", describe(call));
    }
    const isEmpty = items.length === 0 && input === "array";
    if (over === pulled && !asked && (over > 0 || isEmpty)) {
      this.broken(2, "a call has nothing to wait for", describe(call));
    }
  }

  /** Nothing more can happen, but calls are open. */
  onStall(): void {
    const { open, isFull, size } = this.#observer;
    const endless = this.endless.map(({ thread }) => thread.running!.item.call);
    for (const call of open) {
      if (endless.length >= size || endless.includes(call)) continue;
      if (endless.length > 0 && isFull) continue;
      const rest = rangesOf(call.items.filter(({ over }) => !over));
      this.broken(2, "a call never ends", `${describe(call)} ${rest} wait`);
    }
  }

  /** Workers with items that never end by themselves. */
  get endless(): Seat[] {
    return this.#observer.present.filter(({ thread: { running } }) =>
      running?.item.fault && ENDLESS.includes(running.item.fault)
    );
  }

  // 3. What goes wrong in one call changes no other call's results, chunking,
  // signal or time: that follows from the others. An input is used as `for … of`
  // does: closed where it is left, and only there.

  #checkInput(call: Call): void {
    const { input, exhaustedIn, closed, closedLate, error } = call;
    // What is refused is not touched.
    const isRefused = (error as Error)?.name === "InvalidStateError";
    if (input === "array" || isRefused || call.submitted === undefined) return;
    if (closed === 0 && exhaustedIn === undefined) {
      this.broken(3, "an input is not closed", describe(call));
    }
    if (closed > 1 || closedLate) {
      this.broken(3, "an input is closed without need", describe(call));
    }
  }

  // 4. A call's signal is heard as long as one of its items runs, also after the
  // call has failed. Whatever runs for nobody is told so at once; where it was
  // aborted or timed out and does not end, its worker is given up.

  #checkRunning({ thread, left }: Seat): void {
    if (!thread.running || !thread.alive || left) return;
    const { time, blocked } = this.#observer.world;
    const { item, start, told, mustEnd } = thread.running;
    const { call } = item;
    if (call.ended !== undefined && told === undefined) {
      this.broken(4, "not told that it is cancelled", nameOf(item));
    }
    // The caller's thread may have been busy, and its timers late.
    const late = 50 + 2 * (blocked - call.blocked);
    const { timeout = Infinity } = call.options;
    const limit = thread.start.clockOffset ? Infinity : 2 * timeout + late;
    if (told === undefined && time - start > limit) {
      this.broken(4, "not timed out", nameOf(item));
    }
    const since = Math.max(told ?? Infinity, call.aborted ?? 0);
    const isToEnd = call.aborted !== undefined || mustEnd;
    if (isToEnd && time - since > 2 * GRACE_MS + late) {
      this.broken(4, "not given up", nameOf(item));
    }
  }

  /**
   * A worker is ended, or given up, only where it has not listened in time: a
   * deadline that passed while the caller's thread was busy says nothing.
   */
  onLeft({ thread, chunks, crashed, ready, claims }: Seat): void {
    const { world: { time }, options, closed } = this.#observer;
    const { idleTimeout, maxTasksPerWorker = Infinity } = options;
    if (closed !== undefined || ready === undefined) return;
    const told = chunks.flatMap(({ runs }) => runs)
      .filter((run) => run?.told !== undefined && !run.delivered);
    // What it had answered before it died counts.
    const isUnheard = !thread.alive && thread.isUnheard && chunks.length > 0;
    if (isUnheard && told.length === 0) {
      this.broken(1, "given up before it was heard", `worker ${thread.id}`);
    }
    if (!thread.alive || crashed || claims >= maxTasksPerWorker) return;
    if (chunks.length === 0 && idleTimeout === undefined) {
      this.broken(4, "a healthy worker was ended", `worker ${thread.id}`);
    }
    // What it answers in the last moment may be on its way.
    const isLate = told.some(({ told, end = time }) =>
      end - told! > GRACE_MS - 10
    );
    if (chunks.length > 0 && !isLate) {
      this.broken(4, "given up though it listened", `worker ${thread.id}`);
    }
  }

  // 5. What was sent is taken back only from a worker that has begun that chunk,
  // never a chunk's only item, and of a call not more than there are items.
  // Where the worker was lost or is being given up, that does not count.

  onSent({ seat, items }: Chunk): void {
    const { thread, chunks } = seat;
    if (thread.terminated !== undefined) {
      this.broken(4, "sent to a worker that was ended", `worker ${thread.id}`);
    }
    const isToStop = thread.running?.told !== undefined &&
      thread.running.end === undefined;
    if (isToStop && items[0].call.options.transfer) {
      this.broken(4, "moved to a worker that is given up", nameOf(items[0]));
    }
    // One is run, one was sent ahead.
    if (chunks.length > 1) this.broken(5, "three chunks are with a worker");
    for (const item of items) {
      if (item.call.ended !== undefined) {
        this.broken(1, "sent after its call had ended", nameOf(item));
      }
      const before = item.chunk;
      if (before) this.#checks.push(() => this.#checkSentAgain(item, before));
    }
  }

  #checkSentAgain(item: Item, { seat, runs, items, first }: Chunk): void {
    const { call } = item;
    const isToStop = seat.thread.running?.told !== undefined ||
      runs.some((run) => run?.told !== undefined);
    if (seat.left || isToStop) return;
    if (items.length === 1 && first) {
      this.broken(5, "a chunk's only item sent twice", nameOf(item));
    }
    if (++call.resent > call.pulled) {
      this.broken(5, "sent more than twice", nameOf(item));
    }
  }

  // 6. Calls take turns, first in, first out: no call waits behind another's
  // items longer than one item and one chunk's target time, whatever is
  // submitted meanwhile. Single calls of one job on one worker keep their order.

  onSubmitted(call: Call): void {
    let work = this.#work.get(call.job) ?? 0;
    let longest = 0;
    for (const { duration, size } of call.items) {
      work += duration + 10 * size;
      // How many large items go together at first, nobody can bound.
      longest = Math.max(longest, size > 0 ? Infinity : duration);
    }
    call.turn = longest * (call.options.chunkSize ?? 1) + 2 * CHUNK_MS;
    this.#longestTurn = Math.max(this.#longestTurn, call.turn);
    this.#work.set(call.job, work);
  }

  /** The first item of a call begins. */
  #checkTurn(call: Call): void {
    const { job, options: { transfer, chunkSize }, method, id, input } = call;
    const { size, options } = this.#observer;
    if (size === 1 && method === "apply") {
      const kind = `${job} ${transfer !== undefined} ${chunkSize}`;
      if (id < (this.#order.get(kind) ?? 0)) {
        this.broken(6, "single calls overtake each other", describe(call));
      }
      this.#order.set(kind, id);
    }
    // An asynchronous input gives its first item when it likes, and a worker
    // that has ended has to be replaced first.
    const { maxTasksPerWorker, idleTimeout } = options;
    if (input === "async" || maxTasksPerWorker || idleTimeout) return;
    const wait = this.#waitOf(call);
    const most = [...call.before, call]
      .reduce((sum, { turn }) => sum + turn, 30 + 2 * this.#longestTurn);
    if (wait > most) {
      const why = `${wait.toFixed(1)} instead of ${most.toFixed(1)} ms`;
      this.broken(6, "a call waits too long", `${describe(call)} ${why}`);
    }
  }

  #waitOf({ submitted, blocked }: Call): number {
    const { present, world } = this.#observer;
    // It had to wait for the first worker as well.
    const ready = present.map(({ ready = Infinity }) => ready);
    const since = Math.max(submitted!, Math.min(...ready));
    return world.time - since - (world.blocked - blocked);
  }

  // 7. The number of messages follows the time that items take, with and without
  // `signal` and `timeout`: no message per item where items are short.

  onEnded(call: Call, failure?: { error: unknown }): void {
    if (failure) {
      this.#checks.push(() => this.#checkFailure(call, failure.error));
    }
    if (this.#calm) this.#checkMessages(call);
  }

  #checkMessages(call: Call): void {
    const { options, input, items, job, sent, received } = call;
    const { size, options: { maxTasksPerWorker } } = this.#observer;
    const { chunkSize, transfer, timeout, settle, retries } = options;
    if (chunkSize || transfer || maxTasksPerWorker || input === "async") return;
    let ms = this.#work.get(job)!;
    // Where an item cannot be cloned, it is looked for.
    for (const { fault } of items) if (fault === "argument") ms += 10;
    if (sent > 12 + 12 * size + ms) {
      this.broken(7, "too many messages", `${sent} for ${describe(call)}`);
    }
    // What is done must not wait for what may be given up.
    const isPrompt = call.isPrompt ||
      (timeout && (settle || retries || isStream(call)));
    if (received > 60 + 80 * size + 5 * ms && !isPrompt) {
      this.broken(7, "too many reports", `${received} for ${describe(call)}`);
    }
  }

  // 8. No worker is idle while an item waits that it could run; workers start
  // side by side, also for asynchronous input.

  #checkWorkers(): void {
    const { isIdle, starting, isRoom, world, failedStarts } = this.#observer;
    const { time, ownTime } = world;
    const isWaiting = this.#observer.waiting(1) > 0;
    // A worker that is started is for what waits first.
    const canStart = isRoom && starting === 0 && !isWaiting;
    const isFree = isIdle || (canStart && !this.#isPausing);
    this.#free = isFree ? this.#free ?? time : undefined;
    if (isIdle && isWaiting) {
      this.broken(8, "a worker is idle while an item waits");
    }
    const isMissing = isRoom && this.#observer.waiting(starting + 1) > starting;
    this.#missing = isMissing ? this.#missing ?? ownTime : undefined;
    const wait = ownTime - (this.#missing ?? ownTime);
    if (failedStarts === 0 && wait > 5 && !this.#isPausing) {
      this.broken(8, "workers do not start side by side");
    }
    if (failedStarts > 0 && wait > 2 * RESTART_MS) {
      this.broken(9, "a failed start is not tried again");
    }
  }

  /** What was sent does not wait long where a worker is free for it. */
  #checkBehind({ chunk, position, item }: Run): void {
    const { transfer, chunkSize } = item.call.options;
    const { items, first, begun, sent } = chunk;
    if (transfer || chunkSize || (first && position === 0)) return;
    // To send it again must be possible, and worth it.
    if (items.some(({ sends, size }) => sends > 1 || size > 1)) return;
    const since = first ? begun! : sent;
    const { time, blockedAt } = this.#observer.world;
    if (this.#free === undefined || blockedAt > since) return;
    const wait = time - Math.max(since, this.#free);
    if (wait > 3 * CHUNK_MS + 10) {
      this.broken(8, "an item waits behind a long one", nameOf(item));
    }
  }

  onAdded(): void {
    const { size, terminated } = this.#observer;
    this.#checks.push(() => {
      const count = this.#observer.present
        .filter(({ left, thread }) => !left && thread.alive).length;
      if (count > size) this.broken(8, "more workers than there may be");
    });
    if (terminated !== undefined) {
      this.broken(10, "a worker was started after the end");
    }
  }

  // 9. A start that failed is tried again (at once, then after a growing pause);
  // only `size` + 2 failures in a row without a success give up. So do threads
  // that do not come back, and workers that end before they do anything.

  /** Another start was tried, or one has succeeded. */
  onTried(): void {
    this.#missing = undefined;
  }

  /** Without a fault, and with a caller that is there, every start succeeds. */
  onNotStarted({ thread, blocked }: Seat): void {
    const { world, closed } = this.#observer;
    const isFaulty = thread.start.fault !== undefined;
    if (isFaulty || closed !== undefined || world.blocked > blocked + 1) return;
    this.broken(9, "a start fails without reason", `worker ${thread.id}`);
  }

  get #isPausing(): boolean {
    const { world, lastFailure } = this.#observer;
    return world.ownTime - lastFailure < RESTART_MS;
  }

  #noteHopeless(): void {
    const { failedStarts, size, unused, isFull, world } = this.#observer;
    const isHopeless = failedStarts >= size + 2 || unused > UNUSED_MAX ||
      isFull;
    if (isHopeless) this.#hopeless = world.time;
  }

  #checkGivenUp(call: Call): void {
    const { items, over, overIn, endedIn, options: { settle } } = call;
    const isSettled = over === items.length && overIn! < endedIn!;
    if (settle && isSettled && !isStream(call)) {
      this.broken(2, "a call fails when all is settled", describe(call));
    }
    // A stream may be read long after it has failed.
    const since = isStream(call) ? call.submitted! : call.ended!;
    if (this.#hopeless >= since) return;
    this.broken(9, "given up too early", `${describe(call)} ${call.error}`);
  }

  // 10. After `close` or `terminate` nothing is left, and a rejection that the
  // pool's own end caused is never an unhandled one.

  onEnd(listeners: number): void {
    const { world, calls, open, present } = this.#observer;
    const { waitedFor, lockRequests, ports } = world;
    const left = {
      "a timer": waitedFor.size,
      "a lock's request": lockRequests.size,
      "a port": ports.size,
      "a listener": listeners,
      "a call": open.size,
      "a worker": present.filter(({ left }) => !left).length,
    };
    for (const [what, count] of Object.entries(left)) {
      if (count > 0) this.broken(10, `${what} is left`);
    }
    for (const call of calls) this.#checkInput(call);
  }

  onUnhandled(reason: unknown): void {
    if ((reason as Error)?.name !== "AbortError") return;
    this.broken(10, "an unhandled rejection", String(reason));
  }

  // What the pool says of itself is so.

  #checkStats(): void {
    const { present, open, world, closed, losses } = this.#observer;
    const { values, misses } = this.#observer;
    const stats = this.pool.stats();
    // Of one that has just died the pool may know already.
    const busy = present.filter(({ left, chunks }) => !left && chunks.length);
    const least = busy.filter(({ thread }) => thread.alive).length;
    if (stats.busy < least || stats.busy > busy.length) {
      this.broken(0, "stats().busy is wrong");
    }
    // Those that were ended long ago, whatever held up the caller.
    const since = world.time - world.blocked - END_MS - GRACE_MS;
    const stuck = present.filter(({ thread: { alive, terminated } }) =>
      alive && terminated !== undefined && terminated < since
    );
    if (closed === undefined && stats.stuck < stuck.length) {
      this.broken(0, "stats().stuck is wrong");
    }
    let waiting = 0;
    for (const { method, items: [item] } of open) {
      if (method === "apply" && !item.over && item.sends === 0) waiting++;
    }
    if (stats.queued < waiting) this.broken(0, "stats().queued is wrong");
    if (losses && stats.lost !== losses.length) {
      this.broken(0, "stats().lost is wrong");
    }
    if (stats.done + stats.failed > values + misses) {
      this.broken(0, "stats().done is wrong");
    }
  }

  #isWanted({ ended, aborted }: Call): boolean {
    return ended === undefined && aborted === undefined &&
      this.#observer.terminated === undefined;
  }
}
