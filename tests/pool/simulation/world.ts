/**
 * The world around a pool: clock, event loop, workers, ports, locks, timers.
 *
 * All of it is virtual and driven by one seeded generator, so that a run of
 * minutes takes a millisecond and can be repeated. Real is only the code of the
 * pool, its promises, and shared memory.
 */
import { setImmediate } from "node:timers";

/** One seeded generator: the same seed gives the same world. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) | 0;
  }

  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  between(least: number, most: number): number {
    return least + (most - least) * this.next();
  }

  whole(least: number, most: number): number {
    return Math.floor(this.between(least, most + 1));
  }

  /** Every order of magnitude is as likely as the other. */
  magnitude(least: number, most: number): number {
    return least * (most / least) ** this.next();
  }

  pick<T>(list: readonly T[]): T {
    return list[this.whole(0, list.length - 1)];
  }

  /** Another generator, so that one caller's draws do not shift another's. */
  fork(): Random {
    return new Random(this.next() * 2 ** 32);
  }
}

/** Something that is to happen, at a point of virtual time in milliseconds. */
interface Happening {
  due: number;
  run: () => void;
}

/** What is to happen, ordered by time; at the same time, in order of coming. */
class Agenda {
  readonly list: Happening[] = [];

  add(happening: Happening): void {
    let at = this.list.length;
    while (at > 0 && this.list[at - 1].due > happening.due) at--;
    this.list.splice(at, 0, happening);
  }

  remove(happening: Happening): void {
    const at = this.list.indexOf(happening);
    if (at >= 0) this.list.splice(at, 1);
  }

  get due(): number {
    return this.list.length > 0 ? this.list[0].due : Infinity;
  }
}

/**
 * What travels one way, first in, first out. A loop takes one message of each
 * mailbox a turn, so that what was sent together may arrive in several turns.
 */
class Mailbox {
  readonly list: Happening[] = [];
  /** When the last message that was put in can be taken out. */
  lastDue = 0;
}

/** A thread besides the caller's, as far as the world knows it. */
export interface Peer {
  /** A message to the worker, or over its port, has arrived. */
  receive(message: unknown, ports: Port[]): void;
  /** The pool has called `terminate`. */
  terminate(): void;
}

/** What watches the messages of the pool. */
export interface Witness {
  /** Throws where the message cannot be cloned; tells how many ms it takes. */
  sending(peer: Peer, message: unknown, moved: readonly unknown[]): number;
  /** The pool is about to handle, or has handled, a message of this peer. */
  delivering(peer: Peer, message: unknown): void;
  delivered(peer: Peer, message: unknown): void;
  /** The caller's thread has handled a task, and all that followed from it. */
  afterTask(): void;
}

type Handler = ((event: unknown) => void) | null;

/** In place of MessagePort. */
export class Port {
  onmessage: Handler = null;
  onmessageerror: Handler = null;
  other!: Port;
  /** The thread that it was moved to; else it is the caller's. */
  peer?: Peer;
  closed = false;
  readonly mailbox = new Mailbox();
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  postMessage(message: unknown, moved: unknown[] = []): void {
    const { other } = this;
    if (this.closed || other.closed) return;
    if (other.peer) this.#world.send(other, other.peer, message, moved);
    else {
      this.#world.deliver(other.mailbox, () => {
        if (other.closed) return;
        const { witness } = this.#world;
        if (this.peer) witness.delivering(this.peer, message);
        other.onmessage?.({ data: message });
        if (this.peer) witness.delivered(this.peer, message);
      });
    }
  }

  close(): void {
    this.closed = this.other.closed = true;
    this.#world.forget(this);
    this.#world.forget(this.other);
  }
}

/** In place of Worker. */
export class SimulatedWorker {
  onmessage: Handler = null;
  onerror: Handler = null;
  onmessageerror: Handler = null;
  readonly mailbox = new Mailbox();
  readonly #world: World;
  readonly #peer: Peer;

  constructor(world: World) {
    this.#world = world;
    this.#peer = world.spawn(this);
  }

  postMessage(message: unknown, moved: unknown[] = []): void {
    this.#world.send(this, this.#peer, message, moved);
  }

  terminate(): void {
    this.#peer.terminate();
  }

  /** From the worker's thread, to the pool. */
  emit(type: "onmessage" | "onerror", event: unknown): void {
    this.#world.deliver(this.mailbox, () => {
      this.#world.witness.delivering(this.#peer, event);
      this[type]?.(event);
    });
  }
}

interface LockRequest {
  name: string;
  grant: () => void;
}

