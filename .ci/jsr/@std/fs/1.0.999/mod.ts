// Stands in for the root of jsr:@std/fs.
export * from "./ensure_dir.ts";
export * from "./exists.ts";
export * from "./expand_glob.ts";
export * from "./walk.ts";
