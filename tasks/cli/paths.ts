/**
 * Finds the files that a user names: by paths, folders and globs.
 *
 * @module
 */

import { isGlob } from "@std/path/is-glob";
import { resolve } from "@std/path/resolve";
import { causeOf, folderOf } from "../../workers/shared/files.ts";
import { UsageError } from "./flags.ts";

/** The user's current folder. `deno task` itself runs in the project's folder. */
export const userFolder: string = Deno.env.get("INIT_CWD") ?? Deno.cwd();

/** The project's folder, where `fixtures/` and `reports/` are. */
export const projectFolder: string = resolve(import.meta.dirname!, "../..");

/** A path as the user would write it: relative if it is below their folder. */
export function shownPath(path: string): string {
  if (!isIn(userFolder, path)) return path;
  return below(userFolder, path) || ".";
}

/** A folder with a separator at its end; both are absolute. */
const inside = (folder: string) => resolve(folder, "x").slice(0, -1);

/** Whether an absolute path is that of a folder, or leads into it. */
export function isIn(folder: string, path: string): boolean {
  return path === folder || path.startsWith(inside(folder));
}

/** What of an absolute path follows that of a folder which it is in. */
export function below(folder: string, path: string): string {
  return path.slice(inside(folder).length);
}

/** The folder of an absolute path. */
export function parentOf(path: string): string {
  return resolve(path, "..");
}

/** The last part of a path. */
export function lastPart(path: string): string {
  return path.slice(folderOf(path).length);
}

/** A file that was named, or found in a folder or by a glob. */
export interface FoundFile {
  /** Where it is, absolute. */
  path: string;
  /** Its path as the user wrote it. */
  name: string;
  /** The folder that was named, absolute; the folder of a file that was named. */
  base: string;
  /** Why it cannot be used, if it cannot. */
  error?: string;
}

/** Which files are meant. */
export interface FindOptions {
  /** Whether to skip a file or folder, by its absolute path. */
  skip?: (path: string) => boolean;
  /** Whether `-` means standard input rather than a file of that name. */
  stdin?: boolean;
  /** Globs: only files that one of them matches. Default: all files. */
  include?: string[];
  /** Globs: no file or folder that one of them matches. */
  exclude?: string[];
  /** More names, that are no globs. They are not remembered. */
  list?: AsyncIterable<string>;
}

/** Not a literal, so that it is read on first need only. */
const GLOBS = "@std/path/glob-to-regexp";

/**
 * Finds the files that the user means, each of them once.
 *
 * Folders are searched recursively, in the order of names; links in them are not
 * followed, and what is no regular file (opening a FIFO might wait for ever) is
 * passed over. What is named and no file, or cannot be read, is given with its
 * `error`, and the rest is found all the same.
 *
 * A glob of `include` or `exclude` without a slash is compared with names, one
 * with a slash with paths below what was named. If it matches a folder, it means
 * all that is in it. What both match is excluded.
 *
 * @param args Paths and globs, relative to the user's folder
 * @param options See {@linkcode FindOptions}
 */
export async function* findFiles(
  args: string[],
  options: FindOptions = {},
): AsyncGenerator<FoundFile, void, void> {
  for await (const files of findEach(args, options)) yield* files;
}

/**
 * Finds the files that the user means, those of each name by themselves: as they
 * are asked for, but without a promise for each.
 *
 * @param args See {@linkcode findFiles}
 * @param options See {@linkcode FindOptions}
 */
export async function* findEach(
  args: string[],
  options: FindOptions = {},
): AsyncGenerator<Iterable<FoundFile>, void, void> {
  const { stdin = false, include = [], exclude = [], list } = options;
  const globs = [...include, ...exclude, ...args.filter((arg) => isGlob(arg))];
  const { globToRegExp }: typeof import("@std/path/glob-to-regexp") =
    globs.length > 0
      ? await import(GLOBS)
      : { globToRegExp: () => new RegExp("") };
  const finder = new Finder(options, globToRegExp);
  const seen = new Set<string>();
  for (const arg of args) {
    const files = stdin && arg === "-"
      ? [{ path: arg, name: arg, base: "" }]
      : isGlob(arg) && !isFound(resolve(userFolder, arg))
      ? finder.matching(arg)
      : finder.named(arg);
    // One folder has each file once, so that a million need not be remembered.
    const isUnique = args.length === 1 && !isGlob(arg);
    yield isUnique ? files : unseen(files, seen);
  }
  for await (const name of list ?? []) yield finder.named(name);
}

