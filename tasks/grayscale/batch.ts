/**
 * The images of one run of `deno task grayscale`, and what became of them.
 *
 * @module
 */

import { resolve } from "@std/path/resolve";
import { nameOfOther, sniff } from "../../workers/grayscale/formats.ts";
import { isTemporary } from "../../workers/shared/files.ts";
import type { MachineWork } from "../cluster/cluster.ts";
import type { Flags } from "../cli/flags.ts";
import {
  findFiles,
  lastPart,
  parentOf,
  projectFolder,
  shownPath,
  userFolder,
} from "../cli/paths.ts";
import { count, flush, print, printable, warn } from "../cli/terminal.ts";

/** An image that was found. */
export interface InputImage {
  /** Where it is, absolute. */
  path: string;
  /** Its path as the user wrote it. */
  name: string;
}

/** The images of one run, and what became of them. */
export class Batch {
  readonly flags: Flags;
  /** The folder that the gray images are written into. */
  readonly out: string;
  readonly images: InputImage[] = [];
  /** The folders that were named, or that contain the files that were named. */
  readonly folders = new Set<string>();
  #converted = 0;
  #skipped = 0;
  #refused = 0;
  #failed = 0;
  #others = 0;

  constructor(flags: Flags, out: string) {
    this.flags = flags;
    this.out = out;
  }

  /** Adds an image, and the folder under which it was found. */
  add(image: InputImage, folder: string): void {
    this.images.push(image);
    this.folders.add(folder);
  }

  /** Counts a file that was found and is no image. */
  leaveAlone(): void {
    this.#others++;
  }

  /** How many images there are to convert, as far as is known. */
  get size(): number {
    return this.images.length - this.#skipped - this.#refused;
  }

  /**
   * Whether a worker would take longer to start than this thread to convert all: one
   * JPEG takes 82 ms of CPU in all, and 143 with a worker. Any other image is for a
   * worker, which may do less: it may need zlib, the codec, or seconds.
   */
  get isLittle(): boolean {
    const [image, ...more] = this.images, { number, text } = this.flags;
    if (!image || more.length > 0 || number.quality || text.to) return false;
    return formatOf(image.path, LITTLE_BYTES) === "JPEG";
  }

  /** Records that an image was converted, and says what was wrong with it. */
  addConverted(
    name: string,
    out: string,
    bytes?: number,
    warning?: string,
  ): void {
    this.#converted++;
    this.#record({ path: name, out: shownPath(out), bytes, warning });
    if (warning) {
      warn(`${printable(name, Deno.stderr)}: converted, but for ${warning}`);
    }
  }

  /** Records that an image has an up-to-date gray image. */
  addSkipped(name: string, out: string): void {
    this.#skipped++;
    this.#record({ path: name, out: shownPath(out), skipped: true });
  }

  /** Records that an image is not converted, as it would replace an input. */
  addRefused(name: string, error: string): void {
    this.#refused++;
    this.addFailed(name, error);
  }

  /** Records that an image's folder cannot be written, which is said already. */
  addUnwritable(name: string, error: string): void {
    this.#refused++;
    this.#failed++;
    this.#record({ path: name, error });
  }

  /** Records that an image could not be converted, and says why. */
  addFailed(name: string, error: string): void {
    this.#failed++;
    this.#record({ path: name, error });
    const isConvertible = /^unsupported format: (HEI[CF]|JPEG XL)$/.test(error);
    const wayOut = isConvertible ? ": --to jpeg converts it" : "";
    warn(`${printable(name, Deno.stderr)}: ${error}${wayOut}`);
  }

  /** Records what each machine did, where several did it. */
  addMachines(machines: MachineWork[]): void {
    this.#record({ machines });
  }

  /** Prints at once what became of an image: there may be any number of them. */
  #record(object: unknown): void {
    const { json, quiet } = this.flags.is;
    if (!json || quiet) return;
    print(`${JSON.stringify(object)}\n`);
    flush();
  }

  /**
   * What became of the images, in one line.
   *
   * @param time How long it took, with what belongs in front of it
   */
  summary(time = ""): string {
    const parts = [
      `${count(this.#converted, "images")} converted into ${
        shownPath(this.out)
      }`,
    ];
    if (this.#failed > 0) parts.push(`${this.#failed} failed`);
    if (this.#skipped > 0) parts.push(`${this.#skipped} up to date`);
    const others = this.#others > 0
      ? `; ${count(this.#others, "other files")} left alone`
      : "";
    return parts.join(", ") + time + others;
  }

  /** Prints a text, unless it is objects that are printed; gives the exit status. */
  print(text: string): number {
    const { quiet, json } = this.flags.is;
    if (!quiet && !json) print(text);
    return this.#failed > 0 ? 1 : 0;
  }
}

/** Not a literal, so that it is read on first need only. */
const FIXTURES = "../fixtures.ts";

/** The ten images that are made if the user names none. */
export async function makeBatch(flags: Flags): Promise<Batch> {
  const { quiet } = flags.is;
  const { makeFixtures }: typeof import("../fixtures.ts") = await import(
    FIXTURES
  );
  const { images } = await makeFixtures({ images: 10, keep: true, quiet });
  const batch = new Batch(flags, `${projectFolder}/fixtures/gray`);
  for (const path of images) {
    batch.add({ path, name: lastPart(path) }, parentOf(path));
  }
  return batch;
}

/** The images that the user named. */
export async function findBatch(flags: Flags): Promise<Batch> {
  const out = resolve(userFolder, flags.text.out ?? "gray");
  const batch = new Batch(flags, out);
  // The results of earlier runs, and what a killed run left, are no inputs.
  const skip = (path: string) => path === out || isTemporary(lastPart(path));
  const { include, exclude } = flags.list;
  const named = new Set(flags.paths.map((name) => resolve(userFolder, name)));
  const found = findFiles(flags.paths, { skip, include, exclude });
  for await (const { path, name, base, error } of found) {
    if (error !== undefined) batch.addFailed(name, error);
    else if (named.has(path) || hasImageName(path) || formatOf(path)) {
      batch.add({ path, name }, base);
    } else batch.leaveAlone();
  }
  return batch;
}

/** Endings of images, also of those that are refused. */
export const ENDING = new RegExp(
  "\\.(jpe?g|jpe|jfif|a?png|gif|webp|tiff?|bmp|dib|avif|hei[cf]|hif|jxl|jp2|" +
    "j2k|jpx)$",
  "i",
);

/** Whether a name is an image's, and not that of what macOS keeps beside it. */
function hasImageName(path: string): boolean {
  const name = lastPart(path);
  return ENDING.test(name) && !name.startsWith("._");
}

/** The largest JPEG that is converted without a worker, in bytes. */
const LITTLE_BYTES = 1 << 22;

/**
 * The format that a file has by its content, whatever it is called; undefined if it
 * is none that is known, larger than `most` bytes, or cannot be read.
 */
function formatOf(path: string, most = Infinity): string | undefined {
  try {
    using file = Deno.openSync(path);
    if (file.statSync().size > most) return;
    const head = new Uint8Array(256), size = file.readSync(head) ?? 0;
    const bytes = head.subarray(0, size);
    return sniff(bytes) ?? nameOfOther(bytes);
  } catch {
    return; // who cannot read it cannot say what it is
  }
}
