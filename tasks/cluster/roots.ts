/**
 * The folder below which a joined process reads and writes, and the way paths take
 * from one machine to another.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { dirname } from "@std/path/dirname";
import { isAbsolute } from "@std/path/is-absolute";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";

/** What is done with a path. */
export type Access = "read" | "write";

/** A folder that nothing may leave. */
export class Root {
  readonly folder: string;
  /** Where it really is: its own path may lead through links. */
  readonly #real: string;
  /** Both of its paths. */
  readonly paths: string[];

  /**
   * @param folder The folder, absolute
   * @throws {Error} If there is no such folder
   */
  constructor(folder: string) {
    this.folder = resolve(folder);
    this.#real = Deno.realPathSync(folder);
    if (!Deno.statSync(folder).isDirectory) {
      throw new Error("it is not a folder");
    }
    this.paths = [...new Set([this.folder, this.#real])];
  }

  /**
   * A path as it travels to a machine where this folder is elsewhere. What is not
   * in the folder stays as it is, and is refused there.
   */
  relative(path: string): string {
    const isPlain = path.startsWith("/") && !ODD.test(path);
    const absolute = isPlain ? path : resolve(path);
    const folder = this.paths.find((folder) => isBelow(absolute, folder));
    if (folder === undefined) return absolute;
    const { length } = folder;
    return absolute.slice(absolute[length] === "/" ? length + 1 : length) ||
      ".";
  }

  /** Starts a look at paths, in which no folder is looked up twice. */
  gate(isRelative: boolean): Gate {
    return new Gate(this, this.#real, isRelative);
  }
}

/**
 * What a plain path does not have: `//`, `/.` or `/..` as a part, a `/` at its end. To
 * bring every path into that form took 9 µs of 60 for a small file, and 400 bytes.
 */
const ODD = /\/(\.{0,2}\/|\.{0,2}$)/;

/** Lets paths pass that do not leave a folder. */
export class Gate {
  readonly #root: Root;
  readonly #real: string;
  readonly #isRelative: boolean;
  readonly #folders = new Map<string, Folder>();

  constructor(root: Root, real: string, isRelative: boolean) {
    this.#root = root;
    this.#real = real;
    this.#isRelative = isRelative;
  }

  /**
   * Gives the real path, on this machine, of one that travelled here. The file
   * may be missing, and so may the folders of one that is to be written.
   *
   * @throws {Error} If it leaves the root: by `..`, as an absolute path elsewhere,
   * or by a link
   */
  pass(path: unknown, access: Access): string {
    const { folder, paths } = this.#root;
    if (typeof path !== "string" || path === "" || path.includes("\0")) {
      throw new Error("it is not a path");
    }
    if (isAbsolute(path) === this.#isRelative) throw this.#outside();
    const whole = this.#isRelative ? `${folder}/${path}` : path;
    const absolute = ODD.test(whole) ? resolve(whole) : whole;
    if (paths.includes(absolute)) return this.#real;
    if (!paths.some((each) => isBelow(absolute, each))) throw this.#outside();
    const at = absolute.lastIndexOf("/");
    const parent = this.#folderOf(absolute.slice(0, at) || "/");
    const name = absolute.slice(at + 1);
    const real = `${parent.real === "/" ? "" : parent.real}/${name}`;
    // What is written replaces a link, so where that leads does not matter.
    if (access === "read" && parent.hasLink(name)) {
      const target = realPath(real);
      if (target === undefined) throw new Error("No such file or directory");
      if (!isBelow(target, this.#real)) throw this.#outside();
    }
    return real;
  }

  /** A folder, of which the last parts may be missing. */
  #folderOf(path: string): Folder {
    let folder = this.#folders.get(path);
    if (folder === undefined) {
      // A link that leads nowhere is there all the same, and may not be made use of.
      let real = realPath(path);
      if (real === undefined) {
        if (isLink(path)) throw this.#outside();
        real = join(this.#folderOf(dirname(path)).real, basename(path));
      }
      this.#folders.set(path, folder = new Folder(real));
    }
    if (!isBelow(folder.real, this.#real)) throw this.#outside();
    return folder;
  }

  #outside(): Error {
    return new Error(`it is outside of the --root ${this.#root.folder}`);
  }
}

/** After so many files of a folder the whole folder is listed. */
const LIST_FROM = 32;
/** But not one that takes longer to list: it has some 30,000 files. */
const LIST_MAX_BYTES = 1 << 20;

/** A folder, and which of the names in it are links. */
class Folder {
  /** Its real path. */
  readonly real: string;
  #looked = 0;
  #links?: Set<string>;

  constructor(real: string) {
    this.real = real;
  }

  /**
   * Whether a name in it is a link. To look at each of many small logs took a fifth
   * of the time that it takes to search them, and a round trip on shared storage.
   */
  hasLink(name: string): boolean {
    if (++this.#looked === LIST_FROM) this.#list();
    return this.#links?.has(name) ?? isLink(join(this.real, name));
  }

  #list(): void {
    try {
      if (Deno.statSync(this.real).size > LIST_MAX_BYTES) return;
      const entries = [...Deno.readDirSync(this.real)];
      const links = entries.filter(({ isSymlink }) => isSymlink);
      this.#links = new Set(links.map(({ name }) => name));
    } catch {
      // It may not be listed: its files are looked at one by one.
    }
  }
}

/** Whether a path is a folder, or below it. */
function isBelow(path: string, folder: string): boolean {
  if (!path.startsWith(folder)) return false;
  const { length } = folder;
  return path.length === length || path[length] === "/" ||
    folder.endsWith("/");
}

function realPath(path: string): string | undefined {
  try {
    return Deno.realPathSync(path);
  } catch {
    return; // it is missing, or may not be seen: whoever opens it will say so
  }
}

function isLink(path: string): boolean {
  try {
    return Deno.lstatSync(path).isSymlink;
  } catch {
    return false;
  }
}
