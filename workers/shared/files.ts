/**
 * Files: writing them whole or not at all, and why something failed.
 *
 * @module
 */

import { JobError } from "../../mod.ts";
import { joined } from "./memory.ts";

/** `.NAME.PID-RANDOM.manyhands`; only a killed process leaves one behind. */
const TEMPORARY = /^\..+\.(\d+)-[0-9a-f]{8}\.manyhands$/s;

/** A backslash separates names on Windows only. */
const FOLDER = Deno.build.os === "windows" ? /^.*[\\/]/s : /^.*\//s;

/** A part up to this size is faster to copy than to write by itself, in bytes. */
const SMALL = 4096;

/** When this process began, in ms. Older temporary files are left over. */
const began = performance.timeOrigin;

/**
 * Writes a file whole or not at all: under a temporary name in the same folder,
 * which is then renamed. It needs `--allow-write` for the folder.
 *
 * On failure nothing is left behind, and an older file stays as it was. If the
 * process is killed, the temporary file stays until {@linkcode clearTemporary}
 * removes it.
 *
 * @param path Where the file goes; its folder must exist
 * @param content What is in it, or its parts, one after the other
 * @param mode Permission bits of the new file, less those of the umask
 * @throws {Deno.errors.NotFound} If there is no such folder
 * @throws {Deno.errors.PermissionDenied} If it may not be written
 *
 * @example
 * ```ts
 * import { writeWhole } from "./files.ts";
 *
 * const folder = await Deno.makeTempDir();
 * writeWhole(`${folder}/a.txt`, new TextEncoder().encode("whole\n"));
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function writeWhole(
  path: string,
  content: Uint8Array | Uint8Array[],
  mode = 0o666,
): void {
  const folder = folderOf(path), at = folder.length;
  // Unique for each attempt: a thread that was given up may still be writing.
  const random = crypto.randomUUID().slice(0, 8);
  // The name is shortened, since it may be as long as the file system allows.
  const name = `.${path.slice(at, at + 40)}.${Deno.pid}-${random}.manyhands`;
  const temporary = folder + name;
  try {
    writeNew(temporary, Array.isArray(content) ? content : [content], mode);
    Deno.renameSync(temporary, path);
  } catch (error) {
    try {
      Deno.removeSync(temporary);
    } catch {
      // It was never made.
    }
    throw error;
  }
}

function writeNew(path: string, parts: Uint8Array[], mode: number): void {
  // Set from the beginning: nobody may open it before that either.
  using file = Deno.openSync(path, { write: true, createNew: true, mode });
  for (const part of joinSmall(parts)) {
    for (let at = 0; at < part.length;) {
      at += file.writeSync(part.subarray(at));
    }
  }
}

/** Joins small parts, to save the time of a write for each. */
function joinSmall(parts: Uint8Array[]): Uint8Array[] {
  const large: Uint8Array[] = [];
  let small: Uint8Array[] = [];
  for (const part of parts) {
    if (part.length > SMALL) {
      large.push(joined(small), part);
      small = [];
    } else small.push(part);
  }
  return [...large, joined(small)];
}

/**
 * Removes the temporary files that killed runs left in a folder, and with
 * `own` those of this process. It needs `--allow-read` and `--allow-write`.
 *
 * A file that cannot be removed stays; a missing folder is no error.
 *
 * @param folder Where to look; folders in it are not searched
 * @param own Whether this process is at its end and removes its own files, too
 *
 * @example
 * ```ts
 * import { clearTemporary } from "./files.ts";
 *
 * clearTemporary("no such folder");
 * ```
 */
export function clearTemporary(folder: string, own = false): void {
  for (const { name, isFile } of entriesOf(folder)) {
    const pid = TEMPORARY.exec(name)?.[1];
    if (pid === undefined || !isFile) continue;
    const path = `${folder}/${name}`;
    try {
      const mtime = Deno.statSync(path).mtime?.getTime() ?? 0;
      const mine = own && Number(pid) === Deno.pid;
      if (mine || mtime < began) Deno.removeSync(path);
    } catch {
      // It is gone, or this process may not remove it. The others still go.
    }
  }
}

function entriesOf(folder: string): Deno.DirEntry[] {
  try {
    return [...Deno.readDirSync(folder)];
  } catch {
    return []; // a missing folder has none
  }
}

/**
 * The folder of a path, including the last separator.
 *
 * @param path A file's path
 * @returns The folder; "" for a bare name
 *
 * @example
 * ```ts
 * import { folderOf } from "./files.ts";
 *
 * console.log(folderOf("photos/a.jpg")); // photos/
 * ```
 */
export function folderOf(path: string): string {
  return FOLDER.exec(path)?.[0] ?? "";
}

/**
 * Recognizes the temporary files of {@linkcode writeWhole} by their names.
 *
 * @param name A file's name, without its folder
 * @returns Whether it is one
 *
 * @example
 * ```ts
 * import { isTemporary } from "./files.ts";
 *
 * console.log(isTemporary(".a.jpg.123-0a1b2c3d.manyhands")); // true
 * ```
 */
export function isTemporary(name: string): boolean {
  return TEMPORARY.test(name);
}

/** How {@linkcode causeOf} begins where Deno asks for all permissions. */
export const FORBIDDEN = "Deno does not let a program without all permissions";

/**
 * Says in a few words why something failed, without the path. Of places that Deno
 * opens to no program without all permissions, it says that.
 *
 * @param error What was thrown; for a `JobError` its cause is described
 * @returns The cause, on one line
 *
 * @example
 * ```ts
 * import { causeOf } from "./files.ts";
 *
 * const error = await Deno.open("no-such-file").catch((error) => error);
 * console.log(causeOf(error)); // No such file or directory
 * ```
 */
export function causeOf(error: unknown): string {
  if (error instanceof JobError) return causeOf(error.cause);
  const message = error instanceof Error
    ? error.message || error.name
    : String(error);
  // What Deno says of /dev, /proc and /sys names a flag, which no task has.
  const [, place] = /^Requires all access to "(\/?[^/"]*)/.exec(message) ?? [];
  if (place !== undefined) return `${FORBIDDEN} read or write in ${place}`;
  return message.replace(/ \(os error \d+\).*$/s, "").replace(/\s+/g, " ");
}
