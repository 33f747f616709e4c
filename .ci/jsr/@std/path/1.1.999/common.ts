// Stands in for jsr:@std/path/common.
import { SEPARATOR } from "./constants.ts";

/**
 * The leading directories that all paths share. It ends with a separator
 * unless one of the paths is just that.
 */
export function common(paths: string[]): string {
  const split = paths.map((path) => path.split(SEPARATOR));
  const [first = []] = split;
  let shared = first.findIndex((part, i) =>
    split.some((other) => other[i] !== part)
  );
  if (shared < 0) shared = first.length;
  const goesOn = shared > 0 && split.every((parts) => parts.length > shared);
  return first.slice(0, shared).join(SEPARATOR) + (goesOn ? SEPARATOR : "");
}
