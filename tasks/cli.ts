/**
 * What all tasks share: flags, paths, output, Ctrl-C.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { ProgressBar } from "@std/cli/unstable-progress-bar";
import { expandGlob } from "@std/fs/expand-glob";
import { isGlob } from "@std/path/is-glob";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { causeOf } from "../workers/files.ts";

/** A wrong command line; its message is the one line that the user gets. */
export class UsageError extends Error {}

/** The folder that the user stands in; `deno task` changes to its own. */
export const userFolder: string = Deno.env.get("INIT_CWD") ?? Deno.cwd();

/** The project's folder, where `fixtures/` and `reports/` are. */
export const projectFolder: string = resolve(import.meta.dirname!, "..");

// Flags

/** The flags that a task has besides `--help`, `--quiet` and `--workers`. */
export interface Spec {
  /** Flags that are given or not. */
  boolean?: string[];
  /** Flags with a text. */
  text?: string[];
  /** Flags with a text that may be given several times. */
  list?: string[];
  /** Flags with a whole number, and its least value. */
  number?: Record<string, number>;
  /** One-letter names. */
  alias?: Record<string, string>;
  /** Whether paths may follow. */
  paths?: boolean;
}

/** What the command line says. */
export interface Flags {
  /** Which of the boolean flags are given. */
  is: Record<string, boolean>;
  /** The texts that are given. */
  text: Record<string, string | undefined>;
  /** The lists; empty where none is given. */
  list: Record<string, string[]>;
  /** The numbers that are given. */
  number: Record<string, number | undefined>;
  /** What is not a flag. */
  paths: string[];
}

/**
 * Reads a command line.
 *
 * @throws {UsageError} If a flag is unknown, or has no value or a wrong one
 */
export function readFlags(args: string[], spec: Spec): Flags {
  const numbers: Record<string, number> = { workers: 1, ...spec.number };
  const texts = [...spec.text ?? [], ...Object.keys(numbers)];
  const lists = spec.list ?? [];
  const given = parseArgs(args, {
    boolean: ["help", "quiet", ...spec.boolean ?? []],
    string: [...texts, ...lists, "_"],
    collect: lists,
    alias: { h: "help", q: "quiet", ...spec.alias },
    unknown: (arg, key) => {
      if (key === undefined) return true;
      throw new UsageError(`unknown flag ${arg.split("=")[0]} (see --help)`);
    },
  }) as Record<string, unknown> & { _: string[] };
  const paths = given._.map(String);
  if (!spec.paths && paths.length > 0) {
    throw new UsageError(`unexpected argument '${paths[0]}' (see --help)`);
  }
  const flags: Flags = { is: {}, text: {}, list: {}, number: {}, paths };
  for (const name of ["help", "quiet", ...spec.boolean ?? []]) {
    flags.is[name] = given[name] === true;
  }
  for (const name of lists) {
    flags.list[name] = (given[name] as string[] | undefined) ?? [];
    flags.list[name].forEach((value) => checkText(name, value));
  }
  for (const name of texts) {
    const value = given[name] as string | undefined;
    if (value === undefined) continue;
    checkText(name, value);
    if (name in numbers) flags.number[name] = toNumber(name, value, numbers);
    else flags.text[name] = value;
  }
  return flags;
}

function checkText(name: string, value: string): void {
  if (value === "") throw new UsageError(`--${name} needs a value`);
}

function toNumber(
  name: string,
  value: string,
  least: Record<string, number>,
): number {
  const number = Number(value);
  if (
    /^\d+$/.test(value) && Number.isSafeInteger(number) && number >= least[name]
  ) return number;
  throw new UsageError(
    `--${name} must be a whole number from ${least[name]} on, not '${value}'`,
  );
}

// The program

/**
 * Runs a task and ends the process with its status.
 *
 * A wrong command line is one line and status 2. A reader of stdout that has
 * gone (`| head`) ends the task quietly. The process ends even where a worker
 * does not: `Deno.exit` stops threads that nothing else can stop.
 */
export async function runTask(
  name: string,
  main: (args: string[]) => Promise<number>,
): Promise<never> {
  let status = 2;
  try {
    status = await main(Deno.args);
    flush();
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) status = 0;
    else if (error instanceof UsageError) warn(`${name}: ${error.message}`);
    else warn(`${name}: ${error instanceof Error ? error.stack : error}`);
  }
  Deno.exit(status);
}

/**
 * Ends the process with status 130 at Ctrl-C, after `cleanUp`. Through
 * `deno task` a terminal delivers the signal twice: once is enough.
 */
export function onInterrupt(cleanUp: () => unknown): void {
  if (cleanUps.push(cleanUp) > 1) return;
  let interrupted = false;
  Deno.addSignalListener("SIGINT", async () => {
    if (interrupted) return;
    interrupted = true;
    await Promise.allSettled(cleanUps.map(async (cleanUp) => await cleanUp()));
    Deno.exit(130);
  });
}

const cleanUps: (() => unknown)[] = [];

// Output

const encoder = new TextEncoder();

let pending = "";

/**
 * Writes to stdout, when there is enough; `runTask` writes the rest. Unlike
 * `console.log` it throws when nobody reads any more.
 */
export function print(text: string | Uint8Array): void {
  if (typeof text === "string") pending += text;
  else {
    flush();
    write(text);
  }
  if (pending.length > 1 << 16) flush();
}

