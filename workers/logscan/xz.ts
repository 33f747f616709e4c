/**
 * Decompresses xz, by XZ Embedded as WebAssembly.
 *
 * @module
 */

import { type Blocks, endError, type Input } from "./input.ts";

/**
 * The package, loaded on first need. If it were imported by a literal it would be in
 * the module graph, and whoever imports this file would fetch it at the start.
 */
const PACKAGE = "npm:xz-decompress@0.2.3";

/** What the package's WebAssembly exports. */
interface Exports {
  memory: WebAssembly.Memory;
  create_context(): number;
  destroy_context(context: number): void;
  supply_input(context: number, length: number): void;
  get_next_output(context: number): number;
}

/**
 * What is used of the package: what is inside of its stream. The stream itself loses
 * what it decompressed in front of the damage, and fails with an error of its own
 * where its input ends too early.
 */
interface Stream {
  _getModuleInstance(): Promise<void>;
  _moduleInstance?: { exports: Exports };
}

/** Where in a context its numbers are, in words: the package reads them so, too. */
const SIZE = 0,
  INPUT = 1,
  INPUT_AT = 2,
  INPUT_END = 3,
  OUTPUT = 4,
  OUTPUT_AT = 5;

/** What a call returns: more is to come, the end, and why it failed. */
const OK = 0, END = 1;
const CAUSES: Record<number, string> = {
  3: "there is too little memory for it",
  4: "it needs more than 64 MiB of memory: decompress it first",
  5: "something else follows its end", // how it begins is known
  6: "it has filters or checksums that are not supported: decompress it first",
};

/** Memory that has grown beyond this is given back, in bytes: it never shrinks. */
const KEEP_BYTES = 32 << 20;

let loaded: Promise<Stream> | undefined;

/** Gives this thread's instance, which is loaded on first need. */
async function load(): Promise<Exports> {
  loaded ??= import(PACKAGE).then((module) => module.default.XzReadableStream);
  try {
    const stream = await loaded!;
    if (!stream._moduleInstance) await stream._getModuleInstance();
    return stream._moduleInstance!.exports;
  } catch (error) {
    loaded = undefined; // the next file tries again
    const [cause] = String(error).split("\n");
    throw new Error(`cannot load ${PACKAGE}: ${cause}`, { cause: error });
  }
}

/**
 * Decompresses all streams of xz that follow each other.
 *
 * @param input Where they begin; nothing is left of it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated, or the package cannot be loaded
 *
 * @example
 * ```ts
 * import { fromBlocks, Input } from "./input.ts";
 * import { unxz } from "./xz.ts";
 *
 * async function* blocks() { // of an empty file
 *   yield Uint8Array.fromBase64("/Td6WFoAAATm1rRGAAAAABzfRCEftvN9AQAAAAAEWVo=");
 * }
 * for await (const block of unxz(new Input(fromBlocks(blocks())))) {
 *   console.log(block);
 * }
 * ```
 */
export async function* unxz(input: Input): Blocks {
  const exports = await load();
  const context = exports.create_context();
  try {
    // Made anew each time: a call may have made the memory grow.
    const words = () => new Uint32Array(exports.memory.buffer, context);
    const bytes = (at: number, length: number) =>
      new Uint8Array(exports.memory.buffer, at, length);
    const size = words()[SIZE];
    for (let status = OK; status !== END;) {
      // No input tells it that there is none.
      await input.hasMore();
      const given = input.held.subarray(0, size);
      bytes(words()[INPUT], given.length).set(given);
      exports.supply_input(context, given.length);
      let produced: number;
      do {
        words()[OUTPUT_AT] = 0;
        status = exports.get_next_output(context);
        produced = words()[OUTPUT_AT];
        // A copy: what is read meanwhile may be another xz, inside of this one.
        if (produced > 0) yield bytes(words()[OUTPUT], produced).slice();
      } while (
        status === OK &&
        (words()[INPUT_AT] < words()[INPUT_END] || produced === size)
      );
      input.skip(words()[INPUT_AT]);
      if (status === OK || status === END) continue;
      if (given.length === 0) throw endError();
      throw new Error(CAUSES[status] ?? "its data are damaged");
    }
  } finally {
    exports.destroy_context(context);
    if (exports.memory.buffer.byteLength > KEEP_BYTES) {
      const stream = await loaded;
      if (stream?._moduleInstance?.exports === exports) {
        stream._moduleInstance = undefined;
      }
    }
  }
}
