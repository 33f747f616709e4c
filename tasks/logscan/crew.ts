/**
 * This thread and workers beside it, as one runner.
 *
 * @module
 */

import { type Items, Pool, sequential } from "../../mod.ts";
import {
  type LogJobs,
  type LogRunner,
  type Query,
  type ScanRequest,
  service,
} from "../../workers/logscan.ts";
import { Yielder } from "../cli/program.ts";

/** What is left to be scanned, as far as is known. */
export interface Backlog {
  /** How many files wait for it. */
  readonly waiting: number;
  /** Whether these are all; else more are being found. */
  readonly isAll: boolean;
}

/** The files that were found and are not done yet, in their order. */
export class Ahead implements Backlog {
  isAll = false;
  readonly #files: { path: string; name: string }[] = [];
  #taken = 0;
  #done = 0;

  get waiting(): number {
    return this.#files.length - this.#taken;
  }

  /** What to call the first one that is not done. */
  get name(): string {
    return this.#files[this.#done].name;
  }

  add(path: string, name: string): void {
    this.#files.push({ path, name });
  }

  /** The path of the next one to scan. */
  take(): string {
    return this.#files[this.#taken++].path;
  }

  /** The first one is done. */
  done(): void {
    this.#done++;
    // By the thousand: to shift each out of 20,000 took 10 µs.
    if (this.#done < 1000) return;
    this.#files.splice(0, this.#done);
    this.#taken -= this.#done;
    this.#done = 0;
  }
}

/**
 * How many files are found before the first is scanned, how many more for each
 * that is, and how many wait at most.
 */
export const AHEAD = 500, AHEAD_MORE = 8, AHEAD_MAX = 100_000;
/**
 * A worker is asked for where so much is known to be left for one thread, in
 * ms. To start one holds this thread up for 40 ms and takes 150 of the other
 * core's; what was 200 ms for one thread took 10 longer with a worker beside it,
 * what was 300, 30 less.
 */
const WORTH = 300;
/** Before it has worked so long, this thread is no measure, in ms. */
const COLD = 20;
/** How many outcomes of this thread wait for those of workers, at most. */
const HELD = 16;

/**
 * This thread, and workers beside it as soon as they are worth their start: it
 * scans hundreds of megabytes in the time that takes.
 */
export class Crew implements LogRunner, AsyncDisposable {
  readonly #query: Query;
  readonly #ahead: Backlog;
  readonly #size: number;
  readonly #here = sequential(service);
  readonly #turns = new Yielder();
  #pool?: Pool<LogJobs>;
  #isReady = false;
  /** How long this thread has worked, and lately for a span, in ms. */
  #worked = 0;
  #pace = 0;

  /**
   * @param query What workers will be asked, to see that they have started
   * @param ahead The files that are waiting
   * @param size How many threads work, this one included
   */
  constructor(
    query: Query,
    ahead: Backlog,
    size: number = navigator.hardwareConcurrency,
  ) {
    this.#query = query;
    this.#ahead = ahead;
    this.#size = size;
  }

  // Typed as a runner's; what they pass on they need not understand.
  readonly apply =
    ((job: never, args: never, options: never) =>
      this.#here.apply(job, args, options)) as LogRunner["apply"];

  readonly imap =
    ((job: never, items: Items<never>, options: never) =>
      this.#imap(job, items, options)) as LogRunner["imap"];

  /** Outcomes in the order of the items, whoever takes which. */
  async *#imap(job: never, items: Items<never>, options: never) {
    const source = async function* () {
      yield* items;
    }();
    /** Of the items under way, in their order: whether they are ours. */
    const ours: boolean[] = [];
    const held: unknown[] = [];
    let ended = false;
    const pull = async (isOurs: boolean) => {
      const { done, value } = await source.next();
      if (done) ended = true;
      else ours.push(isOurs);
      return value;
    };
    const theirs = async function* () {
      for (let item; (item = await pull(false)) !== undefined;) yield item;
    };
    let outcomes: AsyncGenerator<unknown> | undefined;
    let reply: Promise<void> | undefined;
    let replied: IteratorResult<unknown> | undefined;
    for (;;) {
      if (this.#isReady && !reply) {
        outcomes ??= this.#pool!.imap(job, theirs(), options);
        reply = outcomes.next().then((result) => void (replied = result));
        reply.catch(() => {}); // of one that nobody waits for any more
      }
      if (ours[0] === true && held.length > 0) {
        ours.shift();
        yield held.shift() as never;
      } else if (ours[0] === false && replied) {
        ours.shift();
        const { value } = replied;
        reply = replied = undefined;
        yield value as never;
      } else if (!ended && held.length < HELD) {
        const item = await pull(true);
        if (item === undefined) continue;
        held.push(await this.#work(job, item, options));
        await this.#turns.yield();
      } else if (ours.length > 0) await reply;
      else return;
    }
  }

  async #work(job: never, item: never, options: never): Promise<unknown> {
    const start = performance.now();
    const outcome = await this.#here.apply(job, [item] as never, options);
    const took = performance.now() - start;
    const { spans = [], behind = 0 } = item as Partial<ScanRequest>;
    this.#worked += took;
    this.#pace += (took / Math.max(1, spans.length) - this.#pace) / 4;
    if (this.#worked > COLD) this.#judge(behind);
    return outcome;
  }

  /** Starts as many workers as are worth it, once. */
  #judge(behind: number): void {
    const { waiting, isAll } = this.#ahead;
    const left = this.#pace * (behind + waiting);
    if (left < WORTH || this.#pool || this.#size === 1) return;
    const worth = isAll ? Math.ceil(left / WORTH) : Infinity;
    this.#pool = new Pool(service, { size: Math.min(worth, this.#size - 1) });
    this.#pool.apply("scanSpans", [{ spans: [], query: this.#query }]).then(
      () => this.#isReady = true,
      () => {}, // none could be started: this thread goes on alone
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#turns[Symbol.dispose]();
    await this.#pool?.terminate();
  }
}
