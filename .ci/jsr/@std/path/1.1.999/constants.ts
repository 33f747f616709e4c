// Stands in for jsr:@std/path/constants.
import { sep } from "./_node.ts";

/** The separator of this platform's paths. */
export const SEPARATOR = sep as "/" | "\\";

/** Matches one or more separators of this platform. */
export const SEPARATOR_PATTERN: RegExp = sep === "/" ? /\/+/ : /[\\/]+/;
