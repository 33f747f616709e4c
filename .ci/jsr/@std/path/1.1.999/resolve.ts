// Stands in for jsr:@std/path/resolve.
import { node } from "./_node.ts";

/** The absolute path that the parts lead to, from the working directory. */
export function resolve(...pathSegments: string[]): string {
  return node.resolve(...pathSegments);
}
