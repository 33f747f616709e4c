// Stands in for jsr:@std/path/dirname.
import { node } from "./_node.ts";
import { text } from "./_text.ts";

/** All of a path but its last part. */
export function dirname(path: string | URL): string {
  const parent = node.dirname(text(path));
  // Node leaves "a/" of "a//b".
  const { root } = node.parse(parent);
  let end = parent.length;
  while (end > root.length && isSeparator(parent[end - 1])) end--;
  return root === "//" ? "/" : parent.slice(0, end);
}

function isSeparator(char: string): boolean {
  return char === node.sep || char === "/";
}
