import { fromFileUrl } from "./from_file_url.ts";

/** Several path functions take a `file:` URL as well; they all work on text. */
export function text(path: string | URL): string {
  return path instanceof URL ? fromFileUrl(path) : path;
}
