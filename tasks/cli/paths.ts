/**
 * The paths that a user names: files, folders, globs.
 *
 * @module
 */

import { dirname } from "@std/path/dirname";
import { isGlob } from "@std/path/is-glob";
import { join } from "@std/path/join";
import { relative } from "@std/path/relative";
import { resolve } from "@std/path/resolve";
import { causeOf } from "../../workers/shared/files.ts";

/** The folder that the user stands in; `deno task` changes to its own. */
export const userFolder: string = Deno.env.get("INIT_CWD") ?? Deno.cwd();

/** The project's folder, where `fixtures/` and `reports/` are. */
export const projectFolder: string = resolve(import.meta.dirname!, "../..");

/** A path as the user would write it: below their folder without that. */
export function shownPath(path: string): string {
  const below = relative(userFolder, path) || ".";
  return /^\.\.(?![^/\\])/.test(below) ? path : below;
}

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
