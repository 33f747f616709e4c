/**
 * The connections to Redis: made, lost, made again, and given up.
 *
 * @module
 */

import { Redis } from "ioredis";
import { causeOf } from "../../workers/shared/files.ts";
import type { Address } from "./address.ts";

/** How long the first connection may take, in ms. */
const CONNECT_MS = 10_000;
/** The pauses between two tries to connect again, in ms. */
const RETRY_MS = 50, RETRY_MAX_MS = 500;
/** How often it is looked whether Redis has answered, in ms. */
const LOOK_MS = 100;
/** After how long without an answer that is said, in ms. */
const SAY_MS = 1000;

/**
 * Makes the first connection.
 *
 * @throws {Error} If there is none; the message is a line without a password
 */
export async function connect(address: Address): Promise<Redis> {
  let cause: unknown;
  let isTried = false;
  const redis = new Redis(address.url, {
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    // Commands wait for the connection to come back, as BullMQ wants it.
    maxRetriesPerRequest: null,
    // A server that is not there now is an error; one that was there may return.
    retryStrategy: (times) =>
      isTried ? Math.min(RETRY_MS * times, RETRY_MAX_MS) : null,
  });
  redis.on("error", (error) => cause = error);
  // A server that hangs accepts connections, and says nothing.
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(SILENT)), CONNECT_MS);
  try {
    const ready = redis.connect().then(() => redis.ping());
    await Promise.race([ready, late.promise]);
  } catch (error) {
    redis.disconnect();
    throw new Error(`${address.shown}: ${reasonOf(cause ?? error)}`);
  } finally {
    clearTimeout(timer);
  }
  isTried = true;
  return redis;
}

const SILENT = "no answer";

/** What the system calls the causes that are to be expected. */
const REASONS: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EHOSTUNREACH: "host unreachable",
  ENETUNREACH: "network unreachable",
  ENOTFOUND: "no such host",
  ETIMEDOUT: SILENT,
};

/** Why there is no connection, in a few words. */
function reasonOf(error: unknown): string {
  const inner = error instanceof AggregateError ? error.errors[0] : error;
  return REASONS[inner?.code] ?? causeOf(inner);
}

/** Another connection to the same server. */
export function another(redis: Redis): Redis {
  const other = redis.duplicate({ lazyConnect: false });
  other.on("error", () => {}); // said by the pulse of the first connection
  return other;
}

/** Ends a connection; one that is lost has no end that could be waited for. */
export async function disconnect(redis: Redis): Promise<void> {
  const isThere = redis.status === "ready";
  const ended = new Promise<void>((resolve) => redis.once("end", resolve));
  redis.disconnect();
  if (isThere) await ended;
}

/** What a pulse tells. */
export interface PulseEvents {
  /** Redis has not answered for a while, in a line. */
  onSilent(line: string): void;
  /** It answers again. */
  onBack(line: string): void;
  /** It did not answer for too long, or refused. */
  onLost(error: Error): void;
}

/**
 * Does something with Redis again and again, and tells when there is no answer:
 * the one place where a lost connection is noticed, as what BullMQ and ioredis say
 * of it comes by the thousand, and nothing comes from a server that hangs.
 */
export class Pulse implements Disposable {
  readonly #redis: Redis;
  readonly #shown: string;
  readonly #beat: () => Promise<number>;
  readonly #events: PulseEvents;
  readonly #every: number;
  readonly #most: number;
  #silence = 0;
  #isSaid = false;
  #isOver = false;
  #cause = SILENT;
  #last = performance.now();
  readonly #looking: ReturnType<typeof setInterval>;
  #pausing?: ReturnType<typeof setTimeout>;
  #isBeating = false;
  #beatAgain = false;

  /**
   * @param address Where Redis is
   * @param redis The connection
   * @param ms How often to beat at least, in ms
   * @param seconds How long there may be no answer
   * @param beat What to do; gives after how many ms to do it again
   * @param events Whom to tell
   */
  constructor(
    { shown }: Address,
    redis: Redis,
    ms: number,
    seconds: number,
    beat: () => Promise<number>,
    events: PulseEvents,
  ) {
    this.#redis = redis;
    this.#shown = shown;
    this.#every = ms;
    this.#most = 1000 * seconds;
    this.#beat = beat;
    this.#events = events;
    redis.on("error", this.#onError);
    this.#looking = setInterval(() => this.#look(), LOOK_MS);
    this.#next();
  }

  readonly #onError = (error: unknown): void => {
    this.#cause = reasonOf(error);
  };

  /** Beats at once, as there is news. */
  wake(): void {
    if (this.#isBeating) this.#beatAgain = true;
    else if (!this.#isOver) {
      clearTimeout(this.#pausing);
      this.#next();
    }
  }

  async #next(): Promise<void> {
    this.#isBeating = true;
    this.#beatAgain = false;
    let pause = this.#every;
    try {
      pause = await this.#beat();
    } catch (error) {
      if (this.#isOver) return;
      // The connection comes back by itself; what Redis refuses, it refuses.
      if (this.#redis.status === "ready") return this.#lose(reasonOf(error));
    }
    if (this.#isOver) return;
    if (this.#redis.status === "ready") this.#hear();
    this.#isBeating = false;
    const ms = this.#beatAgain ? 0 : pause;
    this.#pausing = setTimeout(() => this.#next(), ms);
  }

  #hear(): void {
    this.#silence = 0;
    this.#cause = SILENT;
    if (this.#isSaid) this.#events.onBack(`${this.#shown}: it answers again`);
    this.#isSaid = false;
  }

  /** Counts only time in which this process ran: it may have been stopped. */
  #look(): void {
    const now = performance.now();
    this.#silence += Math.min(now - this.#last, 2 * LOOK_MS);
    this.#last = now;
    if (this.#silence > this.#most + this.#every) {
      return this.#lose(`${this.#cause} for ${this.#most / 1000} s`);
    }
    if (this.#isSaid || this.#silence < SAY_MS + this.#every) return;
    this.#isSaid = true;
    const most = this.#most / 1000;
    this.#events.onSilent(
      `${this.#shown}: ${this.#cause}; trying again for up to ${most} s`,
    );
  }

  #lose(cause: string): void {
    if (this.#isOver) return;
    this[Symbol.dispose]();
    this.#events.onLost(new Error(`${this.#shown}: ${cause}`));
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearInterval(this.#looking);
    clearTimeout(this.#pausing);
  }
}
