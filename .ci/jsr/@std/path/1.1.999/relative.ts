// Stands in for jsr:@std/path/relative.
import { node } from "./_node.ts";

/** The way from one path to another, both seen from the working directory. */
export function relative(from: string, to: string): string {
  return node.relative(from, to);
}
