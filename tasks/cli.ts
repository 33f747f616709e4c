/**
 * What all tasks share: flags, paths, output, Ctrl-C.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import type { ProgressBar } from "@std/cli/unstable-progress-bar";
import { dirname } from "@std/path/dirname";
import { isGlob } from "@std/path/is-glob";
import { join } from "@std/path/join";
import { relative } from "@std/path/relative";
import { resolve } from "@std/path/resolve";
import { JobError } from "../mod.ts";
import { causeOf } from "../workers/shared/files.ts";

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
 * @param args The words after the task's name
 * @param spec The flags that the task has
 * @returns What is given, by the flags' long names
 * @throws {UsageError} If a flag is unknown, or has no value or a wrong one
 */
export function readFlags(args: string[], spec: Spec): Flags {
  const numbers: Record<string, number> = { workers: 1, ...spec.number };
  const texts = [...spec.text ?? [], ...Object.keys(numbers)];
  const lists = spec.list ?? [];
  const booleans = ["help", "quiet", ...spec.boolean ?? []];
  const alias: Record<string, string> = {
    h: "help",
    q: "quiet",
    ...spec.alias,
  };
  const unknown: string[] = [];
  const words = joinValues(args, alias, [...texts, ...lists], numbers);
  checkBooleans(words, alias, booleans);
  const given = parseArgs(words, {
    boolean: booleans,
    string: [...texts, ...lists, "_"],
    collect: lists,
    alias,
    unknown: (arg, key) => {
      if (key !== undefined) unknown.push(arg.split("=")[0]);
      return key === undefined;
    },
  }) as Record<string, unknown> & { _: string[] };
  const flags = newFlags(given, booleans, lists, texts, numbers);
  // Last: of `-k -x` the second half looks like a flag of its own.
  if (unknown.length > 0) {
    throw new UsageError(`unknown flag ${unknown[0]} (see --help)`);
  }
  if (!spec.paths && flags.paths.length > 0) {
    throw new UsageError(
      `unexpected argument '${flags.paths[0]}' (see --help)`,
    );
  }
  return flags;
}