export class World implements Disposable {
  /** Milliseconds since the world began. */
  time = 0;
  /** How long the caller's thread has been busy with itself in all. */
  blocked = 0;
  /** When it was so last, for longer than a moment. */
  blockedAt = -Infinity;
  /** How many tasks the caller's thread has handled. */
  tasks = 0;
  readonly random: Random;
  /** What happened, where a trace is wanted. */
  trace?: string[];
  witness!: Witness;
  /** Starts the thread of a new worker. */
  spawn!: (worker: SimulatedWorker) => Peer;
  /** Ports of the pool that are open. */
  readonly ports = new Set<Port>();
  readonly lockRequests = new Set<LockRequest>();
  /** Timers that the pool waits for. */
  readonly waitedFor = new Set<unknown>();
  /** What was printed on stderr. */
  readonly printed: string[] = [];
  readonly #heldLocks = new Set<string>();
  readonly #threads = new Agenda();
  readonly #timers = new Agenda();
  /** Those that are not empty. */
  readonly #mailboxes = new Set<Mailbox>();
  readonly #restore: (() => void)[] = [];

  constructor(seed: number) {
    this.random = new Random(~seed);
  }

  // Time

  /** Lets everything happen, in order, until that is so, or nothing is left. */
  async runUntil(isOver: () => boolean): Promise<boolean> {
    await this.#task(() => {}); // what was done before
    while (!isOver()) {
      let due = Math.min(this.#timers.due, this.#threads.due);
      for (const { list } of this.#mailboxes) due = Math.min(due, list[0].due);
      if (due === Infinity) return false;
      this.#advance(Math.max(due, this.time));
      // A loop that was blocked finds timers and messages due: either may be
      // first.
      const phases = [() => this.#fireTimers(), () => this.#takeMessages()];
      if (this.random.chance(0.5)) phases.reverse();
      for (const phase of phases) await phase();
    }
    return true;
  }

  /** The caller's thread computes, while the other threads go on. */
  block(ms: number): void {
    if (ms > 1) this.blockedAt = Infinity;
    this.#advance(this.time + ms);
    this.blocked += ms;
    if (ms > 1) this.blockedAt = this.time;
  }

  /** How long the caller's thread had time to do something. */
  get ownTime(): number {
    return this.time - this.blocked;
  }

  /** For the scenario itself: what the pool waits for is counted. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#timer(ms, resolve));
  }

  /** Something that happens on another thread. */
  elsewhere(ms: number, run: () => void): void {
    this.#threads.add({ due: this.time + ms, run });
  }

  /** How long a message takes until the other thread can take it. */
  latency(): number {
    const { random } = this;
    return random.chance(0.02) ? 5 * random.next() : 0.02 + 0.2 * random.next();
  }

  log(text: () => string): void {
    this.trace?.push(`${this.time.toFixed(3).padStart(11)} ${text()}`);
  }

  #advance(until: number): void {
    const { list } = this.#threads;
    while (list.length > 0 && list[0].due <= until) {
      const { due, run } = list.shift()!;
      this.time = Math.max(this.time, due);
      run();
    }
    this.time = Math.max(this.time, until);
  }

  async #fireTimers(): Promise<void> {
    const { list } = this.#timers;
    const now = this.time;
    while (list.length > 0 && list[0].due <= now) {
      await this.#task(list.shift()!.run);
    }
  }

  async #takeMessages(): Promise<void> {
    const now = this.time;
    const due = [...this.#mailboxes].filter(({ list }) => list[0].due <= now);
    if (due.length > 1 && this.random.chance(0.5)) due.reverse();
    for (const mailbox of due) {
      // It may have been closed by what was taken out of another.
      const message = mailbox.list.shift();
      if (mailbox.list.length === 0) this.#mailboxes.delete(mailbox);
      if (message) await this.#task(message.run);
    }
  }

  async #task(run: () => void): Promise<void> {
    this.tasks++;
    run();
    await this.#settle();
    this.witness.afterTask();
  }

  /** One turn of the real loop, after which no promise has anything to do. */
  #settle(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  // Messages

  /** To the caller's thread; not before a time, where that is given. */
  deliver(mailbox: Mailbox, run: () => void, after = 0): void {
    const due = Math.max(this.time + this.latency(), mailbox.lastDue, after);
    mailbox.lastDue = due;
    mailbox.list.push({ due, run });
    this.#mailboxes.add(mailbox);
  }

  /** From the caller's thread, which serializes the message. */
  send(
    { mailbox }: { mailbox: Mailbox },
    peer: Peer,
    message: unknown,
    moved: unknown[],
  ): void {
    const ms = this.witness.sending(peer, message, moved);
    this.block(ms);
    const ports = moved.filter((value) => value instanceof Port);
    for (const port of ports) {
      port.peer = peer;
      this.ports.delete(port);
    }
    const due = this.time + this.latency();
    mailbox.lastDue = Math.max(due, mailbox.lastDue);
    this.elsewhere(
      mailbox.lastDue - this.time,
      () => peer.receive(message, ports),
    );
  }

  forget(port: Port): void {
    this.ports.delete(port);
    this.#mailboxes.delete(port.mailbox);
    port.mailbox.list.length = 0;
  }

  // Locks

  holdLock(name: string): void {
    this.#heldLocks.add(name);
  }

  isHeld(name: string): boolean {
    return this.#heldLocks.has(name);
  }

