/**
 * A run as its starter sees it: chunks go out, answers and machines come in.
 *
 * @module
 */

import { Queue } from "bullmq";
import type { Redis } from "ioredis";
import type { Address } from "./address.ts";
import {
  type Announcement,
  type Machine,
  NEWS,
  PREFIX,
  RunKeys,
  Sweeper,
} from "./directory.ts";
import { another, connect, disconnect, Pulse } from "./redis.ts";

/** How often the starter gives a sign of life, in ms. */
const BEAT_MS = 500;
/** How often at first, and how many times, as machines are about to join. */
const FIRST_BEAT_MS = 50, FIRST_BEATS = 20;
/** A machine is gone that has given no sign of life for so long, in ms. */
const MACHINE_MS = 4000;
/** How long machines may take to leave a run that has ended, in ms. */
const LEAVE_MS = 3000;
/** How long a read waits for events, in ms. */
const BLOCK_MS = 1000;
/** Read events are removed from Redis when they are so large, in characters. */
const TRIM_CHARS = 1 << 20;
/** The same by their number. */
const TRIM_EVENTS = 500;
/** A chunk is missing that Redis has not known for so long, in ms. */
const MISSING_MS = 2000;

/** What a run tells. */
export interface RunEvents {
  /** A chunk has an answer, which may be anything. */
  onAnswer(id: string, answer: unknown): void;
  /** A chunk is lost: its machine died, or refused it. */
  onLost(id: string, cause: string): void;
  /** Other machines take part than before. */
  onMachines(machines: Machine[]): void;
  /** It cannot go on. */
  onFailure(error: Error): void;
  /** A line for the user. */
  say(line: string): void;
}

/** A machine, and when it was last heard of. */
interface Presence {
  text: string;
  machine?: Machine;
  /** How long it has been silent, in ms. */
  silent: number;
}

/** A batch in Redis, with a queue of its own. */
export class Run {
  readonly #redis: Redis;
  readonly #reader: Redis;
  readonly #queue: Queue;
  readonly #keys: RunKeys;
  readonly #about: Announcement;
  readonly #events: RunEvents;
  readonly #sweeper: Sweeper;
  readonly #pulse: Pulse;
  readonly #presences = new Map<string, Presence>();
  /** Chunks that have no answer, and how long Redis has not known them, in ms. */
  readonly #open = new Map<string, number>();
  #machines = "";
  #beats = 0;
  #lastBeat = performance.now();
  #reading?: Promise<void>;
  #isOver = false;
  #closed?: Promise<void>;

