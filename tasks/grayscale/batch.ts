/**
 * The images of one run of `deno task grayscale`, and what became of them.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { isTemporary } from "../../workers/shared/files.ts";
import type { MachineWork } from "../cluster/cluster.ts";
import type { Flags } from "../cli/flags.ts";
import {
  findFiles,
  projectFolder,
  shownPath,
  userFolder,
} from "../cli/paths.ts";
import { count, print, printable, warn } from "../cli/terminal.ts";

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
  /** An object for each image, if `--json` is to print them. */
  readonly #objects: unknown[] = [];

  constructor(flags: Flags, out: string) {
    this.flags = flags;
    this.out = out;
  }

  /** Adds an image, and the folder under which it was found. */
  add(image: InputImage, folder: string): void {
    this.images.push(image);
    this.folders.add(folder);
  }

  /** How many images there are to convert, as far as is known. */
  get size(): number {
    return this.images.length - this.#skipped - this.#refused;
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

  /** Records that an image could not be converted, and says why. */
  addFailed(name: string, error: string): void {
    this.#failed++;
    this.#record({ path: name, error });
    warn(`${printable(name, Deno.stderr)}: ${error}`);
  }

  /** Records what each machine did, where several did it. */
  addMachines(machines: MachineWork[]): void {
    this.#record({ machines });
  }

  #record(object: unknown): void {
    if (this.flags.is.json) this.#objects.push(object);
  }

  /** What became of the images, in one line. */
  get summary(): string {
    const parts = [
      `${count(this.#converted, "images")} converted into ${
        shownPath(this.out)
      }`,
    ];
    if (this.#failed > 0) parts.push(`${this.#failed} failed`);
    if (this.#skipped > 0) parts.push(`${this.#skipped} up to date`);
    return parts.join(", ");
  }

  /** Prints a text, or what `--json` asks for; returns the exit status. */
  print(text: string): number {
    const { quiet, json } = this.flags.is;
    if (json) text = `${JSON.stringify(this.#objects, null, 2)}\n`;
    if (!quiet) print(text);
    return this.#failed > 0 ? 1 : 0;
  }
}

/** The ten images that are made if the user names none. */
export async function makeBatch(flags: Flags): Promise<Batch> {
  const { quiet } = flags.is;
  const { makeFixtures } = await import("../fixtures.ts");
  const { images } = await makeFixtures({ images: 10, keep: true, quiet });
  const batch = new Batch(flags, join(projectFolder, "fixtures", "gray"));
  for (const path of images) {
    batch.add({ path, name: basename(path) }, dirname(path));
  }
  return batch;
}

/** The images that the user named. */
export async function findBatch(flags: Flags): Promise<Batch> {
  const out = resolve(userFolder, flags.text.out ?? "gray");
  const batch = new Batch(flags, out);
  // The results of earlier runs, and what a killed run left, are no inputs.
  const skip = (path: string) => path === out || isTemporary(basename(path));
  const found = findFiles(flags.paths, { skip });
  for await (const { path, name, base, error } of found) {
    if (error !== undefined) batch.addFailed(name, error);
    else batch.add({ path, name }, base);
  }
  return batch;
}