/** Writes what was printed so far. */
export function flush(): void {
  const text = pending;
  pending = "";
  write(encoder.encode(text));
}

function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) {
    at += Deno.stdout.writeSync(bytes.subarray(at));
  }
}

/** Writes a line to stderr. */
export function warn(line: string): void {
  // Over the progress bar, where there is one.
  const clear = Deno.stderr.isTerminal() ? "\r\x1b[K" : "";
  Deno.stderr.writeSync(encoder.encode(`${clear}${line}\n`));
}

/** A terminal takes control characters for orders: there they are escaped. */
export function printable(text: string, to = Deno.stdout): string {
  if (!to.isTerminal()) return text;
  return text.replace(
    /(?!\t)\p{Cc}/gu,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** A progress bar on stderr while a terminal watches; else nothing. */
export class Progress {
  readonly #unit: string;
  readonly #shown: boolean;
  #bar?: ProgressBar;

  /**
   * Shows nothing before there is something to expect.
   *
   * @param unit What a step is, in the plural
   * @param quiet Whether to show nothing at all
   */
  constructor(unit: string, quiet: boolean) {
    this.#unit = unit;
    this.#shown = !quiet && Deno.stderr.isTerminal();
  }

  /** Says how many steps there will be, as far as is known. */
  expect(max: number): void {
    if (!this.#shown) return;
    if (this.#bar) this.#bar.max = max;
    this.#bar ??= new ProgressBar({
      max,
      clear: true,
      formatter: ({ styledTime, progressBar, value, max }) =>
        `${styledTime} ${progressBar} ${value}/${max} ${this.#unit}`,
    });
  }

  /** Counts one step. */
  step(): void {
    if (this.#bar) this.#bar.value++;
  }

  /** Takes the bar away. */
  async stop(): Promise<void> {
    await this.#bar?.stop();
  }
}

// Paths

/** A file that was named, or found where a folder or a glob was. */
export interface Found {
  /** Where it is, absolute. */
  path: string;
  /** What to call it: as the user named it. */
  name: string;
  /** The folder that the user named, absolute; for a file, the one it is in. */
  base: string;
  /** Why it cannot be used. */
  error?: string;
}

/**
 * Finds the files that are meant by files, folders and globs, each once.
 *
 * Folders are searched to the bottom, in the order of names; links in them are
 * not followed. What cannot be read, or is no file, has its `error`.
 *
 * @param args What the user named, relative to their folder
 * @param skip Tells of a file or folder, by its absolute path, to pass it over
 */
export async function* findFiles(
  args: Iterable<string>,
  skip: (path: string) => boolean = () => false,
): AsyncGenerator<Found, void, void> {
  const seen = new Set<string>();
  for (const arg of args) {
    for await (const found of findNamed(arg, skip)) {
      if (seen.has(found.path)) continue;
      seen.add(found.path);
      yield found;
    }
  }
}

/** The size of files together, in bytes. */
export async function totalSize(paths: string[]): Promise<number> {
  const infos = await Promise.all(paths.map((path) => Deno.stat(path)));
  return infos.reduce((sum, info) => sum + info.size, 0);
}

async function* findNamed(
  name: string,
  skip: (path: string) => boolean,
): AsyncGenerator<Found, void, void> {
  const path = resolve(userFolder, name);
  const base = resolve(path, "..");
  try {
    const info = await Deno.stat(path); // follows links, as they are named
    if (info.isDirectory) yield* walk(path, name, path, skip);
    else yield { path, name, base, error: notAFile(info) };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound && isGlob(name)) {
      yield* findGlob(name, skip);
    } else yield { path, name, base, error: causeOf(error) };
  }
}

async function* findGlob(
  name: string,
  skip: (path: string) => boolean,
): AsyncGenerator<Found, void, void> {
  const parts = name.split("/");
  const fixed = parts.slice(0, parts.findIndex((part) => isGlob(part)));
  const base = resolve(
    userFolder,
    fixed.join("/") || (name[0] === "/" ? "/" : ""),
  );
  const paths = await Array.fromAsync(
    expandGlob(name, { root: userFolder }),
    (entry) => entry.path,
  );
  if (paths.length === 0) {
    const path = resolve(userFolder, name);
    yield { path, name, base, error: "No file matches" };
  }
  for (const path of paths.sort()) {
    const own = join(fixed.join("/"), path.slice(base.length + 1));
    for await (const found of findNamed(name[0] === "/" ? path : own, skip)) {
      if (!skip(found.path)) yield { ...found, base };
    }
  }
}

async function* walk(
  folder: string,
  name: string,
  base: string,
  skip: (path: string) => boolean,
): AsyncGenerator<Found, void, void> {
  let entries: Deno.DirEntry[];
  try {
    entries = await Array.fromAsync(Deno.readDir(folder));
  } catch (error) {
    return yield { path: folder, name, base, error: causeOf(error) };
  }
  entries.sort((a, b) => a.name < b.name ? -1 : 1);
  for (const entry of entries) {
    const path = join(folder, entry.name);
    const own = join(name, entry.name);
    if (skip(path) || entry.isSymlink) continue;
    if (entry.isDirectory) yield* walk(path, own, base, skip);
    else yield { path, name: own, base, error: notAFile(entry) };
  }
}

/** Opening a FIFO or a device would wait for who knows whom. */
function notAFile(entry: { isFile: boolean }): string | undefined {
  return entry.isFile ? undefined : "Not a regular file";
}
