// Stands in for jsr:@std/path/to-file-url.
import { node, sep } from "./_node.ts";

const pathToFileURL = sep === "\\"
  ? (await import("node:url")).pathToFileURL
  : undefined;

/**
 * The `file:` URL of an absolute path.
 *
 * @throws {TypeError} If the path is relative.
 */
export function toFileUrl(path: string): URL {
  if (!node.isAbsolute(path)) {
    throw new TypeError(`Path must be absolute: received "${path}"`);
  }
  if (pathToFileURL) return pathToFileURL(path);
  const url = new URL("file:///");
  // Not pathToFileURL, which drops doubled slashes; the setter encodes the rest.
  url.pathname = path.replace(/^\/+/, "/").replace(
    /[%\\\s]/g,
    encodeURIComponent,
  );
  return url;
}
