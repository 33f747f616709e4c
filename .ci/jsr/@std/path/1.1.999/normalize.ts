// Stands in for jsr:@std/path/normalize.
import * as node from "node:path";
import { text } from "./_text.ts";

/** Resolves `.`, `..` and repeated separators. */
export function normalize(path: string | URL): string {
  return node.normalize(text(path));
}
