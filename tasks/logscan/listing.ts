/**
 * The files that a scan is to search, while more of them are being found.
 *
 * @module
 */

import { weightOf } from "../../workers/logscan/scan.ts";
import type { Flags } from "../cli/flags.ts";
import { findFiles, type FindOptions, readNames } from "../cli/paths.ts";

/** How many files are listed before the first one is scanned. */
const FIRST_FILES = 500;
/** How many more may wait for each one that is scanned, and how many at most. */
const MORE_FILES = 8, FILES_MAX = 100_000;
/**
 * How many bytes are scanned on the calling thread, for each ms that the process
 * took to load its modules: a machine that is slow at that, or busy, starts workers
 * slowly as well. It is 20 ms of a core that is free, where one thread took 250 to
 * 370 ms for 836 MiB, and two workers with their start 300 to 410. No more is
 * scanned there than the first files.
 */
const LITTLE_PER_MS = 50e6;
const startMs = performance.now();
/** More keywords than this take longer: with 20, 569 ms instead of 431. */
const FEW_KEYWORDS = 8;
/** But thousands no more than so many times as long. */
const SLOWEST = 4;

/** Whether the user named files. */
export function isNamed({ paths, text }: Flags): boolean {
  return paths.length > 0 || text["files-from"] !== undefined;
}

/** Which files the user means besides those that are named. */
export function findOptions({ list, text, is }: Flags): FindOptions {
  const { include, exclude } = list;
  const from = text["files-from"];
  const names = from === undefined ? undefined : readNames(from, is.null);
  return { include, exclude, list: names };
}

/** The files that were found, in order, of which the first ones are done. */
export class Listing {
  readonly #found: ReturnType<typeof findFiles>;
  readonly #onError: (name: string, error: string) => void;
  readonly #files: { path: string; name: string }[] = [];
  #taken = 0;
  #done = 0;
  #limit = FIRST_FILES;
  #isAll = false;
  /** How many files have been found so far. */
  count = 0;

  /**
   * @param flags What the user named
   * @param onError Is told of each name that cannot be found or listed
   */
  constructor(flags: Flags, onError: (name: string, error: string) => void) {
    this.#found = findFiles(flags.paths, {
      ...findOptions(flags),
      stdin: true,
    });
    this.#onError = onError;
  }

  /**
   * Whether there is so little to scan that workers are not worth their start.
   *
   * @param keywords How many keywords are looked for
   */
  async isLittle(keywords: number): Promise<boolean> {
    await this.#find(FIRST_FILES);
    if (!this.#isAll) return false;
    const slower = Math.min(Math.ceil(keywords / FEW_KEYWORDS), SLOWEST);
    let left = startMs * LITTLE_PER_MS / slower;
    for (const { path } of this.#files) {
      left -= weightOf(path, sizeOf(path));
      if (left < 0) return false;
    }
    return true;
  }

  /** The paths, one after the other; some are found ahead. */
  async *paths(): AsyncGenerator<string, void, void> {
    for (;;) {
      await this.#find(this.#limit);
      if (this.#taken === this.#files.length) return;
      if (this.#limit < FILES_MAX) this.#limit += MORE_FILES;
      yield this.#files[this.#taken++].path;
    }
  }

  /** What to call the first file that is not done. */
  get name(): string {
    return this.#files[this.#done].name;
  }

  /** The first file that was not done is done. */
  finish(): void {
    this.#done++;
    // By the thousand: to shift each out of 20,000 took 10 µs.
    if (this.#done < 1000) return;
    this.#files.splice(0, this.#done);
    this.#taken -= this.#done;
    this.#done = 0;
  }

  /** Finds files until so many wait, or there are no more. */
  async #find(count: number): Promise<void> {
    while (!this.#isAll && this.#files.length - this.#taken < count) {
      const { done, value } = await this.#found.next();
      if (done) this.#isAll = true;
      else if (value.error !== undefined) {
        this.#onError(value.name, value.error);
      } else {
        this.#files.push({ path: value.path, name: value.name });
        this.count++;
      }
    }
  }
}

/** Synchronous: to ask for 200 files one after another took 20 ms. */
function sizeOf(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return 0; // it was removed meanwhile, which is reported when it is read
  }
}
