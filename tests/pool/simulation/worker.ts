/** The worker's side: what mod.ts does there, and all that can go wrong. */
import { type Item, type Run, valueOf } from "./records.ts";
import { EPOCH, type Peer, type Port } from "./world.ts";
import type { SimulatedWorker, World } from "./world.ts";

/** What may go wrong when a worker starts. */
export const START_FAULTS = [
  /** `new Worker` throws. */
  "refused",
  /** Its module cannot be loaded. */
  "no module",
  /** Its module waits for ever at its top level. */
  "silent",
  /** Its module never returns; nothing can stop it. */
  "blocks",
  /** It takes seconds until it says hello. */
  "late",
  /** `setup` throws. */
  "setup throws",
  /** `setup` waits for ever. */
  "setup waits",
  /** `setup` ends the thread. */
  "setup exits",
  /** `setup` takes seconds. */
  "setup late",
] as const;
export type StartFault = typeof START_FAULTS[number];

/** How a worker is going to start. */
export interface Start {
  /** Until its module is loaded, and until it is set up, in ms. */
  load: number;
  setup: number;
  fault?: StartFault;
  /** What its clock shows more than the pool's, in ms. */
  clockOffset: number;
}

/** What is shared with the pool about a chunk. */
interface Slot {
  claims: Int32Array;
  started: Int32Array;
  startedAt: Float64Array;
  cancelled: Uint8Array;
  /** Of each item that has ended: 0, or what its result is. */
  kinds: Uint8Array;
  numbers: Float64Array;
}

interface StartMessage {
  slots: Slot[];
}

/** A chunk as the pool sends it. */
export interface RunMessage {
  type: "run";
  slot: number;
  spread: boolean;
  items: unknown[];
  timed: boolean;
  prompt: boolean;
}

/** What was finished of a chunk since the last message. */
export interface ResultsMessage {
  type: "results";
  slot: number;
  values: unknown[];
  failures?: Map<number, unknown>;
  times: number[];
  elapsed: number;
  last: boolean;
}

/** What a thread tells the observer of the simulation. */
export interface ThreadWitness {
  began(thread: Thread, slot: number, position: number): Run;
  skipped(thread: Thread, slot: number, position: number): void;
  finished(run: Run): void;
}

/** What goes wrong in a run: a fault may be gone with the next try. */
function faultOf({ item }: Run): Item["fault"] {
  return item.runs <= item.faults ? item.fault : undefined;
}

/** How often results are reported, in ms. */
const REPORT_MS = 4;
/** Each result of a chunk of up to so many items is reported at once. */
const PROMPT_MAX = 16;
/** Kinds of results: those that shared memory does not hold, and numbers. */
const OTHER = 0;
const NUMBER = 1;
/** In chunks of more items, so many share a look at the clock. */
const LOOK_EACH_MAX = 256;
const LOOK_EVERY = 16;

/** A message's items, whether they are arguments or lists of them. */
export function itemsOf({ items, spread }: RunMessage): Item[] {
  return items.map((item) => (spread ? (item as Item[])[0] : item) as Item);
}