/** What was given, checked. */
function newFlags(
  given: Record<string, unknown> & { _: string[] },
  booleans: string[],
  lists: string[],
  texts: string[],
  numbers: Record<string, number>,
): Flags {
  const paths = given._.map(String);
  const flags: Flags = { is: {}, text: {}, list: {}, number: {}, paths };
  for (const name of booleans) {
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

/**
 * Joins values to their flags where `parseArgs` would take them for flags:
 * `-kTEXT`, as grep has it, and `--workers -1`.
 */
function joinValues(
  args: string[],
  alias: Record<string, string>,
  valued: string[],
  numbers: Record<string, number>,
): string[] {
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (arg === "--") return [...words, ...args.slice(i)];
    if (
      arg.slice(2) in numbers && arg.startsWith("--") &&
      /^-\d/.test(args[i + 1] ?? "")
    ) {
      words.push(`${arg}=${args[++i]}`);
    } else words.push(...splitShort(arg, alias, valued));
  }
  return words;
}

/** `-qkTEXT` as `-q --keyword=TEXT`; anything else as it is. */
function splitShort(
  arg: string,
  alias: Record<string, string>,
  valued: string[],
): string[] {
  if (!/^-[a-z]./is.test(arg)) return [arg];
  for (let i = 1; i < arg.length && arg[i] in alias; i++) {
    const name = alias[arg[i]];
    if (!valued.includes(name)) continue;
    const value = arg.slice(i + 1);
    if (value === "" || value.startsWith("=")) break;
    const before = i > 1 ? [arg.slice(0, i)] : [];
    return [...before, `--${name}=${value}`];
  }
  return [arg];
}

/** `parseArgs` would take `--count=maybe` for `--count`. */
function checkBooleans(
  words: string[],
  alias: Record<string, string>,
  booleans: string[],
): void {
  for (const word of words) {
    if (word === "--") return;
    const [, key, value] = /^--?([^=]+)=(.*)$/s.exec(word) ?? [];
    const name = alias[key] ?? key;
    if (!booleans.includes(name) || /^(true|false)$/.test(value)) continue;
    throw new UsageError(
      `--${name} needs no value; it can be true or false, not '${value}'`,
    );
  }
}

function checkText(name: string, value: string): void {
  if (value !== "") return;
  throw new UsageError(
    `--${name} needs a value (--${name}=VALUE where it begins with a dash)`,
  );
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

/** The command as it can be typed again, in a POSIX shell. */
export function commandLine(task: string, args: string[]): string {
  const quoted = args.map((arg) =>
    /^[\w./:=@%+,-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`
  );
  return ["deno task", task, ...quoted].join(" ");
}

// The program

/** Set at Ctrl-C: from then on nothing more is said or decided. */
let leaving: Promise<never> | undefined;

const cleanUps: (() => unknown)[] = [];

/**
 * Runs a task and ends the process with its status.
 *
 * What goes wrong is one line and status 2. A reader of stdout that has gone
 * (`| head`) ends the task quietly. The process ends even where a worker does
 * not: `Deno.exit` stops threads that nothing else can stop.
 *
 * @param name What the task is called, for its error messages
 * @param main Does the task; it gets the command line, and gives the status
 * @returns Never: the process has ended by then
 */
export async function runTask(
  name: string,
  main: (args: string[]) => Promise<number>,
): Promise<never> {
  let status = 2;
  try {
    status = await main(Deno.args).finally(flush);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) status = 0;
    else warn(`${name}: ${lineOf(error)}`);
  }
  await leaving;
  clearBar();
  Deno.exit(status);
}

/** What was thrown: `cause`, or `path: cause` where the system names a path. */
function lineOf(error: unknown): string {
  if (error instanceof UsageError) return error.message; // `warn` escapes it
  if (error instanceof JobError) return lineOf(error.cause);
  const message = error instanceof Error ? error.message : "";
  const path = / \(os error \d+\): \w+ '(.*?)'(?: -> '.*')?$/s.exec(message)
    ?.[1];
  return path ? `${path}: ${causeOf(error)}` : causeOf(error);
}

/**
 * Ends the process with status 130 at Ctrl-C, after all `cleanUp`s; the last
 * one that was given is the first one done. Through `deno task` a terminal
 * delivers the signal twice: once is enough.
 *
 * @returns Withdraws `cleanUp` when it is disposed of
 */
export function onInterrupt(cleanUp: () => unknown): Disposable {
  if (cleanUps.push(cleanUp) === 1) Deno.addSignalListener("SIGINT", interrupt);
  return {
    [Symbol.dispose]() {
      if (leaving) return;
      cleanUps.splice(cleanUps.indexOf(cleanUp), 1);
      if (cleanUps.length === 0) Deno.removeSignalListener("SIGINT", interrupt);
    },
  };
}

function interrupt(): void {
  leaving ??= leave();
}

async function leave(): Promise<never> {
  clearBar();
  while (cleanUps.length > 0) {
    try {
      await cleanUps.pop()!();
    } catch {
      // The others are still to be done.
    }
  }
  Deno.exit(130);
}

/** How long a busy thread leaves signals and messages unheard, in ms. */
const DEAF = 2;

/**
 * Turns of the event loop, for a thread that is busy: Ctrl-C and messages get
 * through. `setTimeout` would take 2 ms, a message to itself 30 µs.
 */
export class Turns implements Disposable {
  readonly #channel = new MessageChannel();
  #last = performance.now();
  #resolve = () => {};

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /** Lets others have their turn, if it is time to. */
  async take(): Promise<void> {
    if (performance.now() < this.#last + DEAF) return;
    await new Promise<void>((resolve) => {
      this.#resolve = resolve;
      this.#channel.port2.postMessage(0);
    });
    this.#last = performance.now();
  }

  [Symbol.dispose](): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}

// Output

const encoder = new TextEncoder();

/** Asked once: each time costs as much as a line that is printed. */
export const stdoutIsTerminal: boolean = Deno.stdout.isTerminal();

/** What was printed and is not written yet: up to `held`. */
const pending = new Uint8Array(1 << 16);
let held = 0;

/**
 * Writes to stdout, when there is enough; `runTask` writes the rest. Unlike
 * `console.log` it throws when nobody reads any more.
 *
 * @param text What to write, as it is; bytes are not kept
 * @throws {Deno.errors.BrokenPipe} If nobody reads any more
 */
export function print(text: string | Uint8Array): void {
  if (typeof text === "string") printText(text);
  else if (text.length <= pending.length - held) {
    pending.set(text, held);
    held += text.length;
  } else {
    flush();
    if (text.length < pending.length) print(text);
    else write(text);
  }
}

function printText(text: string): void {
  for (let rest = text; rest !== "";) {
    const { read, written } = encoder.encodeInto(rest, pending.subarray(held));
    held += written;
    if (read === rest.length) return;
    rest = rest.slice(read);
    flush();
  }
}

/** Writes what was printed so far. */
export function flush(): void {
  const end = held;
  held = 0;
  write(pending.subarray(0, end));
}

function write(bytes: Uint8Array): void {
  if (leaving || bytes.length === 0) return;
  if (stdoutIsTerminal) clearBar();
  for (let at = 0; at < bytes.length;) {
    at += Deno.stdout.writeSync(bytes.subarray(at));
  }
}

/**
 * Writes a line to stderr. It stays one line whatever is in it.
 *
 * @param line What to write; control characters in it are escaped
 */
export function warn(line: string): void {
  if (leaving) return;
  clearBar();
  Deno.stderr.writeSync(encoder.encode(`${escaped(line)}\n`));
}

/**
 * So many of them: "1 image", "2 images".
 *
 * @param items How many
 * @param unit What they are, in the plural
 * @returns The number with the unit, which is in the singular for one
 */
export function count(items: number, unit: string): string {
  return `${items} ${items === 1 ? unit.replace(/s$/, "") : unit}`;
}

/** A path as the user would write it: below their folder without that. */
export function shownPath(path: string): string {
  const below = relative(userFolder, path) || ".";
  return /^\.\.(?![^/\\])/.test(below) ? path : below;
}

/**
 * Escapes control characters where they would do harm: a terminal takes them
 * for orders, and on stderr a newline would make two lines of a name. Other
 * programs get from stdout what they are to get, to the byte.
 *
 * @param text What is to be written, such as a name
 * @param to Where it goes; stdout by default
 * @returns The text, with `\\x0a` for a newline
 */
export function printable(
  text: string,
  to: { isTerminal(): boolean } = Deno.stdout,
): string {
  return to === Deno.stdout && !stdoutIsTerminal ? text : escaped(text);
}

function escaped(text: string): string {
  return text.replace(
    /(?!\t)\p{Cc}/gu,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** The progress bar that is on the terminal. */
let bar: ProgressBar | undefined;

/** Makes room for a line; the bar comes back when it is next drawn. */
function clearBar(): void {
  if (bar) Deno.stderr.writeSync(encoder.encode("\r\x1b[K"));
}

/** A progress bar on stderr while a terminal watches; else nothing. */
export class Progress {
  readonly #unit: string;
  #Bar?: typeof ProgressBar;
  #max = 0;
  #done = 0;

  /**
   * Shows nothing before there is something to expect.
   *
   * @param unit What a step is, in the plural
   * @param quiet Whether to show nothing at all
   */
  constructor(unit: string, quiet: boolean) {
    this.#unit = unit;
    if (quiet || !Deno.stderr.isTerminal()) return;
    // Nobody waits for it: a small run is over by then.
    import("@std/cli/unstable-progress-bar").then(({ ProgressBar }) => {
      this.#Bar = ProgressBar;
      this.#show();
    });
  }

  /** Says how many steps there will be, as far as is known. */
  expect(max: number): void {
    this.#max = max;
    this.#show();
  }

  #show(): void {
    const max = this.#max;
    if (!this.#Bar || max === 0) return;
    if (bar) bar.max = max;
    bar ??= new this.#Bar({
      max,
      value: this.#done,
      clear: true,
      barLength: 30,
      formatter: ({ styledTime, progressBar, value, max }) =>
        `${styledTime} ${progressBar} ${value}/${max} ${this.#unit}`,
    });
  }

  /** Counts one step. */
  step(): void {
    this.#done++;
    if (bar) bar.value++;
  }

  /** Takes the bar away. */
  async stop(): Promise<void> {
    this.#max = 0; // what is loaded only now shows nothing any more
    await bar?.stop();
    bar = undefined;
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
 * @param stdin Whether `-` means standard input, not a file of that name
 */
export async function* findFiles(
  args: string[],
  skip: (path: string) => boolean = () => false,
  stdin = false,
): AsyncGenerator<Found, void, void> {
  const seen = new Set<string>();
  for (const arg of args) {
    const files = stdin && arg === "-"
      ? [{ path: arg, name: arg, base: "" }]
      : findNamed(arg, skip) ?? await findGlob(arg, skip);
    // One folder alone has each file once: a million need not be remembered.
    if (args.length === 1 && !isGlob(arg)) return yield* files;
    for (const found of files) {
      if (seen.has(found.path)) continue;
      seen.add(found.path);
      yield found;
    }
  }
}

/** The size of files together, in bytes. */
export async function totalSize(paths: string[]): Promise<number> {
  let sum = 0;
  for (const path of paths) {
    // What is gone meanwhile is told of by the job that wants to read it.
    sum += await Deno.stat(path).then((info) => info.size, () => 0);
  }
  return sum;
}

/** What is meant by a name; nothing where that may be a glob. */
function findNamed(
  name: string,
  skip: (path: string) => boolean,
): Iterable<Found> | undefined {
  const path = resolve(userFolder, name);
  const base = dirname(path);
  try {
    // An empty name would be the folder that the user stands in.
    if (name === "") throw new Error("No such file or directory");
    const info = Deno.statSync(path); // follows links, as they are named
    if (info.isDirectory) return walk(path, name, path, skip);
    return [{ path, name, base, error: notAFile(info) }];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound && isGlob(name)) return;
    return [{ path, name, base, error: causeOf(error) }];
  }
}

async function findGlob(
  name: string,
  skip: (path: string) => boolean,
): Promise<Iterable<Found>> {
  const parts = name.split("/");
  const fixed = parts.slice(0, parts.findIndex((part) => isGlob(part)));
  const prefix = fixed.map((part) => `${part}/`).join("");
  const base = resolve(userFolder, prefix);
  let error = "No file matches";
  try {
    const { expandGlob } = await import("@std/fs/expand-glob");
    const entries = expandGlob(name, { root: userFolder });
    const paths = await Array.fromAsync(entries, (entry) => entry.path);
    if (paths.length > 0) return findAll(paths.sort(), base, prefix, skip);
  } catch (cause) {
    error = causeOf(cause);
  }
  return [{ path: resolve(userFolder, name), name, base, error }];
}

/** What is meant by the paths that match a glob. */
function* findAll(
  paths: string[],
  base: string,
  prefix: string,
  skip: (path: string) => boolean,
): Generator<Found, void, void> {
  for (const path of paths) {
    if (isSkipped(path, base, skip)) continue;
    const name = prefix + relative(base, path);
    // Gone meanwhile, and of a name that looks like a glob.
    const gone = { path, name, base, error: "No such file or directory" };
    for (const found of findNamed(name, skip) ?? [gone]) {
      yield { ...found, base };
    }
  }
}

/** Whether a path, or a folder on the way to it from `base`, is passed over. */
function isSkipped(
  path: string,
  base: string,
  skip: (path: string) => boolean,
): boolean {
  for (let at = path; at.length > base.length; at = dirname(at)) {
    if (skip(at)) return true;
  }
  return false;
}

/** Not async: that would take five times as long as what follows it. */
function* walk(
  folder: string,
  name: string,
  base: string,
  skip: (path: string) => boolean,
): Generator<Found, void, void> {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(folder)];
  } catch (error) {
    return yield { path: folder, name, base, error: causeOf(error) };
  }
  entries.sort((a, b) => a.name < b.name ? -1 : 1);
  const inFolder = join(folder, "x").slice(0, -1);
  // Not joined: what the user typed stays, as in `./logs/a.txt`.
  const inName = name.endsWith("/") ? name : `${name}/`;
  for (const entry of entries) {
    const path = inFolder + entry.name;
    const own = inName + entry.name;
    if (skip(path) || entry.isSymlink) continue;
    if (entry.isDirectory) yield* walk(path, own, base, skip);
    else yield { path, name: own, base, error: notAFile(entry) };
  }
}

/** Opening a FIFO or a device would wait for who knows whom. */
function notAFile(entry: { isFile: boolean }): string | undefined {
  return entry.isFile ? undefined : "Not a regular file";
}
