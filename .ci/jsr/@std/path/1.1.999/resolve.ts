// Stands in for jsr:@std/path/resolve.
import * as node from "node:path";

/** The absolute path that the parts lead to, from the working directory. */
export function resolve(...pathSegments: string[]): string {
  return node.resolve(...pathSegments);
}