export class Thread implements Peer {
  readonly id: number;
  readonly start: Start;
  /** The thread exists: it holds its lock, if it ever got it. */
  alive = true;
  /** When the pool has called `terminate`. */
  terminated?: number;
  slots?: Slot[];
  /** The item that runs, or was running at the end. */
  running?: Run;
  readonly #world: World;
  readonly #worker: SimulatedWorker;
  readonly #witness: ThreadWitness;
  readonly #lock: string;
  #port?: Port;
  /** It does not come to its event loop, where `terminate` would end it. */
  #blocked = false;
  readonly #inbox: RunMessage[] = [];
  #chunk?: {
    message: RunMessage;
    items: Item[];
    began: number;
    reported: number;
    lookEvery: number;
  };
  #done!: ResultsMessage;
  #uncloneable = false;
  #isUnshared = false;

  constructor(
    id: number,
    start: Start,
    world: World,
    worker: SimulatedWorker,
    witness: ThreadWitness,
  ) {
    this.id = id;
    this.start = start;
    this.#world = world;
    this.#worker = worker;
    this.#witness = witness;
    this.#lock = `manyhands ${id}`;
    this.#later(start.load, () => this.#loaded());
  }

  /** Whether an item that runs is to be told that it is cancelled. */
  isCancelled(slot: number, position: number): boolean {
    return this.slots![slot].cancelled[position] !== 0;
  }

  /** How many items of a slot's chunk were claimed, and whether it is revoked. */
  claims(slot: number): number {
    return this.slots![slot].claims[0];
  }

  /** Whether something that it has sent has not been taken yet. */
  get isUnheard(): boolean {
    return this.#port !== undefined && this.#port.other.mailbox.list.length > 0;
  }

  terminate(): void {
    this.terminated ??= this.#world.time;
    this.#log("is terminated");
    if (!this.#blocked) this.#later(this.#world.latency(), () => this.#end());
  }

  // Starting

  #loaded(): void {
    const { fault } = this.start;
    if (fault === "blocks") this.#blocked = true;
    if (fault === "silent" || fault === "blocks") return;
    if (fault === "no module") {
      const event = {
        type: "error",
        message: "no such module",
        preventDefault() {},
      };
      return this.#worker.emit("onerror", event);
    }
    this.#world.holdLock(this.#lock);
    this.#log("says hello");
    this.#worker.emit("onmessage", {
      data: { type: "manyhands:hello", lock: this.#lock },
    });
  }

  receive(message: unknown, [port]: Port[]): void {
    if (!this.alive || this.terminated !== undefined) return;
    if (!port) {
      const run = message as RunMessage;
      if (run.type === "run") this.#inbox.push(run);
      if (!this.#chunk) this.#next();
      return;
    }
    this.#port = port;
    this.slots = (message as StartMessage).slots;
    const { fault, setup } = this.start;
    this.#later(setup, () => {
      if (fault === "setup throws") this.#crash();
      else if (fault === "setup exits") this.#end();
      else if (fault !== "setup waits") {
        this.#log("is ready");
        this.#port!.postMessage({ type: "ready", at: this.#clock() });
      }
    });
  }

  // Running

  #next(): void {
    this.#blocked = false;
    this.#chunk = undefined;
    if (this.terminated !== undefined) return this.#end();
    const message = this.#inbox.shift();
    if (!message) return;
    const items = itemsOf(message);
    const lookEvery = items.length > LOOK_EACH_MAX ? LOOK_EVERY : 1;
    this.#chunk = { message, items, began: 0, reported: 0, lookEvery };
    let reading = 0;
    for (const { size } of items) reading += size;
    this.#later(reading, () => {
      const { time } = this.#world;
      this.#chunk!.began = this.#chunk!.reported = time;
      this.#done = this.#results();
      this.#starts(0);
      this.#claim();
    });
  }

  #results(): ResultsMessage {
    const { slot } = this.#chunk!.message;
    this.#uncloneable = false;
    return {
      type: "results",
      slot,
      values: [],
      times: [],
      elapsed: 0,
      last: false,
    };
  }

  /** What is shared about the chunk that runs. */
  get #slot(): Slot {
    return this.slots![this.#chunk!.message.slot];
  }

  /** Says in shared memory that the item begins now. */
  #starts(position: number): void {
    const { started, startedAt } = this.#slot;
    startedAt[0] = this.#clock();
    started[0] = position;
  }

  #claim(): void {
    const { message: { slot }, items } = this.#chunk!;
    for (;;) {
      const position = Atomics.add(this.#slot.claims, 0, 1);
      if (position >= items.length) {
        this.#report(true);
        return this.#next();
      }
      if (!this.isCancelled(slot, position)) {
        this.running = this.#witness.began(this, slot, position);
        return this.#work(this.running);
      }
      this.#log(`skips position ${position}`);
      this.#witness.skipped(this, slot, position);
      this.#fail(null);
      this.#add(position, undefined, this.#clock(), false);
    }
  }

  #work(run: Run): void {
    const { item } = run;
    const fault = faultOf(run);
    this.#blocked = fault !== "waits" && !item.call.awaits;
    // Those never end, unless they are told.
    if (fault === "waits" || fault === "blocks" || fault === "listens") return;
    this.#later(item.duration, () => {
      if (fault === "exits") return this.#end();
      if (fault === "crashes") return this.#crash();
      this.#finish(run);
    });
  }

  /** The item that runs is told to stop. */
  stop(): void {
    if (!this.alive) return;
    const run = this.running!;
    this.#log(`is told to stop`);
    if (faultOf(run) !== "listens") return;
    this.#later(run.item.reaction, () => this.#finish(run));
  }

  #finish(run: Run): void {
    this.#witness.finished(run);
    this.running = undefined;
    const fault = faultOf(run);
    if (fault === "throws" || fault === "result") {
      this.#fail({ value: fault });
      this.#isUnshared = true;
      this.#uncloneable ||= fault === "result";
    }
    if (fault === "crashes later" || fault === "exits later") {
      this.#later(this.#world.random.magnitude(0.01, 20), () => {
        if (fault === "exits later") this.#end();
        else this.#crash();
      });
    }
    const start = this.#clock() - this.#world.time + run.start;
    const value = fault === "throws" ? undefined : valueOf(run.item);
    this.#add(run.position, value, start);
    this.#claim();
  }

  /** The next value is none: what the job threw, or null where it did not run. */
  #fail(failure: unknown): void {
    const { length } = this.#done.values;
    (this.#done.failures ??= new Map()).set(length, failure);
  }

  /** A value of the item at a position; now and then it is time to report. */
  #add(position: number, value: unknown, start: number, hasRun = true): void {
    const { message, reported, lookEvery, items } = this.#chunk!;
    const { kinds, numbers } = this.#slot;
    const isTold = hasRun && this.isCancelled(message.slot, position);
    kinds[position] = OTHER;
    if (typeof value === "number") {
      // It is in shared memory, too, should the thread end.
      numbers[position] = value;
      kinds[position] = NUMBER;
    } else if (value !== undefined) this.#isUnshared = true;
    this.#done.values.push(value);
    if (message.timed) this.#done.times.push(start, this.#clock());
    const isPrompt = items.length <= PROMPT_MAX || isTold ||
      (message.prompt && this.#isUnshared);
    if (position + 1 === items.length) return;
    if (position % lookEvery !== 0 && !isPrompt) return;
    this.#starts(position + 1);
    if (!isPrompt && this.#world.time - reported < REPORT_MS) return;
    this.#chunk!.lookEvery = 1;
    this.#report(false);
  }

  /** Whether the result of what ran at a place can be found in shared memory. */
  isKept(slot: number, position: number): boolean {
    return this.slots?.[slot].kinds[position] === NUMBER;
  }

  /** Where a value cannot be cloned, each travels alone. */
  #report(last: boolean): void {
    const done = this.#done;
    const { values, failures, times } = done;
    const chunk = this.#chunk!;
    done.elapsed = this.#world.time - chunk.began;
    done.last = last;
    chunk.reported = this.#world.time;
    if (!this.#uncloneable) this.#port!.postMessage(done);
    else {
      values.forEach((value, i) => {
        const failure = failures?.get(i);
        this.#port!.postMessage({
          ...done,
          values: [value],
          failures: failure === undefined ? undefined : new Map([[0, failure]]),
          times: times.slice(2 * i, 2 * i + 2),
          last: last && i === values.length - 1,
        });
      });
    }
    this.#done = this.#results();
    this.#isUnshared = false;
  }

  // Ending

  /** What nobody catches is told to the pool, and ends the thread. */
  #crash(): void {
    this.#port!.postMessage({ type: "crashed", error: { value: "uncaught" } });
    this.#end();
  }

  #end(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#log(`has ended${this.terminated === undefined ? " unasked" : ""}`);
    const mailbox = this.#port?.other.mailbox ?? this.#worker.mailbox;
    this.#world.releaseLock(this.#lock, mailbox);
  }

  #later(ms: number, run: () => void): void {
    this.#world.elsewhere(ms, () => {
      if (this.alive) run();
    });
  }

  /** What time it is here, in milliseconds since 1970. */
  #clock(): number {
    return EPOCH + this.start.clockOffset + this.#world.time;
  }

  #log(text: string): void {
    this.#world.log(() => `worker ${this.id} ${text}`);
  }
}