/** The files that have not been found before. */
function* unseen(
  files: Iterable<FoundFile>,
  seen: Set<string>,
): Generator<FoundFile, void, void> {
  for (const found of files) {
    // Of names that are not UTF-8, several may be spelt alike.
    if (found.error !== NOT_UTF8) {
      if (seen.has(found.path)) continue;
      seen.add(found.path);
    }
    yield found;
  }
}

/** The longest name in a list, in characters; systems allow 4096 or fewer. */
const NAME_MAX = 1 << 16;

/**
 * Reads a list of names, each as soon as it is there.
 *
 * @param path The list, relative to the user's folder; `-` for standard input
 * @param isNull Whether a NUL ends each name, and all else belongs to it;
 * otherwise each line is one, and empty lines are skipped
 * @throws {UsageError} If it cannot be read
 */
export async function* readNames(
  path: string,
  isNull: boolean,
): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: isNull });
  const block = new Uint8Array(1 << 16);
  const end = isNull ? "\0" : /\r?\n/;
  let rest = "";
  try {
    using file = path === "-"
      ? undefined
      : await Deno.open(resolve(userFolder, path));
    for (let n: number | null = 0; n !== null;) {
      n = await (file ?? Deno.stdin).read(block);
      rest += decoder.decode(block.subarray(0, n ?? 0), { stream: n !== null });
      const names = rest.split(end);
      rest = n === null ? "" : names.pop()!;
      if (rest.length > NAME_MAX) throw new Error("a name in it is too long");
      for (const name of names) if (name !== "") yield name;
    }
  } catch (error) {
    throw new UsageError(`--files-from: ${path}: ${causeOf(error)}`);
  }
}

/** Whether a path is that of a file, or of one that Deno cannot open. */
function isFound(path: string): boolean {
  return isThere(path) || isUnopenable(path);
}

/** A glob of `include` or `exclude`. */
interface Filter {
  pattern: RegExp;
  /** Whether it is compared with names rather than with paths. */
  isName: boolean;
  /** Whether it matches folders only, as it ends in a slash. */
  isFolder: boolean;
}

type ToRegExp = (glob: string) => RegExp;

function newFilter(glob: string, toRegExp: ToRegExp): Filter {
  const text = glob.replace(/^(\.?\/)+|\/+$/g, "");
  return {
    // Anchored to the folder that was named: `/a.log`, `./a.log`.
    isName: !/^\.?\//.test(glob) && !text.includes("/"),
    pattern: toRegExp(text),
    isFolder: glob.endsWith("/"),
  };
}

/** Whether a filter matches a file or folder, or a folder above it. */
function isMatch(
  filters: Filter[],
  below: string,
  isFolder: boolean,
): boolean {
  const parts = below.split("/");
  return filters.some((filter) => {
    const { pattern, isName } = filter;
    // The last part may be a file.
    const count = filter.isFolder && !isFolder
      ? parts.length - 1
      : parts.length;
    return parts.slice(0, count).some((part, i) =>
      pattern.test(isName ? part : parts.slice(0, i + 1).join("/"))
    );
  });
}

/** What is in a folder: a file, a folder, or neither. */
interface Entry extends FoundFile {
  isFile?: boolean;
  isDirectory?: boolean;
}

/** Finds files by what the user named. */
class Finder {
  readonly #skip: (path: string) => boolean;
  readonly #include: Filter[];
  readonly #exclude: Filter[];

