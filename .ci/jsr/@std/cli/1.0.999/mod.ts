// Stands in for the root of jsr:@std/cli.
export * from "./parse_args.ts";
