// Stands in for jsr:@std/cli/parse-args.

/** Names given as one string or as several. */
type Names<N extends string> = N | readonly N[];

/** Options for {@linkcode parseArgs}. */
export interface ParseOptions<
  B extends string | boolean = string | boolean,
  S extends string = string,
  C extends string = string,
  N extends string = string,
  D extends Record<string, unknown> = Record<string, unknown>,
  A extends Record<string, Names<string>> = Record<string, Names<string>>,
  DD extends boolean = boolean,
> {
  /** Put what follows `--` into `result["--"]`. @default {false} */
  "--"?: DD;
  /** Further names of a flag; the result has the value under each of them. */
  alias?: A;
  /** Flags without a value; `true` for every `--flag` that has no `=`. */
  boolean?: B | readonly Extract<B, string>[];
  /** Values of flags that were not given. */
  default?: D;
  /** Take everything after the first positional argument as it is. */
  stopEarly?: boolean;
  /** Flags whose value stays a string; `_` for the positional arguments. */
  string?: Names<S>;
  /** Flags whose values are gathered in an array. */
  collect?: Names<C>;
  /** Flags that `--no-flag` sets to false. */
  negatable?: Names<N>;
  /** Called with what no option names; `false` leaves it out. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

type Flat<T> = { [K in keyof T]: T[K] };

/** `false`, for a flag that can be negated. */
type Negated<K, N> = K extends N ? false : never;

/** The flags that the options name, before defaults and aliases. */
type Flags<B, S extends string, C extends string, N> = Flat<
  & { [K in Exclude<S, C>]?: string | Negated<K, N> }
  & { [K in Extract<C, S>]: string[] | Negated<K, N> }
  & { [K in Exclude<Extract<B, string>, C>]: boolean }
  & { [K in Extract<C, B>]: boolean[] }
  & { [K in Exclude<C, B | S>]: unknown[] | Negated<K, N> }
>;

type WithDefaults<F, D> = [D] extends [never] ? F : Flat<
  & Omit<F, keyof D>
  & {
    [K in keyof D]: K extends keyof F ? D[K] | NonNullable<F[K]> : unknown;
  }
>;

type WithAliases<F, A> = [A] extends [never] ? F : {
  [
    K in keyof F as
      | K
      | (K extends keyof A ? A[K] extends Names<infer Name> ? Name : never
        : never)
  ]: F[K];
};

/** The value returned from {@linkcode parseArgs}. */
export type Args<
  // deno-lint-ignore no-explicit-any
  T extends Record<string, any> = Record<string, any>,
  DD extends boolean = false,
> =
  & T
  & { _: (string | number)[] }
  & (boolean extends DD ? { "--"?: string[] }
    : DD extends true ? { "--": string[] }
    : unknown);

type Values<B, S extends string, C extends string, N, D, A> =
  [Exclude<B, false> | S | C] extends [never]
    // deno-lint-ignore no-explicit-any
    ? Record<string, any>
    :
      & Record<string, unknown>
      & WithAliases<WithDefaults<Flags<B, S, C, N>, D>, A>;

/** Every name of the same flag, by each of its names. */
type Aliases = ReadonlyMap<string, readonly string[]>;

function list(names: string | readonly string[] | undefined): string[] {
  return [names ?? []].flat().filter(Boolean) as string[];
}

function aliasesOf(alias: Record<string, unknown>): Aliases {
  const aliases = new Map<string, string[]>();
  for (const [key, others] of Object.entries(alias)) {
    if (others === undefined) {
      throw new TypeError("Alias value must be defined");
    }
    const group = [key, ...[others as string | string[]].flat()];
    for (const name of group) {
      aliases.set(name, group.filter((other) => other !== name));
    }
  }
  return aliases;
}

function isNumeric(text: string): boolean {
  return text.trim() !== "" && Number.isFinite(Number(text));
}

/** Where a dotted name leads in the result, made on the way if it is asked. */
function find(
  result: Record<string, unknown>,
  name: string,
  make: boolean,
): [Record<string, unknown>, string] | undefined {
  const path = name.split(".");
  const last = path.pop()!;
  let at = result;
  for (const key of path) {
    if (unsafe(at, key) || (!make && !Object.hasOwn(at, key))) return;
    at = (at[key] ??= {}) as Record<string, unknown>;
  }
  return unsafe(at, last) ? undefined : [at, last];
}

/** Arguments must not reach a prototype. */
function unsafe(at: Record<string, unknown>, key: string): boolean {
  return key === "__proto__" ||
    (key === "constructor" && typeof at[key] === "function");
}

/** One run over the arguments. */
class Parser {
  readonly result: Record<string, unknown> & { _: (string | number)[] } = {
    _: [],
  };
  #aliases: Aliases;
  #boolean: Set<string>;
  #string: Set<string>;
  #collect: Set<string>;
  #negatable: Set<string>;
  #allBoolean: boolean;
  #unknown: ParseOptions["unknown"];

  constructor(options: ParseOptions) {
    const { boolean = [], string, collect, negatable } = options;
    this.#aliases = aliasesOf(options.alias ?? {});
    this.#allBoolean = boolean === true;
    this.#boolean = this.#named(typeof boolean === "boolean" ? [] : boolean);
    this.#string = this.#named(string);
    this.#collect = this.#named(collect);
    this.#negatable = this.#named(negatable);
    this.#unknown = options.unknown;
  }

  #named(names: Names<string> | undefined): Set<string> {
    return new Set(list(names).flatMap((name) => this.#names(name)));
  }

  #names(name: string): string[] {
    return [name, ...this.#aliases.get(name) ?? []];
  }

  /** Whether the flag or another name of it is a boolean one. */
  #isBoolean(name: string): boolean {
    return this.#names(name).some((each) => this.#boolean.has(each));
  }

  /** The value of a flag that stands alone. */
  #alone(name: string): string | boolean {
    return this.#string.has(name) ? "" : true;
  }

  #isKnown(name: string, arg: string): boolean {
    return this.#aliases.has(name) ||
      [this.#boolean, this.#string, this.#collect].some((set) =>
        set.has(name)
      ) ||
      (this.#allBoolean && arg.startsWith("--") && !arg.includes("="));
  }

  #set(
    name: string,
    value: string | boolean,
    arg: string,
    collect = this.#collect.has(name),
  ): void {
    if (
      !this.#isKnown(name, arg) && this.#unknown?.(arg, name, value) === false
    ) return;
    const number = typeof value === "string" && !this.#string.has(name) &&
      isNumeric(value);
    this.#store(name, number ? Number(value) : value, collect);
  }

  /** Stores a value under every name of the flag. */
  #store(name: string, value: unknown, collect = false): void {
    for (const each of this.#names(name)) this.#put(each, value, collect);
  }

  #put(name: string, value: unknown, collect = false): void {
    const place = find(this.result, name, true);
    if (!place) return;
    const [at, key] = place;
    const before = at[key];
    if (!collect) at[key] = value;
    else if (Array.isArray(before)) before.push(value);
    else at[key] = before ? [before, value] : [value];
  }

  #has(name: string): boolean {
    const place = find(this.result, name, false);
    return place !== undefined && Object.hasOwn(...place);
  }

  positional(arg: string): void {
    if (this.#unknown?.(arg) === false) return;
    const number = !this.#string.has("_") && isNumeric(arg);
    this.result._.push(number ? Number(arg) : arg);
  }

  /** `--name…`. Returns whether it took the next argument as its value. */
  long(arg: string, next: string | undefined): boolean {
    let name = arg.slice(2);
    const negated = name.startsWith("no-") && name !== "no-";
    const bare = negated ? name.slice(3) : name;
    const equals = bare.indexOf("=", 1);
    if (equals > 0) {
      name = bare.slice(0, equals);
      const value = bare.slice(equals + 1);
      this.#set(
        name,
        this.#boolean.has(name) ? value !== "false" : value,
        arg,
      );
      return false;
    }
    if (negated && this.#negatable.has(bare)) {
      this.#set(bare, false, arg, false);
      return false;
    }
    const takes = !this.#allBoolean && !this.#isBoolean(name) &&
      !next?.startsWith("-");
    return this.#take(name, arg, next, takes);
  }

  /** `-n…`, alone or several in one. Returns the same as `long`. */
  short(arg: string, next: string | undefined): boolean {
    const letters = arg.slice(1);
    for (let i = 0; i < letters.length - 1; i++) {
      const name = letters[i];
      const value = attached(name, letters.slice(i + 1));
      if (value !== undefined) {
        this.#set(name, value, arg);
        return false;
      }
      this.#set(name, this.#alone(name), arg);
    }
    const last = letters.at(-1)!;
    if (last === "-") return false;
    const takes = !this.#isBoolean(last) && !/^--?[^-]/.test(next ?? "");
    return this.#take(last, arg, next, takes);
  }

  #take(
    name: string,
    arg: string,
    next: string | undefined,
    takes: boolean,
  ): boolean {
    if (next && takes) this.#set(name, next, arg);
    else if (next === "true" || next === "false") {
      this.#set(name, next === "true", arg);
    } else {
      this.#set(name, this.#alone(name), arg);
      return false;
    }
    return true;
  }

  /** Fills in what was not given. */
  finish(defaults: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(defaults)) {
      if (!this.#has(name)) this.#store(name, value);
    }
    for (const name of this.#boolean) {
      if (!this.#has(name)) {
        this.#put(name, this.#collect.has(name) ? [] : false);
      }
    }
    for (const name of this.#string) {
      if (!this.#has(name) && this.#collect.has(name)) this.#put(name, []);
    }
  }
}

