/**
 * What happens, seen from outside of the pool: what is sent, begun, answered,
 * and what the callers get. The observer sees into the threads, which the pool
 * cannot, and never into the pool.
 */
import type { PoolOptions, TaskTiming } from "../../../mod.ts";
import { Invariants } from "./invariants.ts";
import {
  type Call,
  type Chunk,
  describe,
  type Item,
  nameOf,
  rangesOf,
  type Run,
  type Seat,
} from "./records.ts";
import { itemsOf, type ResultsMessage } from "./worker.ts";
import type { RunMessage, Thread, ThreadWitness } from "./worker.ts";
import type { Peer, Witness, World } from "./world.ts";

/** What is thrown where a message cannot be cloned. */
const CLONE_ERROR = new DOMException("could not be cloned", "DataCloneError");

export class Observer implements Witness, ThreadWitness {
  readonly world: World;
  readonly options: PoolOptions;
  readonly size: number;
  readonly invariants: Invariants;
  readonly calls: Call[] = [];
  /** Calls that have been submitted and have not ended. */
  readonly open = new Set<Call>();
  /** Calls that nobody waits for. */
  readonly forgotten: Call[] = [];
  /** Workers whose thread exists, or which the pool has not ended. */
  present: Seat[] = [];
  /** When the pool was told to take no more calls, and to end. */
  closed?: number;
  terminated?: number;
  /** Starts in a row that have failed, and when the last one did. */
  failedStarts = 0;
  lastFailure = -Infinity;
  /** Workers in a row that ended before they began anything. */
  unused = 0;
  /** Values that have arrived, whoever still wanted them. */
  values = 0;
  /** Items that were lost, timed out, or could not be sent. */
  misses = 0;
  /** What the pool's `onTask` was told by the message at hand. */
  readonly timings: TaskTiming[] = [];
  /** What the pool's `onWorkerLost` was told, where it has one. */
  losses?: unknown[];
  readonly #seats = new Map<Peer, Seat>();
  /** Runs that were told to stop in this task. */
  readonly #told: Run[] = [];
  /** What was answered by the message at hand. */
  readonly #answers: Run[] = [];

  constructor(world: World, options: PoolOptions, calm: boolean) {
    this.world = world;
    this.options = options;
    this.size = options.size!;
    this.invariants = new Invariants(this, calm);
  }

  // Threads

  added(thread: Thread): void {
    const { time: made, blocked } = this.world;
    const [crashed, ended, left] = [false, false, false];
    const seat: Seat = {
      thread,
      made,
      blocked,
      crashed,
      ended,
      left,
      chunks: [],
      claims: 0,
    };
    this.world.log(() => `worker ${thread.id} is started`);
    this.#seats.set(thread, seat);
    this.present.push(seat);
    this.invariants.onAdded();
  }

  /** `new Worker` has thrown. */
  refused(): void {
    this.world.log(() => "a worker cannot be made");
    this.#startFailed();
    this.invariants.onTried();
  }

  began(thread: Thread, slot: number, position: number): Run {
    const { seat, chunk, item } = this.#claimed(thread, slot, position);
    this.world.log(() => `worker ${thread.id} begins ${nameOf(item)}`);
    const { time } = this.world;
    const run = { item, chunk, position, start: time };
    const before = item.run;
    item.run = chunk.runs[position] = run;
    item.runs++;
    chunk.begun ??= time;
    this.invariants.onBegun(run, before, seat);
    item.call.begun ??= time;
    return run;
  }

  /** The item was cancelled before it was begun. */
  skipped(thread: Thread, slot: number, position: number): void {
    const { item } = this.#claimed(thread, slot, position);
    this.invariants.onSkipped(item);
  }

