/** Random scenarios: what callers do with a pool, and what goes wrong. */
import { type CallOptions, Pool, type PoolOptions } from "../../../mod.ts";
import { Input } from "./input.ts";
import type { Violation } from "./invariants.ts";
import { Observer } from "./observer.ts";
import { type Call, ENDLESS, type Fault, FAULTS, indexOf } from "./records.ts";
import { isStream, type Item, METHODS } from "./records.ts";
import { type Start, START_FAULTS, type StartFault, Thread } from "./worker.ts";
import { countListeners, Random, World } from "./world.ts";

/** What a scenario was, and what came out of it. */
export interface Report {
  seed: number;
  violations: Violation[];
  /** What happened, where that was asked for. */
  trace: string[];
  calls: number;
  items: number;
}

/** So many tasks of the caller's thread are enough for any scenario. */
const TASKS_MAX = 20_000;
/** The pool may look again and again after an item that never ends. */
const LOOKS_MAX = 3000;

/** Runs the scenario of a seed. */
export async function simulate(seed: number, traced = false): Promise<Report> {
  using world = new World(seed);
  if (traced) world.trace = [];
  const scenario = new Scenario(world, new Random(seed));
  world.install();
  await scenario.run();
  const { calls, invariants: { violations } } = scenario.observer;
  const items = calls.reduce((sum, { items }) => sum + items.length, 0);
  const trace = world.trace ?? [];
  return { seed, violations, trace, calls: calls.length, items };
}

/** How long a job's items take. */
interface Job {
  name: string;
  /** In ms, usually. */
  duration: number;
  /** By which factor items differ from that. */
  spread: number;
  awaits: boolean;
}

class Scenario {
  readonly observer: Observer;
  readonly #world: World;
  readonly #random: Random;
  readonly #options: PoolOptions;
  readonly #jobs: Job[];
  /** The job of the last call. */
  #job: Job;
  /** What goes wrong, and how often. */
  readonly #faults = new Map<Fault, number>();
  readonly #startFaults = new Map<StartFault, number>();
  /** Nothing goes wrong that a worker would notice; nothing is cancelled. */
  readonly #calm: boolean;
  /** All items take long, most of them are limited, and the caller is busy. */
  readonly #isSlow: boolean;
  /** How often the caller's thread is busy with itself. */
  readonly #busy: number;
  readonly #clockOffset: number;
  /** The listeners that the pool has added to signals. */
  #listeners = 0;
  readonly #controllers = new Map<AbortSignal, AbortController>();
  /** The one that the next call may share. */
  #controller?: AbortController;
  // deno-lint-ignore no-explicit-any
  #pool!: Pool<any>;
  #threads = 0;
  #calls = 0;

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
    this.#calm = random.chance(0.4);
    this.#isSlow = !this.#calm && random.chance(0.15);
    this.#drawFaults();
    this.#busy = random.pick(this.#isSlow ? [0.5] : [0, 0, 0, 0.02, 0.3]);
    this.#clockOffset = random.chance(0.05) ? random.between(-500, 500) : 0;
    this.#jobs = this.#drawJobs();
    this.#job = this.#jobs[0];
    this.#options = this.#drawPoolOptions();
    this.observer = new Observer(world, this.#options, this.#calm);
    if ("onWorkerLost" in this.#options) this.observer.losses = [];
    world.witness = this.observer;
    world.spawn = (worker) => {
      const start = this.#drawStart();
      if (start.fault === "refused") {
        this.observer.refused();
        throw new Error("refused");
      }
      const id = ++this.#threads;
      const thread = new Thread(id, start, world, worker, this.observer);
      this.observer.added(thread);
      return thread;
    };
  }

  async run(): Promise<void> {
    const { invariants } = this.observer;
    const onUnhandled = (event: PromiseRejectionEvent) => {
      event.preventDefault();
      invariants.onUnhandled(event.reason);
    };
    addEventListener("unhandledrejection", onUnhandled);
    try {
      this.#pool = invariants.pool = new Pool("simulated:job", this.#options);
      await this.#live();
    } catch (error) {
      const { stack } = error as Error;
      invariants.broken(0, "the pool throws", stack ?? String(error));
    } finally {
      removeEventListener("unhandledrejection", onUnhandled);
    }
  }

  async #live(): Promise<void> {
    const { invariants } = this.observer;
    const callers = Promise.all(this.#drawCallers());
    const isDone = await this.#until(callers);
    // For a while nobody wants anything.
    await this.#until(this.#world.sleep(this.#random.magnitude(1, 10_000)));
    const gently = isDone && this.#random.chance(0.5);
    if (!await this.#until(this.#end(gently))) {
      // What never ends cannot be waited for.
      if (!gently || !await this.#until(this.#end(false))) {
        invariants.broken(10, "the end never comes");
      }
    }
    if (!await this.#until(callers)) {
      invariants.broken(10, "calls survive the end");
    }
    invariants.onEnd(this.#listeners);
    // What comes after that must not do any harm.
    await this.#world.runUntil(() => false);
  }

  /** Lets things happen until that is so; false where it does not come to it. */
  async #until(promise: Promise<unknown>): Promise<boolean> {
    const { invariants } = this.observer;
    const { tasks } = this.#world;
    let isOver = false;
    promise.then(() => isOver = true);
    const isEnough = () => {
      const count = this.#world.tasks - tasks;
      if (count < LOOKS_MAX) return false;
      return count > TASKS_MAX || invariants.endless.length > 0;
    };
    await this.#world.runUntil(() => isOver || isEnough());
    if (!isOver && !isEnough()) invariants.onStall();
    else if (!isOver && invariants.endless.length === 0) {
      invariants.broken(2, "it never comes to rest");
    }
    return isOver;
  }

  /** Closes or terminates the pool. */
  #end(gently: boolean): Promise<void> {
    const { observer } = this;
    observer.closed ??= this.#world.time;
    if (!gently) observer.terminated ??= this.#world.time;
    this.#world.log(() => `the pool is ${gently ? "closed" : "terminated"}`);
    return gently ? this.#pool.close() : this.#pool.terminate();
  }

