// Stands in for jsr:@std/path/join.
import { node } from "./_node.ts";
import { text } from "./_text.ts";

/** Joins the parts and normalizes the result. */
export function join(path: string | URL, ...paths: string[]): string {
  return node.join(text(path), ...paths);
}
