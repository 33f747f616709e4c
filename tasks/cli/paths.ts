/**
 * Finds the files that a user names: by paths, folders and globs.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { dirname } from "@std/path/dirname";
import { isGlob } from "@std/path/is-glob";
import { join } from "@std/path/join";
import { relative } from "@std/path/relative";
import { resolve } from "@std/path/resolve";
import { causeOf } from "../../workers/shared/files.ts";

/** The user's current folder. `deno task` itself runs in the project's folder. */
export const userFolder: string = Deno.env.get("INIT_CWD") ?? Deno.cwd();

/** The project's folder, where `fixtures/` and `reports/` are. */
export const projectFolder: string = resolve(import.meta.dirname!, "../..");

/** A path as the user would write it: relative if it is below their folder. */
export function shownPath(path: string): string {
  const below = relative(userFolder, path) || ".";
  return /^\.\.(?![^/\\])/.test(below) ? path : below;
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

/**
 * Finds the files that the user means, each of them once.
 *
 * Folders are searched recursively, in the order of names; links in them are not
 * followed, and what is no regular file (opening a FIFO might wait for ever) is
 * passed over. What is named and no file, or cannot be read, is given with its
 * `error`.
 *
 * @param args Paths and globs, relative to the user's folder
 * @param skip Whether to skip a file or folder, by its absolute path
 * @param stdin Whether `-` means standard input rather than a file of that name
 */
export async function* findFiles(
  args: string[],
  skip: (path: string) => boolean = () => false,
  stdin = false,
): AsyncGenerator<FoundFile, void, void> {
  const seen = new Set<string>();
  for (const arg of args) {
    const files = stdin && arg === "-"
      ? [{ path: arg, name: arg, base: "" }]
      : findNamed(arg, skip) ?? await findGlob(arg, skip);
    // One folder has each file once, so that a million need not be remembered.
    if (args.length === 1 && !isGlob(arg)) return yield* files;
    for (const found of files) {
      if (found.error !== NOT_UTF8) { // of these, several may be spelt alike
        if (seen.has(found.path)) continue;
        seen.add(found.path);
      }
      yield found;
    }
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
  for (let at = path; at.includes("\ufffd"); at = dirname(at)) {
    const name = basename(at);
    if (
      name.includes("\ufffd") && !isThere(at) && isListed(dirname(at), name)
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

function isListed(folder: string, name: string): boolean {
  try {
    return Iterator.from(Deno.readDirSync(folder)).some((entry) =>
      entry.name === name
    );
  } catch {
    return false; // it is not there, or may not be listed
  }
}

/** The files that a name means; undefined if it may be a glob. */
function findNamed(
  name: string,
  skip: (path: string) => boolean,
): Iterable<FoundFile> | undefined {
  const path = resolve(userFolder, name);
  const base = dirname(path);
  try {
    // An empty name would mean the user's current folder.
    if (name === "") throw new Error("No such file or directory");
    const info = Deno.statSync(path); // follows a link that the user names
    if (info.isDirectory) return walk(path, name, path, skip);
    const error = info.isFile ? undefined : "Not a regular file";
    return [{ path, name, base, error }];
  } catch (error) {
    const isMissing = error instanceof Deno.errors.NotFound;
    if (isMissing && isUnopenable(path)) {
      return [{ path, name, base, error: NOT_UTF8 }];
    }
    if (isMissing && isGlob(name)) return;
    return [{ path, name, base, error: causeOf(error) }];
  }
}

async function findGlob(
  name: string,
  skip: (path: string) => boolean,
): Promise<Iterable<FoundFile>> {
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

/** The files that the matches of a glob mean. */
function* findAll(
  paths: string[],
  base: string,
  prefix: string,
  skip: (path: string) => boolean,
): Generator<FoundFile, void, void> {
  for (const path of paths) {
    if (isSkipped(path, base, skip)) continue;
    const name = prefix + relative(base, path);
    // The file was removed meanwhile, and its name looks like a glob itself.
    const gone = { path, name, base, error: "No such file or directory" };
    for (const found of findNamed(name, skip) ?? [gone]) {
      yield { ...found, base };
    }
  }
}

/** Whether a path, or a folder between `base` and it, is skipped. */
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

/** Synchronous: an async generator would take five times as long. */
function* walk(
  folder: string,
  name: string,
  base: string,
  skip: (path: string) => boolean,
): Generator<FoundFile, void, void> {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(folder)];
  } catch (error) {
    return yield { path: folder, name, base, error: causeOf(error) };
  }
  entries.sort((a, b) => a.name < b.name ? -1 : 1);
  const inFolder = join(folder, "x").slice(0, -1);
  // Not normalized, so that it stays as the user typed it: `./logs/a.txt`.
  const inName = name.endsWith("/") ? name : `${name}/`;
  let last = "";
  for (const entry of entries) {
    const path = inFolder + entry.name;
    const own = inName + entry.name;
    if (skip(path) || entry.isSymlink) continue;
    if (!entry.isDirectory && !entry.isFile) continue;
    const isOther = entry.name === last; // two names, of which one at most is so
    last = entry.name;
    if (last.includes("\ufffd") && (isOther || !isThere(path))) {
      yield { path, name: own, base, error: NOT_UTF8 };
    } else if (entry.isDirectory) yield* walk(path, own, base, skip);
    else yield { path, name: own, base };
  }
}
