/**
 * Reads the command lines of the tasks.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { withoutPassword } from "./terminal.ts";

/** A wrong command line. Its message is the one line that the user sees. */
export class UsageError extends Error {}

/** The flags that a task has besides `--help`, `--quiet` and `--workers`. */
export interface FlagSpec {
  /** Flags without a value. */
  boolean?: string[];
  /** Flags with a text as their value. */
  text?: string[];
  /** Flags with a text that may occur several times. */
  list?: string[];
  /** Flags with a whole number, and the least value of each. */
  number?: Record<string, number>;
  /** One-letter names of flags. */
  alias?: Record<string, string>;
  /** Whether there may be paths. */
  paths?: boolean;
}

/** A command line. */
export interface Flags {
  /** Which flags without a value are given. */
  is: Record<string, boolean>;
  /** The texts that are given. */
  text: Record<string, string | undefined>;
  /** The lists; empty where none is given. */
  list: Record<string, string[]>;
  /** The numbers that are given. */
  number: Record<string, number | undefined>;
  /** Everything that is not a flag. */
  paths: string[];
}

/**
 * Reads a command line.
 *
 * @param args The words behind the task's name
 * @param spec The flags that the task has
 * @returns The values, by the flags' long names
 * @throws {UsageError} If a flag is unknown, or its value is missing or wrong
 */
export function readFlags(args: string[], spec: FlagSpec): Flags {
  const numbers: Record<string, number> = { workers: 1, ...spec.number };
  const texts = [...spec.text ?? [], ...Object.keys(numbers)];
  const lists = spec.list ?? [];
  const booleans = ["help", "quiet", ...spec.boolean ?? []];
  const alias: Record<string, string> = {
    h: "help",
    q: "quiet",
    ...spec.alias,
  };
  const unknown: string[] = [];
  const words = joinValues(args, alias, [...texts, ...lists], numbers);
  checkBooleans(words, alias, booleans);
  const given = parseArgs(words, {
    boolean: booleans,
    string: [...texts, ...lists, "_"],
    collect: lists,
    alias,
    unknown: (arg, key) => {
      if (key !== undefined) unknown.push(arg.split("=")[0]);
      return key === undefined;
    },
  }) as Record<string, unknown> & { _: string[] };
  const flags = toFlags(given, booleans, lists, texts, numbers);
  // Checked last: in `-k -x` the missing value of -k is the error to report.
  if (unknown.length > 0) {
    throw new UsageError(`unknown flag ${unknown[0]} (see --help)`);
  }
  if (!spec.paths && flags.paths.length > 0) {
    throw new UsageError(
      `unexpected argument '${flags.paths[0]}' (see --help)`,
    );
  }
  return flags;
}

/** Checks the values. */
function toFlags(
  given: Record<string, unknown> & { _: string[] },
  booleans: string[],
  lists: string[],
  texts: string[],
  numbers: Record<string, number>,
): Flags {
  const paths = given._.map(String);
  const flags: Flags = { is: {}, text: {}, list: {}, number: {}, paths };
  for (const name of booleans) {
    flags.is[name] = given[name] === true;
  }
  for (const name of lists) {
    flags.list[name] = (given[name] as string[] | undefined) ?? [];
    flags.list[name].forEach((value) => checkText(name, value));
  }
  for (const name of texts) {
    const value = given[name] as string | undefined;
    if (value === undefined) continue;
    checkText(name, value);
    if (name in numbers) flags.number[name] = toNumber(name, value, numbers);
    else flags.text[name] = value;
  }
  return flags;
}

/**
 * Joins values to their flags where `parseArgs` would take them for other flags:
 * `-kTEXT`, which grep allows, `--workers -1`, and `--files-from -`.
 */
function joinValues(
  args: string[],
  alias: Record<string, string>,
  valued: string[],
  numbers: Record<string, number>,
): string[] {
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (arg === "--") return [...words, ...args.slice(i)];
    const name = arg.startsWith("--") ? arg.slice(2) : alias[arg.slice(1)];
    if (args[i + 1] === "-" && valued.includes(name)) {
      words.push(`--${name}=${args[++i]}`);
    } else if (
      arg.slice(2) in numbers && arg.startsWith("--") &&
      /^-\d/.test(args[i + 1] ?? "")
    ) {
      words.push(`${arg}=${args[++i]}`);
    } else words.push(...splitShort(arg, alias, valued));
  }
  return words;
}

/** Splits `-qkTEXT` into `-q --keyword=TEXT`; leaves anything else. */
function splitShort(
  arg: string,
  alias: Record<string, string>,
  valued: string[],
): string[] {
  if (!/^-[a-z]./is.test(arg)) return [arg];
  for (let i = 1; i < arg.length && arg[i] in alias; i++) {
    const name = alias[arg[i]];
    if (!valued.includes(name)) continue;
    const value = arg.slice(i + 1);
    if (value === "" || value.startsWith("=")) break;
    const before = i > 1 ? [arg.slice(0, i)] : [];
    return [...before, `--${name}=${value}`];
  }
  return [arg];
}

/** Rejects `--count=maybe`, which `parseArgs` takes for `--count`. */
function checkBooleans(
  words: string[],
  alias: Record<string, string>,
  booleans: string[],
): void {
  for (const word of words) {
    if (word === "--") return;
    const [, key, value] = /^--?([^=]+)=(.*)$/s.exec(word) ?? [];
    const name = alias[key] ?? key;
    if (!booleans.includes(name) || /^(true|false)$/.test(value)) continue;
    throw new UsageError(
      `--${name} needs no value; it can be true or false, not '${value}'`,
    );
  }
}

function checkText(name: string, value: string): void {
  if (value !== "") return;
  throw new UsageError(
    `--${name} needs a value (--${name}=VALUE where it begins with a dash)`,
  );
}

function toNumber(
  name: string,
  value: string,
  least: Record<string, number>,
): number {
  const number = Number(value);
  if (
    /^\d+$/.test(value) && Number.isSafeInteger(number) && number >= least[name]
  ) return number;
  throw new UsageError(
    `--${name} must be a whole number from ${least[name]} on, not '${value}'`,
  );
}

/** The command, quoted so that it can be typed again in a POSIX shell. */
export function commandLine(task: string, args: string[]): string {
  const quoted = args.map((arg) =>
    /^[\w./:=@%+,-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`
  );
  return withoutPassword(["deno task", task, ...quoted].join(" "));
}