  /** Not before what was sent can be taken, but maybe before it is taken. */
  releaseLock(name: string, { lastDue }: { lastDue: number }): void {
    if (!this.#heldLocks.delete(name)) return;
    for (const request of this.lockRequests) {
      if (request.name !== name) continue;
      this.deliver(new Mailbox(), request.grant, lastDue);
    }
  }

  async #requestLock(
    name: string,
    options: { signal?: AbortSignal },
    granted: () => unknown,
  ): Promise<unknown> {
    options.signal?.throwIfAborted();
    return await new Promise((resolve, reject) => {
      const grant = () => {
        if (this.lockRequests.delete(request)) resolve(granted());
      };
      const request = { name, grant };
      this.lockRequests.add(request);
      options.signal?.addEventListener("abort", () => {
        if (this.lockRequests.delete(request)) reject(options.signal!.reason);
      });
      if (!this.#heldLocks.has(name)) this.deliver(new Mailbox(), grant);
    });
  }

  // Timers

  #timer(ms: number, run: () => void): Happening {
    // Timers are never early, and a little late.
    const due = this.time + Math.max(0, ms) + 0.01 + this.random.next();
    const timer = { due, run };
    this.#timers.add(timer);
    return timer;
  }

  #setTimeout(run: () => void, ms = 0): Happening {
    const timer = this.#timer(ms, () => {
      this.waitedFor.delete(timer);
      run();
    });
    this.waitedFor.add(timer);
    return timer;
  }

  #clearTimeout(timer?: Happening): void {
    if (timer === undefined) return;
    this.#timers.remove(timer);
    this.waitedFor.delete(timer);
  }

  /** Cannot be cancelled; it is waited for while somebody listens. */
  #timeoutSignal(ms: number): AbortSignal {
    const controller = new AbortController();
    const { signal } = controller;
    let listeners = 0;
    countListeners(signal, (by) => {
      listeners += by;
      if (listeners > 0 && !signal.aborted) this.waitedFor.add(signal);
      else this.waitedFor.delete(signal);
    });
    this.#timer(ms, () => {
      this.waitedFor.delete(signal);
      controller.abort(TIMED_OUT);
    });
    return signal;
  }

  // Installing

  /** Takes the place of the real world, until it is disposed of. */
  install(): void {
    // deno-lint-ignore no-this-alias
    const world = this;
    this.#replace(globalThis, {
      Worker: class extends SimulatedWorker {
        constructor() {
          super(world);
        }
      },
      MessageChannel: class {
        port1 = new Port(world);
        port2 = new Port(world);
        constructor() {
          this.port1.other = this.port2;
          this.port2.other = this.port1;
          world.ports.add(this.port1).add(this.port2);
        }
      },
      setTimeout: (run: () => void, ms?: number) => this.#setTimeout(run, ms),
      clearTimeout: (timer?: Happening) => this.#clearTimeout(timer),
    });
    this.#replace(AbortSignal, {
      timeout: (ms: number) => this.#timeoutSignal(ms),
    });
    this.#replace(navigator, {
      locks: {
        request: (
          name: string,
          options: { signal?: AbortSignal },
          granted: () => unknown,
        ) => this.#requestLock(name, options, granted),
      },
    });
    this.#replace(performance, {
      timeOrigin: EPOCH,
      // Time passes between two looks at the clock: other threads go on.
      now: () => {
        this.block(0.002 * this.random.next());
        return this.time;
      },
    });
    // Where errors come from is of interest in a trace only, and slow.
    if (!this.trace) this.#replace(Error, { stackTraceLimit: 0 });
    this.#replace(console, {
      error: (...texts: unknown[]) => this.printed.push(texts.join(" ")),
    });
  }

  #replace(target: object, values: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(values)) {
      const before = Object.getOwnPropertyDescriptor(target, name);
      const ours = { value, configurable: true, writable: true };
      Object.defineProperty(target, name, ours);
      this.#restore.push(() => {
        if (before) Object.defineProperty(target, name, before);
        else Reflect.deleteProperty(target, name);
      });
    }
  }

  [Symbol.dispose](): void {
    for (const restore of this.#restore.reverse()) restore();
    this.#restore.length = 0;
  }
}

const TIMED_OUT = new DOMException("Signal timed out.", "TimeoutError");

/** When the world began, in milliseconds since 1970. */
export const EPOCH = 1_700_000_000_000;

/** Tells by how many the listeners of a signal become more, or less. */
export function countListeners(
  signal: AbortSignal,
  changed: (by: number) => void,
): void {
  const listeners = new Set<unknown>();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (type: string, listener: unknown) => {
    if (!listeners.has(listener)) changed(1);
    listeners.add(listener);
    addEventListener.call(signal, type, listener as () => void);
  };
  signal.removeEventListener = (type: string, listener: unknown) => {
    if (listeners.delete(listener)) changed(-1);
    removeEventListener.call(signal, type, listener as () => void);
  };
}