  // The pool

  #drawFaults(): void {
    const random = this.#random;
    const draw = <T>(from: readonly T[], to: Map<T, number>) => {
      for (let count = random.whole(0, 4); count > 0; count--) {
        to.set(random.pick(from), random.pick([0.01, 0.1, 0.4]));
      }
    };
    if (!this.#calm) {
      draw(FAULTS, this.#faults);
      draw(START_FAULTS, this.#startFaults);
    } else if (random.chance(0.5)) draw(["throws", "argument"], this.#faults);
  }

  #drawJobs(): Job[] {
    const random = this.#random;
    return ["short", "any", "other"].map((name) => ({
      name,
      duration: this.#isSlow || random.chance(0.1)
        ? random.magnitude(100, 2000)
        : random.magnitude(0.001, name === "short" ? 1 : 100),
      spread: random.pick([1, 2, 2, 100]),
      awaits: random.chance(0.3),
    }));
  }

  #drawPoolOptions(): PoolOptions {
    const random = this.#random;
    return {
      size: random.chance(0.3) ? 1 : random.whole(1, 4),
      ...random.chance(0.2) && { idleTimeout: random.whole(1, 200) },
      ...random.chance(0.2) && { maxTasksPerWorker: random.whole(1, 20) },
      ...random.chance(0.2) && { startTimeout: random.whole(500, 5000) },
      ...random.chance(0.2) && {
        onTask: (timing) => this.observer.timings.push(timing),
      },
      ...random.chance(0.1) && { eager: true },
      ...random.chance(0.5) && {
        onWorkerLost: (loss: unknown) => this.observer.losses!.push(loss),
      },
    };
  }

