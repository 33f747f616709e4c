/**
 * A joined process in one run: takes chunks and does them.
 *
 * @module
 */

import { type Job, UnrecoverableError, Worker } from "bullmq";
import type { Redis } from "ioredis";
import {
  type CallOptions,
  describe,
  JobError,
  type Jobs,
  Pool,
  type Service,
  WorkerLostError,
} from "../../mod.ts";
import {
  causeOf,
  clearTemporary,
  folderOf,
} from "../../workers/shared/files.ts";
import { count } from "../cli/terminal.ts";
import { type Announcement, PREFIX, type RunKeys } from "./directory.ts";
import { JOBS, type LocalItem, whole } from "./jobs.ts";
import type { MemberOptions } from "./member.ts";
import {
  ANSWER_BYTES,
  type AnswerMessage,
  decodeChunk,
  decodeValue,
  encode,
  pack,
  type PackedAnswer,
  VALUE_BYTES,
} from "./wire.ts";

/** A chunk whose machine has not renewed its lock for so long goes to others, in ms. */
const LOCK_MS = 5000;
/** How often it is looked for such chunks, in ms. */
const STALLED_MS = 500;
/** How long BullMQ waits before it tries again what failed, in ms. */
const RETRY_MS = 200;

/** A worker thread: a pool of one, so that it is known what it does. */
interface Slot {
  readonly number: number;
  readonly pool: Pool<Jobs>;
  /** Told of each item that it has done. */
  onTask: (index: number, start: number, end: number) => void;
}

/** What a machine does in one run. */
export class Participation {
  readonly #keys: RunKeys;
  readonly #about: Announcement;
  readonly #service: Service<Jobs>;
  readonly #redis: Redis;
  readonly #options: MemberOptions & { name: string };
  readonly #worker: Worker;
  readonly #permissions: { read: string[]; write: string[] };
  readonly #init: unknown;
  readonly #free: Slot[] = [];
  readonly #slots: Slot[] = [];
  /** The chunks in hand, by the ids of their BullMQ jobs. */
  readonly #chunks = new Map<string, AbortController>();
  /** The folders that these chunks write into. */
  readonly #folders = new Set<string>();
  /** Lines that were said, to say none twice. */
  readonly #said = new Set<string>();
  /** What items have in common, as far as it was asked for. */
  readonly #common = new Map<string, Promise<unknown>>();
  #beats = 0;
  #workers: number;
  #files = 0;
  #since = 0;
  #until = 0;
  #ended?: Promise<void>;

