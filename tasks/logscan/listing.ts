/**
 * The files that a scan is to search, while more of them are being found.
 *
 * @module
 */

import { weightOf } from "../../workers/logscan/scan.ts";
import type { Flags } from "../cli/flags.ts";
import {
  findEach,
  type FindOptions,
  type FoundFile,
  readNames,
} from "../cli/paths.ts";

/** How many files are listed before the first one is scanned. */
const FIRST_FILES = 500;
/**
 * Where it is shown how many there are: how many more may wait for each one that is
 * scanned, and how many at most. Else 500 are enough: with 10,000, a scan of 100,000
 * files took 26 to 40 MB more, as what waits for long is collected late.
 */
const MORE_FILES = 8, FILES_MAX = 100_000;
/** How many paths are given at a time: one after another took 0.6 kB for each. */
const PATHS = 64;
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
  /** What was found of each name, and of the one that is at hand. */
  readonly #each: AsyncIterator<Iterable<FoundFile>>;
  #found: Iterator<FoundFile> = [].values();
  readonly #onError: (name: string, error: string) => void;
  /** Those that wait, and what to call those that were taken. */
  readonly #files: FoundFile[] = [];
  readonly #names: string[] = [];
  /** How many of the taken ones are done. */
  #done = 0;
  #isAll = false;
  /** How many files have been found so far. */
  count = 0;

  /**
   * @param flags What the user named
   * @param onError Is told of each name that cannot be found or listed
   */
  constructor(flags: Flags, onError: (name: string, error: string) => void) {
    this.#each = findEach(flags.paths, {
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

  /**
   * The paths, some at a time; more are found ahead.
   *
   * @param isCounted Whether somebody wants to know early how many there are
   */
  async *paths(
    isCounted: boolean,
  ): AsyncGenerator<string[], void, void> {
    const more = isCounted ? MORE_FILES : 0;
    for (let limit = FIRST_FILES;;) {
      await this.#find(limit);
      const files = this.#files.splice(0, PATHS);
      if (files.length === 0) return;
      for (const { name } of files) this.#names.push(name);
      limit = Math.min(FILES_MAX, limit + more * files.length);
      yield files.map(({ path }) => path);
    }
  }

  /** What to call the first file that is not done. */
  get name(): string {
    return this.#names[this.#done];
  }

  /** The first file that was not done is done. */
  finish(): void {
    this.#done++;
    // By the hundred: to shift each out of 20,000 took 10 µs.
    if (this.#done < 100) return;
    this.#names.splice(0, this.#done);
    this.#done = 0;
  }

  /** Finds files until so many wait, or there are no more. */
  async #find(count: number): Promise<void> {
    while (!this.#isAll && this.#files.length < count) {
      const { done, value: file } = this.#found.next();
      if (done) await this.#findNext();
      else if (file.error !== undefined) this.#onError(file.name, file.error);
      else {
        this.#files.push(file);
        this.count++;
      }
    }
  }

  async #findNext(): Promise<void> {
    const { done, value } = await this.#each.next();
    if (done) this.#isAll = true;
    else this.#found = value[Symbol.iterator]();
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