/** The value of a short flag that the letters after it hold, if they do. */
function attached(name: string, rest: string): string | undefined {
  if (rest === "-") return rest;
  if (rest === "=") return "";
  if (/[A-Za-z]/.test(name)) {
    const value = /=(.+)/.exec(rest)?.[1];
    if (value !== undefined) return value;
    if (/\d(\.\d*)?(e-?\d+)?$/.test(rest)) return rest;
  }
  return rest.length > 1 && /^\W/.test(rest) ? rest : undefined;
}

/**
 * Reads command line arguments: `--name=value`, `--name value`, `-n value`,
 * `-nvalue`, `-abc`, and the rest in `_`. Nothing after `--` is a flag.
 * Values that look like a number become one, unless the flag is in `string`.
 */
export function parseArgs<
  const B extends string | boolean = never,
  const S extends string = never,
  const C extends string = never,
  const N extends string = never,
  D extends Record<string, unknown> = never,
  const A extends Record<string, Names<string>> = never,
  DD extends boolean = false,
>(
  args: readonly string[],
  options?: ParseOptions<B, S, C, N, D, A, DD>,
): Args<Values<B, S, C, N, D, A>, DD> {
  const parser = new Parser((options ?? {}) as ParseOptions);
  const end = args.indexOf("--");
  const flags = end < 0 ? args : args.slice(0, end);
  const rest = end < 0 ? [] : args.slice(end + 1);
  for (let i = 0; i < flags.length; i++) {
    const arg = flags[i];
    if (arg.startsWith("--")) {
      if (parser.long(arg, flags[i + 1])) i++;
    } else if (arg.startsWith("-") && arg !== "-") {
      if (parser.short(arg, flags[i + 1])) i++;
    } else {
      parser.positional(arg);
      if (options?.stopEarly) {
        parser.result._.push(...flags.slice(i + 1));
        break;
      }
    }
  }
  parser.finish(options?.default ?? {});
  if (options?.["--"]) parser.result["--"] = rest;
  else parser.result._.push(...rest);
  return parser.result as unknown as Args<Values<B, S, C, N, D, A>, DD>;
}
