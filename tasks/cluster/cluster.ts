/**
 * A runner whose jobs are done by the machines that have joined.
 *
 * @module
 */

import {
  type Call,
  Calls,
  Estimate,
  type Host,
  JobError,
  type Jobs,
  Runner,
  type Segment,
  type Service,
  type TaskTiming,
  timeoutError,
  WorkerLostError,
} from "../../mod.ts";
import { causeOf } from "../../workers/shared/files.ts";
import type { Address } from "./address.ts";
import type { Machine } from "./directory.ts";
import { JOBS, type Translate } from "./jobs.ts";
import type { Root } from "./roots.ts";
import { Run } from "./run.ts";
import { versionOf } from "./version.ts";
import {
  type AnswerMessage,
  CHUNK_CHARS,
  COMMON_CHARS,
  decodeAnswer,
  encode,
  encodeValue,
  type ItemAnswer,
  ITEMS_MAX,
  type Reference,
} from "./wire.ts";

/**
 * How long a chunk should take, in ms: what it costs to hand it over, some ms,
 * is nothing beside that, and a machine that dies takes no more than that with it.
 */
const CHUNK_MS = 500;
/** How many chunks each worker has, with the one that it works on. */
const AHEAD = 2;
/** A chunk that is lost so many times is parted into its items. */
const TRIES = 3;
/** After how long that no machine is there is said, in ms. */
const SAY_MS = 1000;

/** Options for {@linkcode Cluster.start}. */
export interface ClusterOptions {
  /** Where Redis is. */
  address: Address;
  /** Which of the services of jobs.ts it is. */
  name: string;
  /** What paths travel relative to; absent: they travel as they are. */
  root?: Root;
  /** How long to wait for machines, and for Redis, in seconds. */
  wait: number;
  /** What the workers may read and write; absent: read below their root. */
  permissions?: { read: string[]; write: string[] };
  /** A value for the service's `setup`. */
  init?: unknown;
  /** Is told of every item that was done; workers count over all machines. */
  onTask?: (timing: TaskTiming) => void;
  /** Takes a line for the user. */
  say: (line: string) => void;
}

/** What a machine has done. */
export interface MachineWork {
  name: string;
  /** How many of its workers had something to do. */
  workers: number;
  files: number;
  /** How long these workers were busy, together. */
  seconds: number;
}

type Answer = AnswerMessage<ItemAnswer>;

/** Items that were sent together. */
interface Chunk {
  segment: Segment;
  /** How often they were lost before. */
  tries: number;
  /** When they were sent, in ms since the epoch. */
  sent: number;
  /** How large an item was on average, in characters. */
  chars: number;
}

/** A machine that has answered. */
class Colleague {
  readonly name: string;
  /** The numbers of its workers among all. */
  readonly workers = new Map<number, number>();
  files = 0;
  ms = 0;
  /** What to add to its time for ours is between these, in ms. */
  #least = -Infinity;
  #most = Infinity;

  constructor(name: string) {
    this.name = name;
  }

  /** Learns from a chunk that was sent before it began, and ended before now. */
  compareClocks(sent: number, { began, ended }: Answer): void {
    this.#least = Math.max(this.#least, sent - began);
    this.#most = Math.min(this.#most, now() - ended);
  }

  /** What to add to its time for ours, in ms. */
  get clockOffset(): number {
    return Math.max(this.#least, Math.min(this.#most, 0));
  }
}

/**
 * Runs the jobs of a service on the machines that have joined.
 *
 * Calls, results and errors are those of a `Pool`; but an item whose machine dies
 * is done by another one, as a machine is gone sooner than a thread. Only an item
 * that takes several machines with it is a `WorkerLostError`.
 *
 * @typeParam J The jobs of the service
 */
export class Cluster<J extends Jobs> extends Runner<J> implements Host {
  readonly #options: ClusterOptions;
  protected override readonly calls: Calls;
  readonly #ready = new Set<Call>();
  readonly #estimates = new Map<string, Estimate>();
  readonly #chunks = new Map<string, Chunk>();
  readonly #colleagues = new Map<string, Colleague>();
  readonly #refused = new Set<string>();
  /** What items have in common, and what stands for it; nothing if it is small. */
  readonly #references = new Map<unknown, string | undefined>();
  #shared = 0;
  /** Where the workers are that have answered, by their numbers from 1. */
  readonly places: { machine: string; worker: number }[] = [];
  #machines: Machine[] = [];
  #run!: Run;
  #sent = 0;
  #isScheduling = false;
  #failure?: Error;
  #waiting: ReturnType<typeof setTimeout>[] = [];

