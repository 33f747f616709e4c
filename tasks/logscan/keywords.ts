/**
 * Reads lists of keywords.
 *
 * @module
 */

import { resolve } from "@std/path/resolve";
import { causeOf } from "../../workers/shared/files.ts";
import { UsageError } from "../cli/flags.ts";
import { userFolder } from "../cli/paths.ts";

/**
 * Reads keywords, one a line. Line breaks of any kind and a byte-order mark are
 * no part of them, and empty lines are skipped. It may be UTF-16 as well, as
 * PowerShell writes it.
 *
 * @param name A file, or `-` for standard input
 * @throws {UsageError} If it cannot be read, or is no text
 */
export async function readKeywords(name: string): Promise<string[]> {
  let bytes: Uint8Array;
  try {
    bytes = name === "-"
      ? new Uint8Array(await new Response(Deno.stdin.readable).arrayBuffer())
      : await Deno.readFile(resolve(userFolder, name));
  } catch (error) {
    throw new UsageError(`--file ${name}: ${causeOf(error)}`);
  }
  const mark = bytes[0] << 8 | bytes[1];
  const encoding = mark === 0xfffe
    ? "utf-16le"
    : mark === 0xfeff
    ? "utf-16be"
    : "utf-8";
  let text: string;
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new UsageError(`--file ${name}: it is not valid ${encoding} text`);
  }
  return text.split(/\r?\n|\r$/).filter((line) => line !== "");
}