  readonly #toRegExp: ToRegExp;
  /** Whether the glob that is expanded has matched anything. */
  #hasMatch = false;

  constructor(
    { skip = () => false, include = [], exclude = [] }: FindOptions,
    toRegExp: ToRegExp,
  ) {
    this.#skip = skip;
    this.#include = include.map((glob) => newFilter(glob, toRegExp));
    this.#exclude = exclude.map((glob) => newFilter(glob, toRegExp));
    this.#toRegExp = toRegExp;
  }

  /** The files that a name means. */
  named(name: string): Iterable<FoundFile> {
    const path = resolve(userFolder, name);
    const base = parentOf(path);
    const [own] = /[^/]*\/*$/.exec(name)!;
    try {
      // An empty name would mean the user's current folder.
      if (name === "") throw new Error("No such file or directory");
      const { isDirectory, isFile } = Deno.statSync(path); // follows a link
      // `.` and `..` say nothing about the folder's name.
      if (!/^\.*\/*$/.test(own) && this.#isOut(own, isDirectory, isFile)) {
        return [];
      }
      if (isDirectory) return this.#walk(path, name, path);
      const error = isFile ? undefined : "Not a regular file";
      return [{ path, name, base, error }];
    } catch (error) {
      const cause = isUnopenable(path) ? NOT_UTF8 : causeOf(error);
      return [{ path, name, base, error: cause }];
    }
  }

  /** The files that a glob means. */
  *matching(glob: string): Generator<FoundFile, void, void> {
    const parts = glob.split("/");
    const fixed = parts.splice(0, parts.findIndex((part) => isGlob(part)));
    const prefix = fixed.map((part) => `${part}/`).join("");
    const base = resolve(userFolder, prefix);
    const isDouble = (part: string, i: number) =>
      part === "**" && parts[i - 1] === "**";
    const single = parts.filter((part, i) => !isDouble(part, i));
    // What matches may be an empty folder, or nothing that is included.
    this.#hasMatch = this.#isFiltered;
    if (isFolder(base)) yield* this.#expand(base, prefix, base, single);
    if (this.#hasMatch) return;
    const path = resolve(userFolder, glob);
    yield { path, name: glob, base, error: "No file matches" };
  }

  /**
   * What the parts of a glob match below a folder.
   *
   * @param prefix The folder's name with a slash at its end; "" for the user's own
   */
  *#expand(
    folder: string,
    prefix: string,
    base: string,
    [part, ...rest]: string[],
  ): Generator<FoundFile, void, void> {
    if (part === "" || part === "." || part === "..") {
      const path = resolve(folder, part);
      if (rest.length === 0) yield* this.#walk(path, prefix + part, base);
      else yield* this.#expand(path, `${prefix}${part}/`, base, rest);
      return;
    }
    const isAny = part === "**";
    if (isAny && rest.length === 0) {
      return yield* this.#walk(folder, prefix, base);
    }
    if (isAny) yield* this.#expand(folder, prefix, base, rest);
    const pattern = this.#toRegExp(part);
    for (const entry of this.#entriesOf(folder, prefix, base)) {
      const { path, name, error, isDirectory } = entry;
      const isMatch = isAny || pattern.test(lastPart(path));
      if (error !== undefined) {
        // What cannot be listed may have had a match in it.
        if (path !== folder && !isMatch) continue;
        this.#hasMatch = true;
        yield entry;
      } else if (isMatch && isDirectory && rest.length > 0) {
        const parts = isAny ? [part, ...rest] : rest;
        yield* this.#expand(path, `${name}/`, base, parts);
      } else if (isMatch && rest.length === 0) yield* this.#follow(entry);
    }
  }

  /** The files that a match of a glob means: it is followed if it is a link. */
  *#follow(entry: Entry): Generator<FoundFile, void, void> {
    const { path, name, base } = entry;
    this.#hasMatch = true;
    if (entry.isFile) return yield entry;
    try {
      const { isDirectory, isFile } = Deno.statSync(path);
      if (isDirectory) return yield* this.#walk(path, name, base);
      yield isFile ? entry : { ...entry, error: "Not a regular file" };
    } catch (error) {
      yield { ...entry, error: causeOf(error) };
    }
  }

