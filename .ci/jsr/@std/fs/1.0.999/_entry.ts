import { basename } from "jsr:@std/path@~1.1.4/basename";
import { fromFileUrl } from "jsr:@std/path@~1.1.4/from-file-url";
import { normalize } from "jsr:@std/path@~1.1.4/normalize";

/** A directory entry that was found, with its path. */
export interface WalkEntry extends Deno.DirEntry {
  /** Its path, under the root that was given. */
  path: string;
}

/** The path as text. */
export function toText(path: string | URL): string {
  return path instanceof URL ? fromFileUrl(path) : path;
}

/** The entry for a path that no directory listing gave; follows links. */
export async function entryOf(path: string): Promise<WalkEntry> {
  const normal = normalize(path);
  const { isFile, isDirectory, isSymlink } = await Deno.stat(normal);
  return {
    path: normal,
    name: basename(normal),
    isFile,
    isDirectory,
    isSymlink,
  };
}
