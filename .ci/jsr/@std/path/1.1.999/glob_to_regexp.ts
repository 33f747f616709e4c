// Stands in for jsr:@std/path/glob-to-regexp.
import { sep } from "./_node.ts";

/** Options for {@linkcode globToRegExp}. */
export interface GlobOptions {
  /** Understand `?(a|b)`, `*(…)`, `+(…)`, `@(…)` and `!(…)`. @default {true} */
  extended?: boolean;
  /** Let `**` between separators cross directories. @default {true} */
  globstar?: boolean;
  /** Match whatever the case. @default {false} */
  caseInsensitive?: boolean;
}

const WINDOWS = sep === "\\";
const SEPARATORS = WINDOWS ? "\\/" : "/";
const ESCAPE = WINDOWS ? "`" : "\\";
const SLASH = WINDOWS ? "[\\\\/]" : "/";
const WILDCARD = WINDOWS ? "[^\\\\/]*" : "[^/]*";
const GLOBSTAR = `(?:${WILDCARD}(?:${SLASH}|$)+)*`;

const POSIX_CLASSES = new Map([
  ["alnum", "\\dA-Za-z"],
  ["alpha", "A-Za-z"],
  ["ascii", "\\x00-\\x7f"],
  ["blank", "\\t "],
  ["cntrl", "\\x00-\\x1f\\x7f"],
  ["digit", "\\d"],
  ["graph", "!-~"],
  ["lower", "a-z"],
  ["print", " -~"],
  ["punct", "!-\\/:-@\\[-`{-~"],
  ["space", "\\s\\v"],
  ["upper", "A-Z"],
  ["word", "\\w"],
  ["xdigit", "\\dA-Fa-f"],
]);

/** Thrown for an unclosed bracket: that part of the glob is then literal. */
class Unclosed extends Error {}

/** Translates a glob, one part between separators at a time. */
class Translator {
  #glob: string;
  #extended: boolean;
  #globstar: boolean;
  #at = 0;
  #depth = 0;
  /** Whether the current part is done with its own separator. */
  #crossed = false;

  constructor(glob: string, extended: boolean, globstar: boolean) {
    this.#glob = glob;
    this.#extended = extended;
    this.#globstar = globstar;
  }

  translate(): string {
    let source = "";
    while (this.#at < this.#glob.length) {
      source += this.#part();
      const last = this.#at >= this.#glob.length;
      if (!this.#crossed) source += SLASH + (last ? "*" : "+");
      while (isSeparator(this.#glob[this.#at])) this.#at++;
    }
    return source;
  }

  #part(): string {
    const start = this.#at;
    this.#depth = 0;
    this.#crossed = false;
    try {
      return this.#items();
    } catch (error) {
      if (!(error instanceof Unclosed)) throw error;
      this.#crossed = false;
      return [...this.#glob.slice(start, this.#at)].map(literal).join("");
    }
  }

  /** Up to `close`, or to a separator outside of every group. */
  #items(close?: ")" | "}"): string {
    let source = "";
    for (; this.#at < this.#glob.length; this.#at++) {
      const char = this.#glob[this.#at];
      if (this.#depth === 0 && isSeparator(char)) return source;
      if (char === close) return source;
      source += this.#item(char, close);
    }
    if (close) throw new Unclosed();
    return source;
  }

  /** One item; leaves the position on its last character. */
  #item(char: string, close?: string): string {
    if (char === ESCAPE) return literal(this.#escaped());
    if (char === "[") return this.#range();
    if (char === "{") return `(?:${this.#group("}")})`;
    if (char === "," && close === "}") return "|";
    if (char === "|" && close === ")") return "|";
    if (
      this.#extended && "?*+@!".includes(char) &&
      this.#glob[this.#at + 1] === "("
    ) {
      this.#at++;
      return extendedGroup(char, this.#group(")"));
    }
    if (char === "?") return ".";
    if (char === "*") return this.#stars();
    return literal(char);
  }

  #group(close: ")" | "}"): string {
    this.#at++;
    this.#depth++;
    const source = this.#items(close);
    this.#depth--;
    return source;
  }

  #escaped(): string {
    this.#at++;
    const char = this.#glob[this.#at];
    if (char === undefined || (this.#depth === 0 && isSeparator(char))) {
      throw new Unclosed();
    }
    return char;
  }

  #stars(): string {
    const before = this.#glob[this.#at - 1];
    const first = this.#at;
    while (this.#glob[this.#at + 1] === "*") this.#at++;
    const after = this.#glob[this.#at + 1];
    const alone = (char?: string) => char === undefined || isSeparator(char);
    if (
      !this.#globstar || this.#at !== first + 1 || !alone(before) ||
      !alone(after)
    ) return WILDCARD;
    this.#crossed = true;
    return GLOBSTAR;
  }

  #range(): string {
    let source = "[";
    this.#at++;
    if (this.#glob[this.#at] === "!") {
      source += "^";
      this.#at++;
    } else if (this.#glob[this.#at] === "^") {
      source += "\\^";
      this.#at++;
    }
    for (; this.#at < this.#glob.length; this.#at++) {
      const char = this.#glob[this.#at];
      if (this.#depth === 0 && isSeparator(char)) break;
      if (char === "]") return source + "]";
      const named = /^\[:([^:]*):\]/.exec(this.#glob.slice(this.#at));
      if (named) {
        source += POSIX_CLASSES.get(named[1]) ?? "";
        this.#at += named[0].length - 1;
      } else if (char === ESCAPE) {
        source += this.#escaped().replace(/[-\\\]]/, "\\$&");
      } else {
        source += char;
      }
    }
    throw new Unclosed();
  }
}

function isSeparator(char: string | undefined): boolean {
  return char !== undefined && SEPARATORS.includes(char);
}

function literal(char: string): string {
  return char.replace(/[\\^$.*+?()[\]{}|\/]/, "\\$&");
}

function extendedGroup(kind: string, source: string): string {
  if (kind === "!") return `(?!${source})${WILDCARD}`;
  return `(?:${source})${kind === "@" ? "" : kind}`;
}

/**
 * A regular expression that matches the whole of the paths that the glob
 * means. A part of the glob with an unclosed bracket is taken literally; an
 * empty glob matches nothing.
 */
export function globToRegExp(glob: string, options: GlobOptions = {}): RegExp {
  if (glob === "") return /(?!)/;
  const { extended = true, globstar = true, caseInsensitive = false } = options;
  let end = glob.length;
  while (end > 1 && isSeparator(glob[end - 1])) end--;
  const translator = new Translator(glob.slice(0, end), extended, globstar);
  return new RegExp(
    `^${translator.translate()}$`,
    caseInsensitive ? "i" : "",
  );
}