  #claimed(
    thread: Thread,
    slot: number,
    position: number,
  ): { seat: Seat; chunk: Chunk; item: Item } {
    const seat = this.#seats.get(thread)!;
    const chunk = seat.chunks.findLast((chunk) => chunk.slot === slot)!;
    seat.claims++;
    return { seat, chunk, item: chunk.items[position] };
  }

  finished(run: Run): void {
    this.#noteTold(run.chunk.seat.thread);
    run.end = this.world.time;
  }

  // Messages

  sending(peer: Peer, message: unknown, moved: readonly unknown[]): number {
    const run = message as RunMessage;
    if (run.type !== "run") return 0;
    const items = itemsOf(run);
    const bad = items.find(({ fault }) => fault === "argument");
    if (bad) {
      if (items.length === 1) this.#missed(bad, "not sent");
      throw CLONE_ERROR;
    }
    for (const item of moved as Item[]) {
      if (item.detached) this.invariants.onMovedTwice(item);
      item.detached = true;
    }
    this.#sent(this.#seats.get(peer)!, run.slot, items);
    // Sending may take so long that they end meanwhile.
    for (const { thread } of this.present) this.#noteTold(thread);
    return items.reduce((sum, { size }) => sum + size, 0);
  }

  #sent(seat: Seat, slot: number, items: Item[]): void {
    const { thread, chunks } = seat;
    const chunk: Chunk = {
      seat,
      slot,
      items,
      first: chunks.length === 0,
      sent: this.world.time,
      runs: [],
      answered: 0,
      over: false,
    };
    const to = `worker ${thread.id}, slot ${slot}`;
    this.world.log(() => `sent to ${to}: ${rangesOf(items)}`);
    this.invariants.onSent(chunk);
    chunks.push(chunk);
    for (const item of items) {
      item.chunk = chunk;
      item.sends++;
    }
    const calls = new Set(items.map(({ call }) => call));
    const isLimited = [...calls]
      .some(({ options: { timeout, signal } }) => timeout || signal);
    for (const call of calls) {
      call.sent++;
      // What one of them has done must not wait for another that is given up.
      if (calls.size > 1 && isLimited) call.isPrompt = true;
    }
  }

  delivering(peer: Peer, message: unknown): void {
    const seat = this.#seats.get(peer)!;
    const { type } = message as { type?: string };
    this.world.log(() => `got from worker ${seat.thread.id}: ${type}`);
    if (type === "results") this.#answered(seat, message as ResultsMessage);
    else if (type === "crashed" || type === "error") seat.crashed = true;
    else if (type === "ready") {
      seat.ready = this.world.time;
      seat.left = seat.ended;
      if (seat.ended) return; // too late: it counts as failed
      this.failedStarts = 0;
      this.invariants.onTried();
    }
  }

  #answered(seat: Seat, results: ResultsMessage): void {
    if (seat.left) return; // nobody listens any more
    const { slot, values, failures, last } = results;
    const chunk = seat.chunks.find((chunk) => chunk.slot === slot)!;
    const calls = new Set<Call>();
    this.unused = 0;
    for (let i = 0; i < values.length; i++) {
      const item = chunk.items[chunk.answered];
      const run = chunk.runs[chunk.answered++];
      calls.add(item.call);
      if (!run) continue; // it was skipped
      this.values++;
      run.delivered = true;
      this.#answers.push(run);
      if (run.timedOut) continue;
      this.#over(item, failures?.has(i) ? "failed" : "answered");
    }
    for (const call of calls) call.received++;
    if (!last) return;
    chunk.over = true;
    seat.chunks.splice(seat.chunks.indexOf(chunk), 1);
  }

  delivered(peer: Peer): void {
    const timings = this.timings.splice(0);
    const runs = this.#answers.splice(0);
    const { left, thread } = this.#seats.get(peer)!;
    if (this.options.onTask && !left) {
      this.invariants.onTold(timings, runs, thread.start.clockOffset);
    }
  }

  // Calls

  submitted(call: Call): void {
    call.submitted = this.world.time;
    call.blocked = this.world.blocked;
    call.before = [...this.open, ...this.forgotten];
    if (call.options.signal?.aborted) call.aborted = this.world.time;
    this.open.add(call);
    this.calls.push(call);
    this.invariants.onSubmitted(call);
    this.world.log(() => `${describe(call)} begins`);
  }

  /** Nobody waits for a call. */
  forget(call: Call): void {
    this.submitted(call);
    this.open.delete(call);
    this.forgotten.push(call);
  }

  /** A stream is left before its end. */
  leaving(call: Call): void {
    call.left = true;
    this.ended(call);
  }

  ended(call: Call, failure?: { error: unknown }): void {
    call.ended = this.world.time;
    call.endedIn = this.world.tasks;
    call.error = failure?.error;
    this.open.delete(call);
    const how = call.left ? "is left" : "is done";
    const text = failure ? `fails: ${failure.error}` : how;
    this.world.log(() => `${describe(call)} ${text}`);
    this.invariants.onEnded(call, failure);
  }

  // What follows from it

  afterTask(): void {
    for (const { thread } of this.present) this.#noteTold(thread);
    for (const run of this.#told.splice(0)) this.#judge(run);
    for (const seat of this.present) this.#noteEnd(seat);
    this.invariants.afterTask();
    const isGone = ({ left, thread }: Seat) => left && !thread.alive;
    if (this.present.some(isGone)) {
      this.present = this.present.filter((seat) => !isGone(seat));
    }
  }

  /** The item that runs may have been told by now to stop. */
  #noteTold(thread: Thread): void {
    const { running: run } = thread;
    if (!run || run.told !== undefined) return;
    if (!thread.isCancelled(run.chunk.slot, run.position)) return;
    run.told = this.world.time;
    thread.stop();
    this.#told.push(run);
  }

  /** An item was told to stop: since its time was up? */
  #judge(run: Run): void {
    const { item, told, start, chunk: { seat: { thread } } } = run;
    const { options, aborted, abortedIn, ended, error } = item.call;
    const { timeout = Infinity } = options;
    const isAborted = aborted !== undefined && abortedIn !== this.world.tasks;
    const reason = (error as Error)?.name;
    // What its clock shows is known only roughly where it was set.
    const isUp = reason !== "WorkerLostError" &&
      (thread.start.clockOffset !== 0 || told! - start > timeout - 0.01);
    run.timedOut = timeout < Infinity && isUp && !isAborted;
    run.mustEnd = run.timedOut && ended === undefined;
    this.invariants.onStopped(run, isUp);
    if (run.timedOut) this.#missed(item, "timed out");
    else if (timeout < Infinity) this.misses++; // its time may be up later
  }

  /** The pool may have ended a worker in this task. */
  #noteEnd(seat: Seat): void {
    const { startTimeout = 30_000 } = this.options;
    const { thread, ready, crashed, made } = seat;
    const isEnded = thread.terminated !== undefined;
    // One that did not start may be ended only when it comes to listen. Until
    // when the pool waits for it, is known only roughly.
    const isLate = crashed || this.world.time - made > startTimeout;
    if (isEnded && !seat.ended && ready === undefined) this.#startFailed();
    seat.ended = isEnded;
    if (seat.left || (!isEnded && (ready !== undefined || !isLate))) return;
    seat.left = true;
    if (ready === undefined) {
      this.#startFailed();
      this.invariants.onNotStarted(seat);
    } else if (seat.claims === 0) this.unused++;
    this.invariants.onLeft(seat);
    for (const chunk of seat.chunks) this.#lost(chunk);
  }

  #startFailed(): void {
    this.failedStarts++;
    this.lastFailure = this.world.ownTime;
  }

  /** What a worker had not answered is lost, unless it is in shared memory. */
  #lost({ seat: { thread }, slot, items, runs, answered }: Chunk): void {
    for (let position = answered; position < items.length; position++) {
      const item = items[position];
      const run = runs[position];
      if (run?.timedOut) continue;
      if (run?.end !== undefined && thread.isKept(slot, position)) {
        this.values++;
        this.#over(item, "answered");
        continue;
      }
      if (run) run.lost = true;
      if (run || item.call.options.transfer) this.#missed(item, "lost");
    }
  }

  /** A try is over without an outcome; is it the last one? */
  #missed(item: Item, how: "lost" | "timed out" | "not sent"): void {
    const { retries = 0, transfer } = item.call.options;
    this.misses++;
    if (++item.missed > retries || transfer || how === "not sent") {
      this.#over(item, how);
    }
  }

  #over(item: Item, how: NonNullable<Item["over"]>): void {
    const { call } = item;
    if (item.over || call.endedIn! < this.world.tasks) return;
    item.over = how;
    call.over++;
    call.overIn = this.world.tasks;
    if (how !== "answered") call.bad++;
  }

  // What is of interest now

  /** Whether threads that may never come back bound the new ones. */
  get isFull(): boolean {
    let stuck = 0;
    for (const { thread, left } of this.present) {
      const isTold = thread.running?.told !== undefined;
      if (thread.alive && (left || isTold)) stuck++;
    }
    return stuck >= Math.max(2, this.size);
  }

  /** How many workers are starting, as far as anybody can know. */
  get starting(): number {
    let starting = 0;
    for (const seat of this.present) if (this.#isStarting(seat)) starting++;
    return starting;
  }

  #isStarting(seat: Seat): boolean {
    const { left, ready, crashed, ended, made } = seat;
    if (ready !== undefined || crashed || ended) return false;
    // Where the caller's thread was late, a start is waited for once more.
    const { startTimeout = 30_000 } = this.options;
    const late = this.world.blocked - seat.blocked;
    const isLate = late > 1 && this.world.time - made < 2 * startTimeout + late;
    return !left || isLate;
  }

  /** Whether a worker has nothing to do. */
  get isIdle(): boolean {
    const { maxTasksPerWorker = Infinity } = this.options;
    return this.present.some((seat) =>
      seat.chunks.length === 0 && seat.ready !== undefined && !seat.left &&
      !seat.crashed && seat.thread.alive && seat.claims < maxTasksPerWorker
    );
  }

  /** Whether one more worker could be started. */
  get isRoom(): boolean {
    let live = this.starting;
    for (const { ready, left } of this.present) {
      if (ready !== undefined && !left) live++;
    }
    return live < this.size && !this.isFull;
  }

  /** How many items wait that could be sent, no further than `enough`. */
  waiting(enough: number): number {
    let count = 0;
    for (const call of this.open) {
      const { items, pulled, over, aborted, input } = call;
      // What a stream has taken of an array, nobody knows.
      const isKnown = !(call.method.startsWith("imap") && input === "array");
      if (!isKnown || over === pulled || aborted !== undefined) continue;
      for (let i = 0; i < pulled && count < enough; i++) {
        if (!items[i].over && !isWithWorker(items[i])) count++;
      }
    }
    return count;
  }
}

/** A claim counter from here on says that the chunk is revoked. */
const REVOKED = 2 ** 30;

function isWithWorker({ chunk, run }: Item): boolean {
  if (!chunk || chunk.over || chunk.seat.left) return false;
  if (run?.chunk === chunk) return !run.timedOut;
  return chunk.seat.thread.claims(chunk.slot) < REVOKED;
}
