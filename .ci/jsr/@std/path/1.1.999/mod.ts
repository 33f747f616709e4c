// Stands in for the root of jsr:@std/path.
export * from "./basename.ts";
export * from "./common.ts";
export * from "./constants.ts";
export * from "./dirname.ts";
export * from "./extname.ts";
export * from "./from_file_url.ts";
export * from "./glob_to_regexp.ts";
export * from "./is_absolute.ts";
export * from "./is_glob.ts";
export * from "./join.ts";
export * from "./normalize.ts";
export * from "./relative.ts";
export * from "./resolve.ts";
export * from "./to_file_url.ts";