  private constructor(service: Service<J>, options: ClusterOptions) {
    super();
    this.#options = options;
    this.calls = new Calls(this, service.jobs);
  }

  /**
   * Announces a run to the machines that join.
   *
   * @param service The jobs
   * @param options See {@linkcode ClusterOptions}
   * @throws {Error} If Redis cannot be reached; the message is a line
   */
  static async start<J extends Jobs>(
    service: Service<J>,
    options: ClusterOptions,
  ): Promise<Cluster<J>> {
    const cluster = new Cluster(service, options);
    const { address, name, root, wait, permissions, init } = options;
    const travelling = (paths?: string[]) =>
      root && paths ? paths.map((path) => root.relative(path)) : paths;
    const about = {
      version: await versionOf(),
      service: name,
      isRelative: root !== undefined,
      read: travelling(permissions?.read),
      write: travelling(permissions?.write),
      ...init !== undefined && { init: encodeValue(init) },
    };
    cluster.#run = await Run.begin(address, about, wait, {
      onAnswer: (id, answer) => cluster.#onAnswer(id, answer),
      onLost: (id, cause) => cluster.#onLost(id, cause),
      onMachines: (machines) => cluster.#onMachines(machines),
      onFailure: (error) => cluster.#fail(error),
      say: options.say,
    });
    cluster.#awaitMachines();
    return cluster;
  }

  /** What each machine has done so far. */
  get work(): MachineWork[] {
    return this.#colleagues.values().toArray().map((colleague) => {
      const { name, workers, files, ms } = colleague;
      return { name, workers: workers.size, files, seconds: ms / 1000 };
    });
  }

  // A host of calls

  /** How many chunks are worked on at a time; one at least is kept ready. */
  get size(): number {
    return Math.max(
      1,
      this.#machines.reduce((sum, { workers }) => sum + workers, 0),
    );
  }

  get isHungry(): boolean {
    return this.#chunks.size < this.size;
  }

  estimate(job: string): Estimate {
    let estimate = this.#estimates.get(job);
    if (!estimate) this.#estimates.set(job, estimate = new Estimate());
    return estimate;
  }

  onOffer(call: Call): void {
    if (call.isEnded) return;
    if (this.#failure) return call.end({ error: this.#failure });
    this.#ready.add(call);
    this.#schedule();
  }

  cancel(call: Call): void {
    this.#ready.delete(call);
    const ids = this.#chunks.entries()
      .filter(([, { segment }]) => segment.call === call)
      .map(([id]) => id).toArray();
    if (ids.length > 0) this.#run.cancel(ids);
  }

  // Sending

  #schedule(): void {
    // An input that is pulled here may call the runner itself.
    if (this.#isScheduling) return;
    this.#isScheduling = true;
    while (this.#chunks.size < AHEAD * this.size) {
      const segment = this.#next();
      if (!segment) break;
      this.#send({ segment, tries: 0, sent: 0, chars: 1 });
    }
    this.#isScheduling = false;
  }

  /** Takes the next items; calls take turns. */
  #next(): Segment | undefined {
    let left = this.#ready.size; // those that are added meanwhile come later
    for (const call of this.#ready) {
      if (left-- === 0) return;
      this.#ready.delete(call); // to the back; what has nothing will offer again
      const count = this.#chunkSize(call);
      const segment = count > 0 ? call.take(count) : undefined;
      if (call.hasMore) this.#ready.add(call);
      if (segment) return segment;
    }
  }

  /**
   * How many items of a call go next: fewer towards its end, so that the machines
   * end together; none where more are to come and all workers are busy.
   */
  #chunkSize(call: Call): number {
    const full = Math.min(call.chunkSize, ITEMS_MAX);
    const ahead = AHEAD * this.size;
    const waiting = call.prepare(full * ahead);
    if (call.isExhausted) {
      return Math.min(full, Math.ceil(waiting / ahead));
    }
    return waiting < full && !this.isHungry ? 0 : full;
  }

  #send(chunk: Chunk): void {
    const { segment } = chunk;
    const { call, first, items } = segment;
    const { job, spread, timeout } = call;
    try {
      const text = encode({
        job,
        spread,
        // Not by `map`, which leaves holes as they are.
        items: Array.from(items, (item) => this.#travelling(job, spread, item)),
        ...timeout < Infinity && { timeout },
      });
      if (text.length > CHUNK_CHARS && items.length > 1) {
        return this.#halve(chunk);
      }
      const id = `c${++this.#sent}`;
      chunk.sent = now();
      chunk.chars = text.length / items.length;
      this.#chunks.set(id, chunk);
      this.#run.add(id, text);
    } catch (error) {
      // Some item cannot be cloned, or is too large: only that one fails.
      if (items.length > 1) return this.#halve(chunk);
      call.settle(first, [new JobError(job, first, error)], true);
    }
  }

  #halve({ segment, ...chunk }: Chunk): void {
    const half = segment.items.length >> 1;
    this.#send({ ...chunk, segment: part(segment, 0, half) });
    this.#send({ ...chunk, segment: part(segment, half) });
  }

  /** An item as it travels: its paths, and what it has in common with others. */
  #travelling(job: string, spread: boolean, item: unknown): unknown {
    if (spread && (item as unknown[]).length === 0) return item;
    const { root, name } = this.#options;
    const { translate: ofJob, common } = JOBS[name][job];
    const translate: Translate = (path) => root!.relative(path as string);
    const [given, ...others] = spread ? item as unknown[] : [item];
    let only = root ? ofJob(given, translate).item : given;
    if (common) {
      const value = Reflect.get(given as object, common.name);
      const reference = this.#referenceTo(value, !spread);
      if (reference) only = { ...only as object, [common.name]: reference };
    }
    return spread ? [only, ...others] : only;
  }

  /** What stands for a value, if it is large; `isLasting`, if it will come again. */
  #referenceTo(value: unknown, isLasting: boolean): Reference | undefined {
    if (isLasting && !this.#references.has(value)) {
      const text = encodeValue(value);
      const isLarge = text.length > COMMON_CHARS;
      const reference = isLarge ? `v${++this.#shared}` : undefined;
      if (reference) this.#run.share(reference, text);
      this.#references.set(value, reference);
    }
    const reference = this.#references.get(value);
    return reference === undefined ? undefined : { reference };
  }

  // Receiving

  #onAnswer(id: string, data: unknown): void {
    const chunk = this.#take(id);
    if (!chunk) return;
    let message: Answer;
    try {
      message = decodeAnswer(data, chunk.segment.items.length);
    } catch (error) {
      this.#options.say(`an answer was refused: ${causeOf(error)}`);
      return this.#tryAgain(chunk, causeOf(error));
    }
    this.#learn(chunk, message);
    const { call, items } = chunk.segment;
    if (message.answers.length === 0 && !call.isEnded) {
      return this.#tryAgain(chunk, "nothing of it was done");
    }
    message.answers.forEach((answer, i) => this.#settle(chunk, i, answer));
    const rest = items.length - message.answers.length;
    if (rest > 0) {
      const from = items.length - rest;
      call.takeBack(part(chunk.segment, from));
      this.onOffer(call);
    }
    this.#schedule();
  }

  #take(id: string): Chunk | undefined {
    const chunk = this.#chunks.get(id);
    this.#chunks.delete(id);
    return chunk;
  }

  #settle(chunk: Chunk, i: number, answer: ItemAnswer): void {
    const segment = part(chunk.segment, i, i + 1);
    const { call, first, items: [item] } = segment;
    const { job, spread } = call;
    if (answer.kind === "done") {
      const { restore } = JOBS[this.#options.name][job];
      const only = spread ? (item as unknown[])[0] : item;
      const value = restore ? restore(answer.value, only) : answer.value;
      return call.settle(first, [value]);
    }
    if (answer.kind === "timed out") {
      return void call.miss(segment, timeoutError(call, first));
    }
    const { cause } = answer;
    if (answer.kind === "failed") {
      call.settle(first, [new JobError(job, first, cause)], true);
    } else call.miss(segment, new WorkerLostError(job, first, cause));
  }

  /** Notes what a machine has done, and how long items take. */
  #learn({ segment, sent, chars }: Chunk, message: Answer): void {
    const { machine, worker, answers, files, times, began, ended } = message;
    const { call: { job }, first } = segment;
    let colleague = this.#colleagues.get(machine);
    if (!colleague) {
      this.#colleagues.set(machine, colleague = new Colleague(machine));
    }
    colleague.compareClocks(sent, message);
    colleague.files += files;
    colleague.ms += ended - began;
    let number = colleague.workers.get(worker);
    if (number === undefined) {
      number = this.places.push({ machine, worker });
      colleague.workers.set(worker, number);
    }
    const { clockOffset } = colleague;
    for (let i = 0; 2 * i < times.length; i++) {
      const start = times[2 * i] + clockOffset;
      const end = times[2 * i + 1] + clockOffset;
      const index = first + i;
      this.#options.onTask?.({ worker: number, job, index, start, end });
    }
    if (answers.length === 0) return;
    const estimate = this.estimate(job);
    estimate.perItem = (ended - began) / answers.length;
    // Step by step, as the first items may be the short ones.
    const fitting = Math.min(
      CHUNK_MS / estimate.perItem,
      CHUNK_CHARS / chars,
      Math.max(estimate.chunkSize, 4 * answers.length),
    );
    estimate.chunkSize = Math.max(1, Math.min(ITEMS_MAX, Math.floor(fitting)));
  }

  #onLost(id: string, cause: string): void {
    const chunk = this.#take(id);
    this.#references.clear(); // what it refers to may be gone as well
    if (chunk) this.#tryAgain(chunk, cause);
  }

  /** Sends a chunk to another machine. */
  #tryAgain({ segment, ...chunk }: Chunk, cause: string): void {
    const { call, first, items } = segment;
    const tries = chunk.tries + 1;
    if (call.isEnded) call.takeBack(segment);
    else if (tries < TRIES) this.#send({ ...chunk, segment, tries });
    else if (items.length > 1) {
      // One of them may be the cause. The others must not be lost with it.
      items.forEach((_, i) =>
        this.#send({ ...chunk, segment: part(segment, i, i + 1) })
      );
    } else {
      const error = new WorkerLostError(call.job, first, new Error(cause));
      call.miss(segment, error);
    }
    this.#schedule();
  }

  // Machines

  #onMachines(machines: Machine[]): void {
    const { say } = this.#options;
    for (const { name, refused } of machines) {
      if (refused === undefined || this.#refused.has(name)) continue;
      this.#refused.add(name);
      say(`${name} does not take part: its jobs are ${refused}, not the same`);
    }
    this.#machines = machines;
    this.#awaitMachines();
    this.#schedule();
  }

  /** Says that no machine is there, and gives up after a while. */
  #awaitMachines(): void {
    const isThere = this.#machines.some(({ workers }) => workers > 0);
    if (isThere) {
      this.#waiting.forEach(clearTimeout);
      this.#waiting = [];
    }
    if (isThere || this.#waiting.length > 0 || this.#failure) return;
    const { address, wait, say } = this.#options;
    const where = `deno task join --redis ${address.shown} --root DIR`;
    this.#waiting = [
      setTimeout(
        () => say(`waiting up to ${wait} s for a machine to join: ${where}`),
        SAY_MS,
      ),
      setTimeout(
        () => this.#fail(new Error(`no machine joined within ${wait} s`)),
        1000 * wait,
      ),
    ];
  }

  // The end

  #fail(error: Error): void {
    this.#failure ??= error;
    this.calls.fail(error);
  }

  override async close(): Promise<void> {
    await this.calls.drain();
    await this.terminate();
  }

  override terminate(): Promise<void> {
    this.#waiting.forEach(clearTimeout);
    this.calls.terminate();
    return this.#run.close();
  }
}

/** A part of a segment. */
function part(segment: Segment, from: number, to?: number): Segment {
  const { first, items } = segment;
  return { ...segment, first: first + from, items: items.slice(from, to) };
}

/** The clock: milliseconds since the epoch. */
function now(): number {
  return performance.timeOrigin + performance.now();
}