  /**
   * Takes part in a run from now on.
   *
   * @throws {Error} If its announcement makes no sense here
   */
  constructor(
    keys: RunKeys,
    about: Announcement,
    service: Service<Jobs>,
    redis: Redis,
    options: MemberOptions & { name: string },
  ) {
    this.#keys = keys;
    this.#about = about;
    this.#service = service;
    this.#redis = redis;
    this.#options = options;
    this.#workers = options.workers;
    this.#init = about.init === undefined ? undefined : decodeValue(about.init);
    this.#permissions = this.#permissionsHere();
    this.#worker = new Worker(keys.id, (job) => this.#process(job), {
      connection: redis,
      prefix: PREFIX,
      concurrency: options.workers,
      lockDuration: LOCK_MS,
      stalledInterval: STALLED_MS,
      // The starter sends a lost chunk again, so that it has one end only.
      maxStalledCount: 0,
      runRetryDelay: RETRY_MS,
    });
    this.#worker.on("error", (error) => this.#onError(error));
  }

  /** Gives a sign of life, and ends what nobody waits for. */
  async look(isBeat: boolean): Promise<void> {
    if (isBeat && !this.#ended) {
      const presence = { workers: this.#workers, beat: this.#beats++ };
      const text = JSON.stringify(presence);
      await this.#redis.hset(this.#keys.machines, this.#options.name, text);
    }
    if (this.#chunks.size === 0) return;
    for (const id of await this.#redis.smembers(this.#keys.cancelled)) {
      this.#chunks.get(id)?.abort();
    }
  }

  /** Ends the chunks in hand, and leaves the run. */
  async leave(): Promise<void> {
    this.#workers = 0;
    await this.look(true);
    await this.#worker.close();
    await this.end();
  }

  /** The run has ended: what is in hand is of no use. */
  end(): Promise<void> {
    return this.#ended ??= this.#end();
  }

  async #end(): Promise<void> {
    const wasBusy = this.#chunks.size > 0;
    for (const chunk of this.#chunks.values()) chunk.abort();
    await this.#worker.close(true);
    await Promise.all(this.#slots.map(({ pool }) => pool.terminate()));
    if (wasBusy) this.clearFiles();
    await this.#redis.hdel(this.#keys.machines, this.#options.name);
    // Where its starter died, the keys were removed; BullMQ has made some since.
    if (await this.#redis.exists(this.#keys.lease) === 0) {
      await this.#keys.remove(this.#redis);
    }
    const { service } = this.#about;
    const seconds = ((this.#until - this.#since) / 1000).toFixed(1);
    const files = count(this.#files, "files");
    this.#options.say(`${service}: ${files} in ${seconds} s`);
  }

  /** Removes what was half written when threads were ended. */
  clearFiles(): void {
    for (const folder of this.#folders) clearTemporary(folder, true);
  }

  // Chunks

  async #process(job: Job): Promise<string> {
    const began = now();
    this.#since ||= began;
    const abort = new AbortController();
    try {
      const { job: name, spread, timeout, items } = decodeChunk(job.data);
      if (!Object.hasOwn(JOBS[this.#about.service], name)) {
        throw new TypeError(`there is no job ${JSON.stringify(name)}`);
      }
      this.#chunks.set(job.id!, abort);
      await this.#resolve(name, spread, items);
      const local = this.#localItems(name, spread, items);
      if (this.#ended) throw new Error("the run has ended"); // meanwhile
      const slot = this.#takeSlot();
      const { signal } = abort;
      const run = { name, spread, timeout, signal, began };
      try {
        return await this.#run(slot, run, local);
      } finally {
        this.#free.push(slot);
      }
    } catch (error) {
      const cause = causeOf(error);
      if (!this.#ended) this.#warnOnce(`a chunk was refused: ${cause}`);
      throw new UnrecoverableError(cause);
    } finally {
      this.#chunks.delete(job.id!);
      this.#until = now();
    }
  }

  /** Does the items that were not refused, until they are done or unwanted. */
  async #run(
    slot: Slot,
    { name, spread, timeout, signal, began }: {
      name: string;
      spread: boolean;
      timeout?: number;
      signal: AbortSignal;
      began: number;
    },
    items: (LocalItem | Error)[],
  ): Promise<string> {
    const accepted = items.flatMap((item) =>
      item instanceof Error ? [] : [item.item]
    );
    const times: [start: number, end: number][] = [];
    slot.onTask = (index, start, end) => times[index] = [start, end];
    const options = { settle: true, signal, timeout } as const;
    const outcomes = spread
      ? oneByOne(slot, name, accepted, options)
      : slot.pool.imap(name, accepted as never[], options);
    const answer: AnswerMessage = {
      machine: this.#options.name,
      worker: slot.number,
      answers: [],
      files: 0,
      times: [],
      began,
      ended: began,
    };
    let bytes = 0, done = 0;
    try {
      for (const item of items) {
        if (item instanceof Error) {
          answer.answers.push({ kind: "failed", cause: describe(item) });
          answer.times.push(began, began);
          continue;
        }
        const { value: outcome } = await outcomes.next();
        if (!outcome) break;
        const [result, size] = answerOf(outcome, item);
        answer.answers.push(result);
        answer.times.push(...times[done++] ?? [began, began]);
        answer.files += item.files;
        if ((bytes += size) > ANSWER_BYTES) break;
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    await outcomes.return();
    this.#files += answer.files;
    answer.ended = now();
    return encode(answer);
  }

  #takeSlot(): Slot {
    const free = this.#free.pop();
    if (free) return free;
    const number = this.#slots.length + 1;
    const slot: Slot = {
      number,
      pool: new Pool(this.#service, {
        size: 1,
        name: `${this.#about.service} ${number}`,
        permissions: this.#permissions,
        init: this.#init,
        onTask: ({ index, start, end }) => slot.onTask(index, start, end),
      }),
      onTask: () => {},
    };
    this.#slots.push(slot);
    return slot;
  }

  /** Puts in what the items have in common, where that travelled by itself. */
  async #resolve(
    job: string,
    spread: boolean,
    items: unknown[],
  ): Promise<void> {
    const { common } = JOBS[this.#about.service][job];
    if (!common) return;
    for (const item of items) {
      const only = Object(spread ? Object(item)[0] : item);
      const reference = Object(only[common.name]).reference;
      if (reference === undefined) continue;
      let value = this.#common.get(reference);
      if (!value) {
        value = this.#load(`${reference}`).then(common.prepare);
        this.#common.set(reference, value);
        value.catch(() => this.#common.delete(reference));
      }
      only[common.name] = await value;
    }
  }

  async #load(reference: string): Promise<unknown> {
    if (!/^v\d+$/.test(reference)) throw new TypeError("it is no reference");
    const text = await this.#redis.get(this.#keys.value(reference));
    if (text === null) throw new Error("what it refers to is not there");
    return decodeValue(text);
  }

  // Paths

  /** The items with their paths here; an error in place of one that is refused. */
  #localItems(
    name: string,
    spread: boolean,
    items: unknown[],
  ): (LocalItem | Error)[] {
    const gate = this.#options.root.gate(this.#about.isRelative);
    const { translate } = JOBS[this.#about.service][name];
    const refused: string[] = [];
    const local = items.map((item) => {
      try {
        if (spread && !Array.isArray(item)) {
          throw new TypeError("it is not a list of arguments");
        }
        if (spread && (item as unknown[]).length === 0) return whole([]);
        const [only, ...others] = spread ? item as unknown[] : [item];
        const here = translate(only, (path, access) => {
          try {
            const real = gate.pass(path, access);
            if (access === "write") this.#folders.add(folderOf(real));
            return real;
          } catch (error) {
            refused.push(`${path}: ${causeOf(error)}`);
            throw error;
          }
        });
        return spread ? { ...here, item: [here.item, ...others] } : here;
      } catch (error) {
        if (refused.length === 0) refused.push(causeOf(error));
        return error as Error;
      }
    });
    const [first, ...others] = refused;
    if (first !== undefined) {
      const more = others.length > 0 ? `; ${others.length} more` : "";
      this.#warnOnce(`refused: ${first}${more}`);
    }
    return local;
  }

  /** What the workers may read and write, of what is below the root. */
  #permissionsHere(): { read: string[]; write: string[] } {
    const { root, warn } = this.#options;
    const { isRelative, read, write } = this.#about;
    const gate = root.gate(isRelative);
    const here = (paths: string[], access: "read" | "write") =>
      paths.flatMap((path) => {
        try {
          return gate.pass(path, access);
        } catch (error) {
          warn(`refused: ${path}: ${causeOf(error)}`);
          return [];
        }
      });
    return {
      read: read ? here(read, "read") : root.paths,
      write: here(write ?? [], "write"),
    };
  }

  // Lines

  /** BullMQ says the same again and again while there is no connection. */
  #onError(error: Error): void {
    const isOfUse = error instanceof SyntaxError;
    if (isOfUse) this.#warnOnce("a chunk was refused: it is not JSON");
  }

  #warnOnce(line: string): void {
    if (this.#said.has(line) || this.#said.size > 1000) return;
    this.#said.add(line);
    this.#options.warn(line);
  }
}

/** Calls a job with lists of arguments, each when the one before is done. */
async function* oneByOne(
  slot: Slot,
  name: string,
  lists: unknown[],
  options: CallOptions & { settle: true },
): AsyncGenerator<PromiseSettledResult<unknown>, void, void> {
  const { onTask } = slot;
  for (const [i, list] of lists.entries()) {
    slot.onTask = (_, start, end) => onTask(i, start, end);
    yield* await slot.pool.starmap(name, [list as never[]], options);
  }
}

/** What to say of an item, and how large that is, in bytes. */
function answerOf(
  outcome: PromiseSettledResult<unknown>,
  { complete }: LocalItem,
): [answer: PackedAnswer, size: number] {
  if (outcome.status === "fulfilled") {
    const result = complete ? complete(outcome.value) : outcome.value;
    // To pack a huge buffer would hold up this thread, and with it its locks.
    let length = ArrayBuffer.isView(result) ? result.byteLength : 0;
    if (length <= VALUE_BYTES) {
      const value = pack(result);
      length = value.length;
      if (length <= VALUE_BYTES) return [{ kind: "done", value }, length];
    }
    const error = new RangeError(`its result is too large: ${length} bytes`);
    return [{ kind: "failed", cause: describe(error) }, 0];
  }
  const { reason } = outcome;
  if (reason instanceof JobError || reason instanceof WorkerLostError) {
    const kind = reason instanceof JobError ? "failed" : "lost";
    const hasCause = reason.cause !== undefined;
    const cause = hasCause ? { cause: describe(reason.cause) } : {};
    return [{ kind, ...cause }, 1000];
  }
  if (reason instanceof DOMException && reason.name === "TimeoutError") {
    return [{ kind: "timed out" }, 0];
  }
  throw reason; // no worker could be started
}

/** The clock: milliseconds since the epoch. */
function now(): number {
  return performance.timeOrigin + performance.now();
}
