/**
 * Which runs there are, and which machines take part: all that is in Redis beside
 * BullMQ's own keys, which have the same beginning.
 *
 * @module
 */

import type { Redis } from "ioredis";

/** What all keys begin with. */
export const PREFIX = "manyhands";
/** How long a run counts as alive after its starter's last sign of life, in ms. */
export const LEASE_MS = 5000;

/** Where it is said that there is news of a run: otherwise it is found a bit later. */
export const NEWS = `${PREFIX}:news`;

const RUNS = `${PREFIX}:runs`;

/** What a run says of itself. */
export interface Announcement {
  /** The version of the jobs. */
  version: string;
  /** Which service it runs. */
  service: string;
  /** Whether paths travel relative to the starter's root. */
  isRelative: boolean;
  /** What the workers may read and write; absent: all below the root. */
  read?: string[];
  write?: string[];
  /** The value for the service's `setup`, as `encode` makes it. */
  init?: string;
}

/** A machine as it tells of itself, in one run. */
export interface Machine {
  name: string;
  /** How many chunks it takes at a time: none, if it is leaving. */
  workers: number;
  /** Its version of the jobs, if it takes no part for it is another one. */
  refused?: string;
}

/** The keys of one run. */
export class RunKeys {
  readonly id: string;

  constructor(id: string) {
    this.id = id;
  }

  #key(name: string): string {
    return `${PREFIX}:${this.id}:${name}`;
  }

  /** BullMQ's stream of events. */
  get events(): string {
    return this.#key("events");
  }

  /** BullMQ's hash of a job. */
  job(id: string): string {
    return this.#key(id);
  }

  /** A value that many items have in common. */
  value(reference: string): string {
    return this.#key(reference);
  }

  /** The announcement. */
  get about(): string {
    return this.#key("about");
  }

  /** "open" or "ended"; it expires when its starter gives no sign of life. */
  get lease(): string {
    return this.#key("lease");
  }

  /** The machines, by name. */
  get machines(): string {
    return this.#key("machines");
  }

  /** The chunks whose results nobody waits for any more. */
  get cancelled(): string {
    return this.#key("cancelled");
  }

  /** Announces the run, or gives a sign of life. */
  async announce(
    redis: Redis,
    state: "open" | "ended",
    about?: Announcement,
  ): Promise<void> {
    const commands = redis.multi().set(this.lease, state, "PX", LEASE_MS);
    if (about) commands.set(this.about, JSON.stringify(about));
    await commands.sadd(RUNS, this.id).exec();
  }

  /** Removes all keys of the run. */
  async remove(redis: Redis): Promise<void> {
    let cursor = "0";
    const match = `${PREFIX}:${this.id}:*`;
    do {
      const found = await redis.scan(cursor, "MATCH", match, "COUNT", 1000);
      cursor = found[0];
      if (found[1].length > 0) await redis.unlink(found[1]);
    } while (cursor !== "0");
    await redis.srem(RUNS, this.id);
  }
}

/** The ids of all runs, also of those whose starter is gone. */
export async function runsOf(redis: Redis): Promise<string[]> {
  // Anything else is not ours, and might be a pattern for other keys.
  return (await redis.smembers(RUNS)).filter((id) =>
    /^[0-9a-f-]{36}$/.test(id)
  );
}

/**
 * Removes what interrupted runs left behind. A run without a lease is gone; one
 * that is there when it begins is looked at until it has given a sign of life or
 * its lease has expired.
 */
export class Sweeper {
  readonly #redis: Redis;
  readonly #own: string;
  /** Runs that may be gone, and how long their leases last; at first unknown. */
  #suspects?: Map<string, number>;

  constructor(redis: Redis, own: string) {
    this.#redis = redis;
    this.#own = own;
  }

  /** Looks at them; tells whether all is known of those that were there first. */
  async sweep(): Promise<boolean> {
    if (!this.#suspects) {
      const others = (await runsOf(this.#redis)).filter((id) =>
        id !== this.#own
      );
      this.#suspects = new Map(others.map((id) => [id, Infinity]));
    }
    for (const [id, before] of this.#suspects) {
      const keys = new RunKeys(id);
      const left = await this.#redis.pttl(keys.lease);
      if (left < 0) await keys.remove(this.#redis);
      if (left < 0 || left > before) this.#suspects.delete(id);
      else this.#suspects.set(id, left);
    }
    return this.#suspects.size === 0;
  }
}
