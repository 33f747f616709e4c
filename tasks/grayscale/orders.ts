/**
 * Which images of a batch are to be converted, where they go, and what a worker
 * may do to that end.
 *
 * @module
 */

import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { relative } from "@std/path/relative";
import { clearTemporary, folderOf } from "../../workers/shared/files.ts";
import { shownPath, userFolder } from "../cli/paths.ts";
import { onInterrupt } from "../cli/program.ts";
import { type Batch, fail, type Image, tell } from "./batch.ts";

/** An image and where its gray one goes. */
export interface Order {
  /** The image. */
  path: string;
  /** The gray one. */
  out: string;
  /** How large an image may be, in pixels. */
  maxPixels?: number;
}

/**
 * What is to be done of a batch, one by one, as it is asked for: for 10,000
 * images a list took a third of a second, before the first one was begun. What
 * is not to be done is told of.
 */
export function* ordersOf(
  batch: Batch,
  clear: Clearing,
): Generator<Order & Image, void, void> {
  const { flags, images, folders, out } = batch;
  const base = commonFolder([...folders]);
  const maxPixels = flags.number["max-pixels"];
  const redo = flags.is.force || flags.is.compare || flags.paths.length === 0;
  let inputs: Set<string> | undefined; // of use where an output is there
  for (const { path, name } of images) {
    const target = join(out, relative(base, path)), old = infoOf(target);
    inputs ??= old && new Set(images.map(({ path }) => identityOf(path)));
    if (old && inputs!.has(identityOf(target, old))) {
      batch.refused++;
      const isOwn = identityOf(path) === identityOf(target, old);
      const which = isOwn ? "the input" : "another input";
      fail(batch, name, `the output would replace ${which}`);
      continue;
    }
    clear.around(target);
    if (!redo && old && isNewer(old, infoOf(path))) {
      batch.skipped++;
      tell(batch, { path: name, out: shownPath(target), skipped: true });
    } else yield { path, out: target, maxPixels, name };
  }
}

/** Whether a file is newer than another one, which may be gone meanwhile. */
function isNewer(file: Deno.FileInfo, than?: Deno.FileInfo): boolean {
  return file.isFile && than !== undefined && file.mtime! > than.mtime!;
}

/** Not async: of 10,000 images the promises alone took half a second. */
function infoOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return; // not there yet, or about to be reported
  }
}

/** Tells a file from others whatever it is called: there may be links. */
function identityOf(path: string, info = infoOf(path)): string {
  return info?.ino ? `${info.dev} ${info.ino}` : path;
}

/** The lowest folder that all of them are in, or that they all are. */
function commonFolder(folders: string[]): string {
  let [common = userFolder] = folders;
  for (const folder of folders) {
    while (/^\.\.(?![^/\\])/.test(relative(common, folder))) {
      common = dirname(common);
    }
  }
  return common;
}

/** Clears what killed runs left, and at Ctrl-C what this one would leave. */
export class Clearing {
  readonly #folders = new Set<string>();

  constructor() {
    onInterrupt(() => {
      for (const folder of this.#folders) clearTemporary(folder, true);
    });
  }

  /** Clears the folder of a file that is to be written, or was before. */
  around(path: string): void {
    const folder = folderOf(path);
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    clearTemporary(folder);
  }
}

/** Deno looks through all paths at each access: 0.1 µs for each. */
const PATHS_MAX = 16;

/**
 * What a worker may do that opens images which nobody vouches for: read these,
 * where they are many what is in their folders, where those are many what is in
 * the one that they have in common; and write what it makes.
 *
 * @param batch The images, the folders that were named, and the one for results
 * @returns The permissions; all that are not there are withheld
 */
export function permissionsFor(
  { images, folders, out }: {
    images: Pick<Image, "path">[];
    folders: Iterable<string>;
    out: string;
  },
): { read: string[]; write: string[] } {
  const named = [...folders];
  const read = images.length <= PATHS_MAX
    ? images.map(({ path }) => path)
    : named.length <= PATHS_MAX
    ? named
    : [commonFolder(named)];
  return { read: [...read, out], write: [out] };
}
