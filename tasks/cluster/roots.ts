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
  }

  /** Both of its paths. */
  get paths(): string[] {
    return [...new Set([this.folder, this.#real])];
  }

  /**
   * A path as it travels to a machine where this folder is elsewhere. What is not
   * in the folder stays as it is, and is refused there.
   */
  relative(path: string): string {
    const absolute = resolve(path);
    const folder = this.paths.find((folder) => isBelow(absolute, folder));
    if (folder === undefined) return absolute;
    return absolute.slice(folder.length).replace(/^\//, "") || ".";
  }

  /** Starts a look at paths, in which no folder is looked up twice. */
  gate(isRelative: boolean): Gate {
    return new Gate(this, this.#real, isRelative);
  }
}

/** Lets paths pass that do not leave a folder. */
export class Gate {
  readonly #root: Root;
  readonly #real: string;
  readonly #isRelative: boolean;
  readonly #folders = new Map<string, string>();

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
    const absolute = this.#isRelative ? join(folder, path) : resolve(path);
    if (!paths.some((each) => isBelow(absolute, each))) throw this.#outside();
    const real = paths.includes(absolute)
      ? this.#real
      : join(this.#folderOf(dirname(absolute)), basename(absolute));
    // What is written replaces a link, so where that leads does not matter.
    if (access === "read" && isLink(real)) {
      const target = realPath(real);
      if (target === undefined) throw new Error("No such file or directory");
      if (!isBelow(target, this.#real)) throw this.#outside();
    }
    return real;
  }

  /** The real path of a folder, of which the last parts may be missing. */
  #folderOf(path: string): string {
    let real = this.#folders.get(path);
    if (real === undefined) {
      // A link that leads nowhere is there all the same, and may not be made use of.
      real = realPath(path);
      if (real === undefined) {
        if (isLink(path)) throw this.#outside();
        real = join(this.#folderOf(dirname(path)), basename(path));
      }
      this.#folders.set(path, real);
    }
    if (!isBelow(real, this.#real)) throw this.#outside();
    return real;
  }

  #outside(): Error {
    return new Error(`it is outside of the --root ${this.#root.folder}`);
  }
}

/** Whether a path is a folder, or below it. */
function isBelow(path: string, folder: string): boolean {
  const inside = folder.endsWith("/") ? folder : `${folder}/`;
  return path === folder || path.startsWith(inside);
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
