/**
 * Which images of a batch are converted, where the results go, and what the
 * workers may do.
 *
 * @module
 */

import { resolve } from "@std/path/resolve";
import type { GrayscaleFileOptions, Target } from "../../workers/grayscale.ts";
import {
  causeOf,
  clearTemporary,
  folderOf,
} from "../../workers/shared/files.ts";
import { UsageError } from "../cli/flags.ts";
import { below, isIn, parentOf, shownPath, userFolder } from "../cli/paths.ts";
import { onInterrupt } from "../cli/program.ts";
import { warn } from "../cli/terminal.ts";
import { type Batch, ENDING, type InputImage } from "./batch.ts";

/** An image to convert, and what the user calls it. */
export type Conversion = GrayscaleFileOptions & InputImage;

/**
 * The images of a batch that are to be converted, one by one, as they are asked
 * for: to make a list of 10,000 took a third of a second before the first one was
 * begun. The other images are recorded as skipped or refused.
 */
export function* conversionsOf(
  batch: Batch,
  temporaryFiles: TemporaryFiles,
): Generator<Conversion, void, void> {
  const { flags, images } = batch;
  const base = commonFolder([...batch.folders]);
  const maxPixels = flags.number["max-pixels"], { salvage } = flags.is;
  const redo = flags.is.force || flags.is.compare || flags.paths.length === 0;
  const { quality } = flags.number, to = flags.text.to as Target | undefined;
  const outOf = (path: string) =>
    renamed(resolve(batch.out, below(base, path)), to);
  const twice = to
    ? repeated(images.map(({ path }) => outOf(path)))
    : undefined;
  const folders = new OutputFolders(batch);
  let inputs: Set<string> | undefined; // needed once an output exists already
  for (const { path, name } of images) {
    const out = outOf(path), old = infoOf(out);
    inputs ??= old && new Set(images.map(({ path }) => identityOf(path)));
    if (old && inputs!.has(identityOf(out, old))) {
      const isOwn = identityOf(path) === identityOf(out, old);
      const which = isOwn ? "the input" : "another input";
      batch.addRefused(name, `the output would replace ${which}`);
      continue;
    }
    if (twice?.has(out)) {
      const which = `another output, ${shownPath(out)}`;
      batch.addRefused(name, `the output would replace ${which}`);
      continue;
    }
    temporaryFiles.clearBeside(out);
    if (!redo && old && isNewer(old, infoOf(path))) batch.addSkipped(name, out);
    else if (folders.isWritable(out, name)) {
      yield { path, out, to, quality, maxPixels, salvage, name };
    }
  }
}

/** The endings of the formats: the one that is given, and others that stay. */
export const ENDINGS: Record<Target, [own: string, all: RegExp]> = {
  jpeg: [".jpg", /\.(jpe?g|jpe|jfif)$/i],
  png: [".png", /\.a?png$/i],
  webp: [".webp", /\.webp$/i],
  tiff: [".tiff", /\.tiff?$/i],
  avif: [".avif", /\.avif$/i],
};

/** Whether a text is the name of a format that there is an ending for. */
export const isTarget = (text: string): text is Target => text in ENDINGS;

/** Gives a path the ending of a format, in the place of another image's. */
function renamed(path: string, to?: Target): string {
  if (!to || ENDINGS[to][1].test(path)) return path;
  return path.replace(ENDING, "") + ENDINGS[to][0];
}

/** Those texts that there are several times. */
function repeated(texts: string[]): Set<string> {
  const seen = new Set<string>();
  return new Set(texts.filter((text) => seen.size === seen.add(text).size));
}

/** Whether a file is newer than another one, which may have been removed. */
function isNewer(file: Deno.FileInfo, than?: Deno.FileInfo): boolean {
  return file.isFile && than !== undefined && file.mtime! > than.mtime!;
}

/** Synchronous: for 10,000 images the promises alone took half a second. */
function infoOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return; // not there yet, or about to be reported
  }
}

/** Identifies a file by device and inode, since links give it several paths. */
function identityOf(path: string, info = infoOf(path)): string {
  return info?.ino ? `${info.dev} ${info.ino}` : path;
}

/** The lowest folder that contains all of these, or is all of them. */
function commonFolder(folders: string[]): string {
  let [common = userFolder] = folders;
  for (const folder of folders) {
    while (!isIn(common, folder)) common = parentOf(common);
  }
  return common;
}

/**
 * Removes the temporary files that killed runs left where this one writes, and at
 * Ctrl-C those of this run.
 */
export class TemporaryFiles {
  readonly #folders = new Set<string>();

  constructor() {
    onInterrupt(() => {
      for (const folder of this.#folders) clearTemporary(folder, true);
    });
  }

  /** Clears the folder of an output, when it is named for the first time. */
  clearBeside(path: string): void {
    const folder = folderOf(path);
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    clearTemporary(folder);
  }
}

/** Says of folders that cannot be written, once of each. */
class OutputFolders {
  readonly #batch: Batch;
  /** Why nothing can be written into a folder, if that is so. */
  readonly #errors = new Map<string, string | undefined>();

  constructor(batch: Batch) {
    this.#batch = batch;
  }

  /**
   * Whether an image's folder can be written; otherwise the image has failed.
   *
   * @throws {UsageError} If it is the folder for all of them that cannot
   */
  isWritable(path: string, name: string): boolean {
    const { out, flags } = this.#batch;
    // The machines of a cluster write, not this one.
    if (flags.text.redis !== undefined) return true;
    const whole = this.#errorOf(out);
    if (whole !== undefined) {
      throw new UsageError(`${shownPath(out)}: ${whole}`);
    }
    const folder = parentOf(path), isNew = !this.#errors.has(folder);
    const error = this.#errorOf(folder);
    if (error === undefined) return true;
    const where = `${shownPath(folder)}: ${error}`;
    if (isNew) warn(where);
    this.#batch.addUnwritable(name, where);
    return false;
  }

  #errorOf(folder: string): string | undefined {
    if (!this.#errors.has(folder)) this.#errors.set(folder, writeError(folder));
    return this.#errors.get(folder);
  }
}

/** Why nothing can be written into a folder, or where it would be made. */
function writeError(folder: string): string | undefined {
  // Like other temporary files it is removed by the next run if this one is killed.
  const suffix = `.${Deno.pid}-00000000.manyhands`;
  try {
    if (!Deno.statSync(folder).isDirectory) return "Not a directory";
    const probe = { dir: folder, prefix: ".probe.", suffix };
    Deno.removeSync(Deno.makeTempFileSync(probe));
  } catch (error) {
    const isMissing = error instanceof Deno.errors.NotFound;
    if (!isMissing || parentOf(folder) === folder) return causeOf(error);
    return writeError(parentOf(folder));
  }
}

/** With more paths, permission checks cost: 0.1 µs per path at each access. */
const PATHS_MAX = 16;

/**
 * The permissions of a worker, which opens images of unknown origin: it may read
 * these images and write its results. If the images are many, it may read their
 * folders instead; if the folders are many, the folder that contains them all.
 *
 * @param batch The images, the folders that were named, and the one for results
 * @returns The permissions; a worker has no others
 */
export function permissionsFor(
  { images, folders, out }: {
    images: Pick<InputImage, "path">[];
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