  private constructor(
    address: Address,
    redis: Redis,
    about: Announcement,
    wait: number,
    events: RunEvents,
  ) {
    const id = crypto.randomUUID();
    this.#redis = redis;
    this.#reader = another(redis);
    this.#keys = new RunKeys(id);
    this.#about = about;
    this.#events = events;
    this.#sweeper = new Sweeper(redis, id);
    this.#queue = new Queue(id, {
      connection: redis,
      prefix: PREFIX,
      defaultJobOptions: { removeOnComplete: true, removeOnFail: true },
    });
    // Said once, and by the pulse: BullMQ says it again and again.
    this.#queue.on("error", () => {});
    const { say: onSilent, say: onBack, onFailure: onLost } = events;
    const beat = () => this.#beat();
    const told = { onSilent, onBack, onLost };
    this.#pulse = new Pulse(address, redis, BEAT_MS, wait, beat, told);
  }

  /**
   * Begins a run, and removes what interrupted ones left.
   *
   * @param address Where Redis is
   * @param about What machines have to know
   * @param wait How long Redis may be gone, in seconds
   * @param events Whom to tell
   * @throws {Error} If Redis cannot be reached
   */
  static async begin(
    address: Address,
    about: Announcement,
    wait: number,
    events: RunEvents,
  ): Promise<Run> {
    const redis = await connect(address);
    const run = new Run(address, redis, about, wait, events);
    run.#reading = run.#readEvents();
    return run;
  }

  /** Puts a chunk into the queue. */
  async add(id: string, data: string): Promise<void> {
    this.#open.set(id, 0);
    try {
      await this.#queue.add("chunk", data, { jobId: id });
    } catch (error) {
      if (!this.#isOver) this.#events.onFailure(error as Error);
    }
  }

  /** Keeps a value that chunks refer to; it is there before those that follow. */
  share(reference: string, data: string): void {
    // Where it fails, chunks that refer to it are refused, and sent again.
    this.#redis.set(this.#keys.value(reference), data).catch(() => {});
  }

  /** Nobody waits for these chunks any more. */
  async cancel(ids: string[]): Promise<void> {
    try {
      await this.#redis.sadd(this.#keys.cancelled, ids);
      await this.#redis.publish(NEWS, this.#keys.id);
    } catch {
      // The run is over, or Redis is gone, which the pulse says.
    }
  }

  // Signs of life

  async #beat(): Promise<number> {
    const now = performance.now();
    // It may have been stopped itself: that time is nobody's silence.
    const ms = Math.min(now - this.#lastBeat, 2 * BEAT_MS);
    this.#lastBeat = now;
    await this.#keys.announce(this.#redis, "open", this.#about);
    if (this.#beats === 0) await this.#redis.publish(NEWS, this.#keys.id);
    this.#meet(await this.#redis.hgetall(this.#keys.machines), ms);
    await this.#sweeper.sweep();
    await this.#findMissing(ms);
    return this.#beats++ < FIRST_BEATS ? FIRST_BEAT_MS : BEAT_MS;
  }

  /** Notes which machines are there; those that fell silent are not. */
  #meet(found: Record<string, string>, ms: number): void {
    for (const [name, text] of Object.entries(found)) {
      const known = this.#presences.get(name);
      if (known?.text === text) known.silent += ms;
      else {
        const machine = machineOf(name, text);
        this.#presences.set(name, { text, machine, silent: 0 });
      }
    }
    for (const [name, { silent }] of this.#presences) {
      const isGone = !(name in found);
      if (isGone || silent > MACHINE_MS) this.#presences.delete(name);
      if (!isGone && silent > MACHINE_MS) {
        this.#redis.hdel(this.#keys.machines, name).catch(() => {});
      }
    }
    const machines = this.#presences.values().toArray()
      .flatMap(({ machine }) => machine ?? []);
    const text = JSON.stringify(machines);
    if (text === this.#machines) return;
    this.#machines = text;
    this.#events.onMachines(machines);
  }

  /**
   * Finds chunks that Redis does not know: it was started again without having
   * saved them, or somebody removed them.
   */
  async #findMissing(ms: number): Promise<void> {
    const ids = [...this.#open.keys()];
    if (ids.length === 0) return;
    const commands = this.#redis.pipeline();
    for (const id of ids) commands.exists(this.#keys.job(id));
    const results = await commands.exec() ?? [];
    for (const [i, [, isThere]] of results.entries()) {
      const missing = this.#open.get(ids[i]);
      if (missing === undefined) continue; // answered meanwhile
      this.#open.set(ids[i], isThere === 0 ? missing + ms : 0);
      if (isThere !== 0 || missing < MISSING_MS) continue;
      this.#open.delete(ids[i]);
      this.#events.onLost(ids[i], "Redis has forgotten it");
    }
  }

  // Answers

  /**
   * Reads BullMQ's stream of events. Its own reader stops for ever at an answer
   * that is not JSON, and keeps all answers in Redis.
   */
  async #readEvents(): Promise<void> {
    let last = "0", chars = 0, count = 0;
    while (!this.#isOver) {
      try {
        const found = await this.#reader.xread(
          ...["COUNT", 100, "BLOCK", BLOCK_MS] as const,
          ...["STREAMS", this.#keys.events, last] as const,
        );
        for (const [id, fields] of found?.[0][1] ?? []) {
          last = id;
          count++;
          for (const field of fields) chars += field.length;
          this.#receive(fields);
        }
        if (chars < TRIM_CHARS && count < TRIM_EVENTS) continue;
        [chars, count] = [0, 0];
        await this.#reader.xtrim(this.#keys.events, "MINID", last);
      } catch {
        // The connection is lost, which the pulse says, or the run is over.
        if (this.#isOver) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  #receive(fields: string[]): void {
    const event: Record<string, string> = {};
    for (let i = 0; i < fields.length; i += 2) event[fields[i]] = fields[i + 1];
    const { jobId, returnvalue, failedReason } = event;
    const isEnd = event.event === "completed" || event.event === "failed";
    // What nobody has sent, or is answered, is none of ours.
    if (!isEnd || !this.#open.delete(jobId)) return;
    if (event.event === "failed") this.#events.onLost(jobId, `${failedReason}`);
    else this.#events.onAnswer(jobId, jsonOf(returnvalue));
  }

  // The end

  /** Ends the run: machines leave it, and nothing is left of it in Redis. */
  close(): Promise<void> {
    return this.#closed ??= this.#end();
  }

  async #end(): Promise<void> {
    this.#pulse[Symbol.dispose]();
    this.#isOver = true;
    this.#reader.disconnect();
    // Where Redis does not answer, it is left as it is: its successor cleans up.
    if (this.#redis.status === "ready") {
      const limit = Promise.withResolvers<void>();
      const timer = setTimeout(limit.resolve, 2 * LEAVE_MS);
      await Promise.race([this.#clean().catch(() => {}), limit.promise]);
      clearTimeout(timer);
    }
    await this.#reading;
    await disconnect(this.#redis);
    await this.#queue.close().catch(() => {});
  }

  async #clean(): Promise<void> {
    await this.#keys.announce(this.#redis, "ended");
    await this.#redis.publish(NEWS, this.#keys.id);
    // Machines that are in it still would make keys after these were removed.
    for (let ms = 0; ms < LEAVE_MS; ms += 20) {
      const found = await this.#redis.hkeys(this.#keys.machines);
      if (!found.some((name) => this.#isPresent(name))) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await this.#keys.remove(this.#redis);
    while (!await this.#sweeper.sweep()) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  #isPresent(name: string): boolean {
    return (this.#presences.get(name)?.silent ?? 0) <= MACHINE_MS / 2;
  }
}

/** What a machine says of itself, if it makes sense. */
function machineOf(name: string, text: string): Machine | undefined {
  const { workers, refused } = jsonOf(text) as Partial<Machine> ?? {};
  if (typeof refused === "string") return { name, workers: 0, refused };
  return Number.isSafeInteger(workers) && workers! >= 0
    ? { name, workers: workers! }
    : undefined;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return;
  }
}
