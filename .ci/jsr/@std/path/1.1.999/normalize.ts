// Stands in for jsr:@std/path/normalize.
import { node } from "./_node.ts";
import { text } from "./_text.ts";

/** Resolves `.`, `..` and repeated separators. */
export function normalize(path: string | URL): string {
  return node.normalize(text(path));
}
