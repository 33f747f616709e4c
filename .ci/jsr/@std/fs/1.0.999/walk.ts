// Stands in for jsr:@std/fs/walk.
import { join } from "jsr:@std/path@~1.1.4/join";
import { entryOf, toText, type WalkEntry } from "./_entry.ts";

export type { WalkEntry };

/** Options for {@linkcode walk}. */
export interface WalkOptions {
  /** How many levels below the root. @default {Infinity} */
  maxDepth?: number;
  /** @default {true} */
  includeFiles?: boolean;
  /** @default {true} */
  includeDirs?: boolean;
  /** Links themselves, where they are not followed. @default {true} */
  includeSymlinks?: boolean;
  /** Take a link for what it leads to. @default {false} */
  followSymlinks?: boolean;
  /** Give a followed link's target as the path. @default {true} */
  canonicalize?: boolean;
  /** Only paths with one of these extensions, with or without the dot. */
  exts?: string[];
  /** Only paths that one of these matches. */
  match?: RegExp[];
  /** No path that one of these matches, and nothing below it. */
  skip?: RegExp[];
}

/** Whether `exts`, `match` and `skip` let a path through. */
function isWanted(path: string, options: WalkOptions): boolean {
  const { exts, match } = options;
  const endings = exts?.map((ext) => ext.startsWith(".") ? ext : `.${ext}`);
  return !isSkipped(path, options) &&
    (endings?.some((ending) => path.endsWith(ending)) ?? true) &&
    (match?.some((pattern) => path.search(pattern) >= 0) ?? true);
}

function isSkipped(path: string, { skip = [] }: WalkOptions): boolean {
  return skip.some((pattern) => path.search(pattern) >= 0);
}

/**
 * Everything under a directory and the directory itself, depth first, in the
 * order in which the system lists it.
 *
 * @throws {Deno.errors.NotFound} If the root does not exist.
 */
export async function* walk(
  root: string | URL,
  options: WalkOptions = {},
): AsyncIterableIterator<WalkEntry> {
  const { maxDepth = Infinity, includeDirs = true } = options;
  if (maxDepth < 0) return;
  const path = toText(root);
  if (includeDirs && isWanted(path, options)) yield await entryOf(path);
  if (maxDepth < 1 || isSkipped(path, options)) return;
  for await (const entry of Deno.readDir(path)) {
    yield* visit({ path: join(path, entry.name), ...entry }, options);
  }
}

async function* visit(
  entry: WalkEntry,
  options: WalkOptions,
): AsyncIterableIterator<WalkEntry> {
  // As in std, `canonicalize` reaches no further than the first level.
  const { canonicalize = true, maxDepth = Infinity, ...below } = options;
  let included = options.includeFiles ?? true;
  let { isDirectory, path } = entry;
  if (entry.isSymlink && options.followSymlinks) {
    const target = await Deno.realPath(path);
    ({ isDirectory } = await Deno.lstat(target));
    if (canonicalize) path = target;
  } else if (entry.isSymlink) {
    included = options.includeSymlinks ?? true;
  }
  if (isDirectory) yield* walk(path, { ...below, maxDepth: maxDepth - 1 });
  else if (included && isWanted(path, options)) yield { ...entry, path };
}
