/**
 * A joined process: takes part in the runs that there are.
 *
 * @module
 */

import type { Redis } from "ioredis";
import { service as grayscale } from "../../workers/grayscale.ts";
import { service as logscan } from "../../workers/logscan.ts";
import type { Jobs, Service } from "../../mod.ts";
import { causeOf } from "../../workers/shared/files.ts";
import type { Address } from "./address.ts";
import { type Announcement, NEWS, RunKeys, runsOf } from "./directory.ts";
import { Participation } from "./participation.ts";
import { another, connect, Pulse } from "./redis.ts";
import type { Root } from "./roots.ts";
import { versionOf } from "./version.ts";

/** How often it is looked whether there are runs, in ms. */
const LOOK_MS = 200;
/** In every such look a machine gives a sign of life. */
const BEAT_LOOKS = 5;

/** The services whose jobs can be called; there is no other way to code. */
export const SERVICES: Record<string, Service<Jobs>> = {
  grayscale: grayscale as unknown as Service<Jobs>,
  logscan: logscan as unknown as Service<Jobs>,
};

/** Options for {@linkcode Member.join}. */
export interface MemberOptions {
  address: Address;
  root: Root;
  /** How many workers it has. */
  workers: number;
  /** How long Redis may be gone, in seconds. */
  wait: number;
  /** Takes a line for the user: news, or what went wrong. */
  say: (line: string) => void;
  warn: (line: string) => void;
}

/** One machine, as long as it takes part. */
export class Member {
  /** What the machine is called: unique, as several may be on one host. */
  readonly name: string = `${Deno.hostname()}/${Deno.pid}`;
  readonly #options: MemberOptions;
  readonly #redis: Redis;
  readonly #version: string;
  readonly #pulse: Pulse;
  readonly #news: Redis;
  /** The runs that it knows; of those that refuse it, there is nothing to do. */
  readonly #runs = new Map<string, Participation | "refused">();
  readonly #ended = Promise.withResolvers<void>();
  #looks = 0;
  #isLeaving = false;

  private constructor(redis: Redis, version: string, options: MemberOptions) {
    this.#redis = redis;
    this.#version = version;
    this.#options = options;
    const { address, wait, warn } = options;
    const events = {
      onSilent: warn,
      onBack: warn,
      onLost: (error: Error) => this.#ended.reject(error),
    };
    const look = () => this.#look().then(() => LOOK_MS);
    this.#pulse = new Pulse(address, redis, LOOK_MS, wait, look, events);
    this.#news = another(redis);
    this.#news.on("message", () => this.#pulse.wake());
    this.#news.subscribe(NEWS).catch(() => {}); // it subscribes again by itself
  }

  /**
   * Joins the machines of a Redis server.
   *
   * @throws {Error} If it cannot be reached
   */
  static async join(options: MemberOptions): Promise<Member> {
    const version = await versionOf();
    const redis = await connect(options.address);
    return new Member(redis, version, options);
  }

  /**
   * Fulfils when it has left.
   *
   * @throws {Error} If Redis is gone
   */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Ends the chunks in hand, takes no more, and leaves. */
  async leave(): Promise<void> {
    this.#isLeaving = true;
    await this.#eachRun((run) => run.leave());
    this.#pulse[Symbol.dispose]();
    this.#news.disconnect();
    this.#redis.disconnect();
    this.#ended.resolve();
  }

  /** Clears up what the chunks in hand leave behind: the process ends now. */
  drop(): void {
    for (const run of this.#runs.values()) {
      if (run !== "refused") run.clearFiles();
    }
  }

  async #eachRun(act: (run: Participation) => Promise<void>): Promise<void> {
    await Promise.all(
      this.#runs.values().filter((run) => run !== "refused").map(act),
    );
  }

  /** Joins new runs, leaves those that have ended. */
  async #look(): Promise<void> {
    const isBeat = this.#looks++ % BEAT_LOOKS === 0;
    const ids = await runsOf(this.#redis);
    for (const id of new Set([...ids, ...this.#runs.keys()])) {
      const keys = new RunKeys(id);
      const lease = await this.#redis.get(keys.lease);
      const run = this.#runs.get(id);
      if (lease === "open") {
        if (run === undefined) await this.#joinRun(keys);
        else if (run !== "refused") await run.look(isBeat);
        continue;
      }
      this.#runs.delete(id);
      if (run !== undefined && run !== "refused") await run.end();
      // Its starter is gone without a word.
      if (lease === null) await keys.remove(this.#redis);
    }
  }

  async #joinRun(keys: RunKeys): Promise<void> {
    if (this.#isLeaving) return;
    const about = await this.#announcement(keys);
    if (about === undefined) return;
    const { warn } = this.#options;
    try {
      if (about.version !== this.#version) {
        throw new Error(
          `its jobs are ${about.version}, those of this machine ${this.#version}`,
        );
      }
      if (!Object.hasOwn(SERVICES, about.service)) {
        throw new Error(`there is no service ${about.service}`);
      }
      const options = { ...this.#options, name: this.name };
      const service = SERVICES[about.service];
      const run = new Participation(keys, about, service, this.#redis, options);
      this.#runs.set(keys.id, run);
      await run.look(true);
    } catch (error) {
      this.#runs.set(keys.id, "refused");
      warn(`a batch of ${about.service} was refused: ${causeOf(error)}`);
      const refused = JSON.stringify({ refused: this.#version });
      await this.#redis.hset(keys.machines, this.name, refused);
    }
  }

  async #announcement(keys: RunKeys): Promise<Announcement | undefined> {
    const text = await this.#redis.get(keys.about);
    try {
      const { version, service, isRelative, read, write, init } = JSON.parse(
        text!,
      );
      const lists = [read, write].every((list) =>
        list === undefined || Array.isArray(list)
      );
      if (!lists) throw new TypeError("it is no announcement");
      return {
        version: `${version}`,
        service: `${service}`,
        isRelative: isRelative === true,
        ...{ read, write, init },
      };
    } catch {
      this.#runs.set(keys.id, "refused");
      this.#options.warn("a batch was refused: it is not announced as one");
    }
  }
}
