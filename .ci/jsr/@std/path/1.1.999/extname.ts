// Stands in for jsr:@std/path/extname.
import { node } from "./_node.ts";
import { text } from "./_text.ts";

/** The extension of a path with its dot, or an empty string. */
export function extname(path: string | URL): string {
  return node.extname(text(path));
}
