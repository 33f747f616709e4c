// Stands in for jsr:@std/fs/expand-glob.
import {
  type GlobOptions,
  globToRegExp,
} from "jsr:@std/path@~1.1.4/glob-to-regexp";
import { isAbsolute } from "jsr:@std/path@~1.1.4/is-absolute";
import { isGlob } from "jsr:@std/path@~1.1.4/is-glob";
import { join } from "jsr:@std/path@~1.1.4/join";
import { resolve } from "jsr:@std/path@~1.1.4/resolve";
import { SEPARATOR_PATTERN } from "jsr:@std/path@~1.1.4/constants";
import { entryOf, toText, type WalkEntry } from "./_entry.ts";
import { walk } from "./walk.ts";

export type { GlobOptions, WalkEntry };

/** Options for {@linkcode expandGlob}. */
export interface ExpandGlobOptions extends GlobOptions {
  /** Where a relative glob starts. @default {Deno.cwd()} */
  root?: string;
  /** Globs of what is left out, and of everything below it. @default {[]} */
  exclude?: string[];
  /** @default {true} */
  includeDirs?: boolean;
  /** Take a link for what it leads to. @default {false} */
  followSymlinks?: boolean;
  /** Give a followed link's target as the path. @default {true} */
  canonicalize?: boolean;
}

const ESCAPED = Deno.build.os === "windows"
  ? /`([*?{}[\]()|+@!])/g
  : /\\([*?{}[\]()|+@!])/g;

/** The steps from one directory to the next on a glob's way. */
class Steps {
  #options: ExpandGlobOptions;
  #skip: RegExp[];

  constructor(root: string, options: ExpandGlobOptions) {
    this.#options = options;
    this.#skip = (options.exclude ?? []).map((glob) =>
      globToRegExp(resolve(root, glob), options)
    );
  }

  /** What one part of the glob leads to from an entry. */
  async *from(entry: WalkEntry, part: string): AsyncIterable<WalkEntry> {
    const { globstar = true, followSymlinks, canonicalize } = this.#options;
    if (!entry.isDirectory) return;
    if (part === "..") {
      const parent = join(entry.path, "..");
      const skipped = this.#skip.some((pattern) => pattern.test(parent));
      if (!skipped) yield await entryOf(parent);
    } else if (part === "**") {
      const maxDepth = globstar ? Infinity : 1;
      yield* walk(entry.path, {
        skip: this.#skip,
        maxDepth,
        followSymlinks,
        canonicalize,
      });
    } else {
      const pattern = globToRegExp(part, this.#options);
      const options = { skip: this.#skip, maxDepth: 1, followSymlinks };
      for await (const found of walk(entry.path, options)) {
        if (found.path !== entry.path && pattern.test(found.name)) yield found;
      }
    }
  }
}

function byPath(a: WalkEntry, b: WalkEntry): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0;
}

/** The parts of a glob between separators; on Windows without the drive. */
function split(glob: string): { parts: string[]; drive?: string } {
  const parts = glob.split(SEPARATOR_PATTERN);
  if (parts.length > 1 && parts.at(-1) === "") parts.pop();
  const windows = Deno.build.os === "windows";
  if (!isAbsolute(glob)) return { parts };
  if (parts[0] === "") parts.shift();
  return windows ? { parts, drive: parts.shift() } : { parts };
}

/**
 * The files and directories that a glob matches, each once, sorted by path.
 * A `/` at its end asks for directories only. A directory that does not exist
 * has nothing in it.
 */
export async function* expandGlob(
  glob: string | URL,
  options: ExpandGlobOptions = {},
): AsyncIterableIterator<WalkEntry> {
  const text = toText(glob);
  const { parts, drive = "/" } = split(text);
  const absolute = isAbsolute(text);
  const root = options.root ?? (absolute ? drive : Deno.cwd());
  const steps = new Steps(absolute ? root : resolve(root), options);

  // Up to the first part with a wildcard it is simply a path.
  let start = absolute ? drive : resolve(root);
  while (parts.length > 0 && !isGlob(parts[0])) {
    start = join(start, parts.shift()!.replace(ESCAPED, "$1"));
  }
  let found: WalkEntry[];
  try {
    found = [await entryOf(start)];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }

  for (const part of parts) {
    const next = new Map<string, WalkEntry>();
    for (const entry of found) {
      for await (const each of steps.from(entry, part)) {
        next.set(each.path, each);
      }
    }
    found = [...next.values()].sort(byPath);
  }
  const { includeDirs = true } = options;
  yield* found.filter(({ isDirectory }) =>
    isDirectory ? includeDirs : !SEPARATOR_PATTERN.test(text.slice(-1))
  );
}
