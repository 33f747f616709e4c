// Stands in for jsr:@std/path/basename.
import { node } from "./_node.ts";
import { text } from "./_text.ts";

/** The last part of a path, without `suffix` unless it is nothing else. */
export function basename(path: string | URL, suffix = ""): string {
  const whole = text(path);
  // Node calls the last part of "/" empty; here it is "/".
  const name = node.basename(whole) || node.parse(whole).root.slice(-1);
  // Not Node's own `suffix`, which turns basename("a", "a") into "".
  return name.endsWith(suffix) && name !== suffix
    ? name.slice(0, name.length - suffix.length)
    : name;
}
