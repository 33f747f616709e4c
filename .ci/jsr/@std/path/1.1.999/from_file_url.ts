// Stands in for jsr:@std/path/from-file-url.
import { sep } from "./_node.ts";

const fileURLToPath = sep === "\\"
  ? (await import("node:url")).fileURLToPath
  : undefined;

/**
 * The path that a `file:` URL stands for.
 *
 * @throws {TypeError} If it is not a `file:` URL.
 */
export function fromFileUrl(url: string | URL): string {
  const { href, pathname, protocol } = new URL(url);
  if (protocol !== "file:") {
    throw new TypeError(`URL must be a file URL: received "${protocol}"`);
  }
  if (fileURLToPath) return fileURLToPath(href);
  // Node refuses a host, an encoded slash and a stray "%"; std takes them.
  return decodeURIComponent(pathname.replace(/%(?![\da-f]{2})/gi, "%25"));
}