  #drawStart(): Start {
    const random = this.#world.random;
    const clockOffset = this.#clockOffset;
    let fault: StartFault | undefined;
    for (const [kind, rate] of this.#startFaults) {
      if (random.chance(rate)) fault = kind;
    }
    let [load, setup] = [random.between(5, 30), random.pick([0, 0, 5, 300])];
    if (fault === "late") load = random.between(100, 8000);
    if (fault === "setup late") setup = random.between(100, 8000);
    return { load, setup, fault, clockOffset };
  }

  // The callers

  #drawCallers(): Promise<void>[] {
    const random = this.#random;
    const callers: Promise<void>[] = [];
    if (random.chance(this.#calm ? 0.08 : 0.01)) {
      callers.push(...this.#crowd(random.fork()));
    }
    for (let count = random.whole(1, 3); count > 0; count--) {
      callers.push(this.#caller(random.fork()));
    }
    if (random.chance(0.15)) callers.push(this.#ender(random.fork()));
    return callers;
  }

  /** Somebody ends the pool while others use it. */
  async #ender(random: Random): Promise<void> {
    await this.#world.sleep(random.magnitude(1, 5000));
    await this.#end(random.chance(0.5));
  }

  /** Each of them awaits one short call after the other. */
  #crowd(random: Random): Promise<void>[] {
    const rounds = random.whole(20, 80);
    const job = this.#jobs[0];
    return Array.from({ length: random.whole(2, 4) }, async () => {
      for (let round = 0; round < rounds; round++) {
        const call = this.#newCall("apply", job, {});
        call.items = [this.#newItem(call, 0, job, 1, random)];
        await this.#make(call, random);
        if (call.error) return;
      }
    });
  }

  async #caller(random: Random): Promise<void> {
    if (random.chance(0.5)) await this.#world.sleep(random.magnitude(0.1, 500));
    for (let rounds = random.pick([1, 1, 2, 3]); rounds > 0; rounds--) {
      // Once is enough to see that a closed pool refuses calls.
      if (this.observer.closed !== undefined) rounds = 1;
      const isBurst = random.chance(0.1);
      const calls: Promise<void>[] = [];
      for (let i = random.whole(1, isBurst ? 20 : 4); i > 0; i--) {
        const call = this.#drawCall(random, isBurst && random.chance(0.9));
        calls.push(this.#make(call, random));
      }
      if (random.chance(this.#busy)) this.#block(random);
      if (random.chance(0.05)) this.#forget(random);
      await Promise.all(calls);
    }
  }

  /** Makes a call without ever looking at what becomes of it. */
  #forget(random: Random): void {
    const call = this.#newCall("apply", this.#job, {});
    const item = this.#newItem(call, 0, this.#job, 1, random);
    item.fault = undefined; // or the pool could not be closed
    call.items = [item];
    call.pulled = 1;
    this.observer.forget(call);
    this.#pool.apply(call.job, [item as never]);
  }

  /** The caller's thread does something else for a while. */
  async #block(random: Random): Promise<void> {
    await this.#world.sleep(random.magnitude(0.1, 2000));
    const ms = random.magnitude(this.#isSlow ? 1000 : 10, 5000);
    this.#world.log(() => `the caller blocks its thread for ${ms} ms`);
    this.#world.block(ms);
  }

  // What they call

  #drawCall(random: Random, isSingle: boolean): Call {
    const method = isSingle ? "apply" : random.pick(METHODS);
    // Calls of one job share messages.
    if (random.chance(0.5)) this.#job = random.pick(this.#jobs);
    const job = this.#job;
    const call = this.#newCall(method, job, this.#drawOptions(random));
    if (method !== "apply") {
      call.input = random.pick(["array", "sync", "async"] as const);
    }
    // What was learned of a job may be wrong for this call.
    const factor = random.chance(0.15) ? random.magnitude(0.001, 1000) : 1;
    const count = method === "apply" ? 1 : this.#drawCount(random, job, factor);
    const size = random.chance(0.05) ? random.magnitude(0.01, 100) : 0;
    const isFaulty = random.chance(0.5);
    for (let index = 0; index < count; index++) {
      const item = this.#newItem(call, index, job, factor, random);
      item.size = size;
      if (!isFaulty) item.fault = undefined;
      call.items.push(item);
    }
    if (call.input === "array") return call;
    if (!this.#calm && random.chance(0.1)) {
      call.throwsAt = random.whole(0, count);
    }
    if (random.chance(0.05)) {
      call.aside = { at: random.whole(0, count), run: this.#drawAside(random) };
    }
    return call;
  }

  #drawCount(random: Random, { duration }: Job, factor: number): number {
    const isMany = duration * factor < 0.05 && random.chance(0.05);
    return isMany ? random.whole(200, 600) : random.whole(0, 20);
  }

  #drawOptions(random: Random): CallOptions {
    const isEndless = ENDLESS.some((fault) => this.#faults.has(fault));
    const limited = isEndless || this.#isSlow ? 0.6 : 0.15;
    const timeout = this.#calm ? 1e6 : Math.ceil(random.magnitude(1, 1000));
    return {
      ...random.chance(limited) && { timeout },
      ...random.chance(limited) && { signal: this.#drawSignal(random) },
      ...random.chance(0.2) && { retries: random.whole(0, 2) },
      ...random.chance(0.08) && { chunkSize: random.pick([1, 2, 7, 100]) },
      ...random.chance(0.3) && { settle: true },
      ...random.chance(0.08) && {
        transfer: (item: Item | [Item]) => [item].flat() as never,
      },
    };
  }

  /** A signal that is aborted at some time, or never. */
  #drawSignal(random: Random): AbortSignal {
    if (this.#controller && random.chance(0.3)) return this.#controller.signal;
    const controller = this.#controller = new AbortController();
    const { signal } = controller;
    this.#controllers.set(signal, controller);
    countListeners(signal, (change) => this.#listeners += change);
    if (!this.#calm && random.chance(0.7)) {
      const isEarly = random.chance(0.5);
      const ms = isEarly
        ? random.magnitude(0.1, 3000)
        : random.between(10, 3000);
      this.#world.sleep(ms).then(() => this.#abort(controller));
    }
    return signal;
  }

  #abort({ signal }: AbortController): void {
    if (signal.aborted) return;
    this.#world.log(() => "a signal is aborted");
    for (const call of this.observer.calls) {
      if (call.options.signal !== signal) continue;
      call.aborted = this.#world.time;
      call.abortedIn = this.#world.tasks;
    }
    const reason = new Error("aborted by its caller");
    this.#controllers.get(signal)!.abort(reason);
  }

  /** What the input of a call may do to the pool that pulls it. */
  #drawAside(random: Random): () => void {
    const isEnd = !this.#calm && random.chance(0.2);
    const isAbort = !this.#calm && random.chance(0.3);
    return () => {
      if (isEnd) this.#end(random.chance(0.5));
      else if (isAbort && this.#controller) this.#abort(this.#controller);
      else this.#make(this.#drawCall(random, true), random);
    };
  }

  #newCall(method: Call["method"], job: Job, options: CallOptions): Call {
    return {
      id: ++this.#calls,
      method,
      job: job.name,
      awaits: job.awaits,
      options,
      items: [],
      input: "array",
      throwsAt: Infinity,
      asked: false,
      pulled: 0,
      closed: 0,
      blocked: 0,
      before: [],
      turn: 0,
      over: 0,
      bad: 0,
      reading: false,
      read: 0,
      sent: 0,
      received: 0,
      resent: 0,
    };
  }

  #newItem(
    call: Call,
    index: number,
    { duration, spread }: Job,
    factor: number,
    random: Random,
  ): Item {
    let fault: Fault | undefined;
    for (const [kind, rate] of this.#faults) {
      if (random.chance(rate)) fault = kind;
    }
    let ms = duration * factor;
    if (spread > 1) ms *= random.magnitude(1 / spread, spread);
    return {
      call,
      index,
      duration: Math.min(Math.max(ms, 0.0005), 2000),
      size: 0,
      fault,
      faults: fault ? random.pick([1, 1, 2, Infinity]) : 0,
      reaction: fault ? random.magnitude(0.1, 400) : 0,
      detached: false,
      sends: 0,
      runs: 0,
      missed: 0,
    };
  }

  // One call

  async #make(call: Call, random: Random): Promise<void> {
    const { method, job, options, items } = call;
    const given = method === "starmap" ? items.map((item) => [item]) : items;
    const isArray = call.input === "array";
    if (isArray) call.pulled = given.length;
    const input = isArray
      ? given
      : new Input(call, given, random.fork(), this.#world);
    if (isStream(call)) return await this.#read(call, input, random);
    this.observer.submitted(call);
    try {
      const gather = method as "map"; // the others' types are alike
      const result = await this.#pool[gather](job, input as never, options);
      this.observer.ended(call);
      this.#gathered(call, method === "apply" ? [result] : result);
    } catch (error) {
      this.#failed(call, error, random);
    }
  }

  #gathered(call: Call, results: unknown[]): void {
    if (results.length !== call.items.length) {
      this.observer.invariants.broken(1, "a wrong number of results");
    }
    call.items.forEach((item, i) => this.#got(item, results[i]));
  }

  #got(item: Item, result: unknown): void {
    const { invariants } = this.observer;
    if (!item.call.options.settle) {
      return invariants.onResult(item, { value: result });
    }
    const { reason, value } = result as PromiseRejectedResult & {
      value: unknown;
    };
    invariants.onResult(item, reason ? { error: reason } : { value });
  }

  #failed(call: Call, error: unknown, random: Random): void {
    this.observer.ended(call, { error });
    if (random.chance(this.#busy)) this.#block(random);
    // Who gives up on a call may well abort what is left of it.
    const controller = this.#controllers.get(call.options.signal!);
    if (controller && !this.#calm && random.chance(0.5)) {
      this.#world.sleep(random.magnitude(0.1, 300))
        .then(() => this.#abort(controller));
    }
  }

  /** Reads a stream to its end, fast or slowly, or leaves it early. */
  async #read(call: Call, input: unknown, random: Random): Promise<void> {
    const { method, job, options, items } = call;
    const leavesAt = random.chance(0.15)
      ? random.whole(0, items.length)
      : Infinity;
    const slowness = random.pick([0, 0, 0, 0.1, 1]);
    const unread = new Set(items);
    this.observer.submitted(call);
    try {
      const imap = method as "imap"; // the other's type is alike
      const stream = this.#pool[imap](job, input as never, options);
      while (call.read < leavesAt) {
        call.reading = true;
        const { done, value } = await stream.next();
        call.reading = false;
        if (done) break;
        this.#taken(call, unread, value);
        if (random.chance(slowness)) {
          await this.#world.sleep(random.magnitude(0.01, 300));
        }
      }
      if (call.read === leavesAt) {
        this.observer.leaving(call);
        await stream.return();
        return;
      }
      this.observer.ended(call);
      if (unread.size > 0) {
        this.observer.invariants.broken(1, "a stream ends too early");
      }
    } catch (error) {
      call.reading = false;
      this.#failed(call, error, random);
    }
  }

  /** In order, or the one that it says it is. */
  #taken(call: Call, unread: Set<Item>, result: unknown): void {
    const { items, method, options: { settle } } = call;
    const { value, reason } = settle ? Object(result) : { value: result };
    const index = method === "imap"
      ? call.read
      : reason
      ? reason.index ?? Number(/item (\d+)$/.exec(reason.message)![1])
      : indexOf(value);
    call.read++;
    if (unread.delete(items[index])) return this.#got(items[index], result);
    this.observer.invariants.broken(1, "a result given twice", `${index}`);
  }
}
