/**
 * What one run of `deno task grayscale` has to do, and how it went so far.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { isTemporary } from "../../workers/shared/files.ts";
import type { Flags } from "../cli/flags.ts";
import {
  findFiles,
  projectFolder,
  shownPath,
  userFolder,
} from "../cli/paths.ts";
import { count, print, printable, warn } from "../cli/terminal.ts";

/** An image that was found. */
export interface Image {
  path: string;
  /** What to call it: as the user named it. */
  name: string;
}

/** All that one run has to do, and how it went so far. */
export interface Batch {
  flags: Flags;
  images: Image[];
  /** The folders that were named, or that named files are in. */
  folders: Set<string>;
  /** The folder that the gray images are under. */
  out: string;
  converted: number;
  skipped: number;
  /** Those that would have replaced an input; they are failed, too. */
  refused: number;
  failed: number;
  /** For `--json`. */
  objects: unknown[];
}

function newBatch(flags: Flags, out: string): Batch {
  return {
    flags,
    images: [],
    folders: new Set(),
    out,
    converted: 0,
    skipped: 0,
    refused: 0,
    failed: 0,
    objects: [],
  };
}

/** The ten images that are made where none are named. */
export async function demo(flags: Flags): Promise<Batch> {
  const { quiet } = flags.is;
  const { makeFixtures } = await import("../fixtures.ts");
  const out = join(projectFolder, "fixtures", "gray");
  const { images } = await makeFixtures({ images: 10, keep: true, quiet });
  const batch = newBatch(flags, out);
  for (const path of images) {
    batch.images.push({ path, name: basename(path) });
    batch.folders.add(dirname(path));
  }
  return batch;
}

/** What was named. */
export async function find(flags: Flags): Promise<Batch> {
  const out = resolve(userFolder, flags.text.out ?? "gray");
  const batch = newBatch(flags, out);
  // Neither what an earlier run made nor what a killed one left.
  const skip = (path: string) => path === out || isTemporary(basename(path));
  const found = findFiles(flags.paths, skip);
  for await (const { path, name, base, error } of found) {
    if (error !== undefined) {
      fail(batch, name, error);
      continue;
    }
    batch.images.push({ path, name });
    batch.folders.add(base);
  }
  return batch;
}

/** Keeps what --json prints; else 10,000 objects would be held for nobody. */
export function tell({ flags, objects }: Batch, object: unknown): void {
  if (flags.is.json) objects.push(object);
}

/** Prints how it went, as the flags want it; gives the exit status. */
export function finish(
  { flags, objects, failed }: Batch,
  text: string,
): number {
  const { quiet, json } = flags.is;
  if (!quiet) print(json ? `${JSON.stringify(objects, null, 2)}\n` : text);
  return failed > 0 ? 1 : 0;
}

export function fail(batch: Batch, name: string, error: string): void {
  batch.failed++;
  tell(batch, { path: name, error });
  warn(`${printable(name, Deno.stderr)}: ${error}`);
}

export function summary({ converted, failed, skipped, out }: Batch): string {
  const parts = [
    `${count(converted, "images")} converted into ${shownPath(out)}`,
  ];
  if (failed > 0) parts.push(`${failed} failed`);
  if (skipped > 0) parts.push(`${skipped} up to date`);
  return parts.join(", ");
}
