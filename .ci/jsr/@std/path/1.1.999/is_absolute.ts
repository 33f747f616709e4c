// Stands in for jsr:@std/path/is-absolute.
import { node } from "./_node.ts";

/** Whether a path starts at a root. */
export function isAbsolute(path: string): boolean {
  return node.isAbsolute(path);
}