  /** Synchronous: an async generator would take five times as long. */
  *#walk(
    folder: string,
    name: string,
    base: string,
  ): Generator<FoundFile, void, void> {
    this.#hasMatch = true;
    // Not normalized, so that it stays as the user typed it: `./logs/a.txt`.
    const prefix = name === "" || name.endsWith("/") ? name : `${name}/`;
    for (const entry of this.#entriesOf(folder, prefix, base)) {
      if (entry.isFile || entry.error !== undefined) yield entry;
      else if (entry.isDirectory) {
        yield* this.#walk(entry.path, entry.name, base);
      }
    }
  }

  /** What is in a folder and meant; the folder with its error if that fails. */
  *#entriesOf(
    folder: string,
    prefix: string,
    base: string,
  ): Generator<Entry, void, void> {
    let entries: { name: string; isFile: boolean; isDirectory: boolean }[];
    try {
      // Deno's own entries take 400 bytes each, these 100.
      entries = Array.from(
        Deno.readDirSync(folder),
        ({ name, isFile, isDirectory }) => ({ name, isFile, isDirectory }),
      );
    } catch (error) {
      const name = prefix.replace(/(?<=.)\/$/, "") || ".";
      return yield { path: folder, name, base, error: causeOf(error) };
    }
    entries.sort((a, b) => a.name < b.name ? 1 : -1);
    const inFolder = inside(folder);
    const isFiltered = this.#isFiltered;
    let last = "";
    // From the last one, so that each is held no longer than it takes.
    for (let entry; (entry = entries.pop());) {
      const { name: own, isFile, isDirectory } = entry;
      const path = inFolder + own, name = prefix + own;
      if (this.#skip(path)) continue;
      const isOther = own === last; // two names, of which one at most is so
      last = own;
      if (
        isFiltered && this.#isOut(below(base, path), isDirectory, isFile)
      ) {
        continue;
      }
      if (own.includes("\ufffd") && (isOther || !isThere(path))) {
        const error = NOT_UTF8;
        if (isFile || isDirectory) yield { path, name, base, error };
      } else yield { path, name, base, isFile, isDirectory };
    }
  }

  /** Whether `include` or `exclude` leave a file or folder out. */
  #isOut(below: string, isDirectory: boolean, isFile: boolean): boolean {
    if (isMatch(this.#exclude, below, isDirectory)) return true;
    return isFile && this.#include.length > 0 &&
      !isMatch(this.#include, below, false);
  }

  get #isFiltered(): boolean {
    return this.#include.length + this.#exclude.length > 0;
  }
}

/** The size of files together, in bytes. */
export async function totalSize(paths: string[]): Promise<number> {
  let sum = 0;
  for (const path of paths) {
    // A file that was removed meanwhile is reported by the job that reads it.
    sum += await Deno.stat(path).then((info) => info.size, () => 0);
  }
  return sum;
}

/**
 * Deno takes and gives names as text, with U+FFFD for bytes that are not UTF-8. So
 * a name with it may be that of a file that cannot be opened.
 */
const NOT_UTF8 = "its name is not UTF-8, so Deno cannot open it";

/** Whether a path that is not there is listed, or a folder above it. */
function isUnopenable(path: string): boolean {
  for (let at = path; at.includes("\ufffd"); at = parentOf(at)) {
    const name = lastPart(at);
    if (
      name.includes("\ufffd") && !isThere(at) && isListed(parentOf(at), name)
    ) {
      return true;
    }
  }
  return false;
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch (error) {
    return !(error instanceof Deno.errors.NotFound); // it may be one
  }
}

function isListed(folder: string, name: string): boolean {
  try {
    return Iterator.from(Deno.readDirSync(folder)).some((entry) =>
      entry.name === name
    );
  } catch {
    return false; // it is not there, or may not be listed
  }
}
