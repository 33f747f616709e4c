/**
 * Which state of the jobs a machine has: all that take part must have the same.
 *
 * @module
 */

import { join } from "@std/path/join";
import config from "../../deno.json" with { type: "json" };
import { projectFolder } from "../cli/paths.ts";

/** What the results of a job depend on, and what is said between the machines. */
const PARTS = ["mod.ts", "workers", "tasks/cluster"];

/**
 * The version of the jobs: the package's, and a checksum of their source, as two
 * clones of one version may differ.
 *
 * @param folder The project's folder
 */
export async function versionOf(folder = projectFolder): Promise<string> {
  const files = PARTS.flatMap((part) => filesIn(folder, part)).sort();
  const digests: number[] = [];
  for (const file of files) {
    const bytes = await Deno.readFile(join(folder, file));
    const digest = await crypto.subtle.digest("SHA-256", bytes);
    digests.push(...new TextEncoder().encode(file), ...new Uint8Array(digest));
  }
  const digest = await crypto.subtle.digest("SHA-256", new Uint8Array(digests));
  const checksum = new Uint8Array(digest).toHex().slice(0, 12);
  return `${config.version}-${checksum}`;
}

function filesIn(folder: string, part: string): string[] {
  if (Deno.statSync(join(folder, part)).isFile) return [part];
  const entries = [...Deno.readDirSync(join(folder, part))];
  return entries.flatMap(({ name, isDirectory }) => {
    const path = `${part}/${name}`;
    if (isDirectory) return filesIn(folder, path);
    return /\.(ts|wasm)$/.test(name) ? [path] : [];
  });
}
