/**
 * What a task prints: text on stdout, lines and a progress bar on stderr.
 *
 * @module
 */

import type { ProgressBar } from "@std/cli/unstable-progress-bar";

const encoder = new TextEncoder();

/** Asked once: each time costs as much as a line that is printed. */
export const stdoutIsTerminal: boolean = Deno.stdout.isTerminal();

/** Set by `mute`: from then on nothing more is said. */
let isMuted = false;

/** What was printed and is not written yet: up to `held`. */
const pending = new Uint8Array(1 << 16);
let held = 0;

/**
 * Writes to stdout, when there is enough; `runTask` writes the rest. Unlike
 * `console.log` it throws when nobody reads any more.
 *
 * @param text What to write, as it is; bytes are not kept
 * @throws {Deno.errors.BrokenPipe} If nobody reads any more
 */
export function print(text: string | Uint8Array): void {
  if (typeof text === "string") printText(text);
  else if (text.length <= pending.length - held) {
    pending.set(text, held);
    held += text.length;
  } else {
    flush();
    if (text.length < pending.length) print(text);
    else write(text);
  }
}

function printText(text: string): void {
  for (let rest = text; rest !== "";) {
    const { read, written } = encoder.encodeInto(rest, pending.subarray(held));
    held += written;
    if (read === rest.length) return;
    rest = rest.slice(read);
    flush();
  }
}

/** Writes what was printed so far. */
export function flush(): void {
  const end = held;
  held = 0;
  write(pending.subarray(0, end));
}

function write(bytes: Uint8Array): void {
  if (isMuted || bytes.length === 0) return;
  if (stdoutIsTerminal) clearBar();
  for (let at = 0; at < bytes.length;) {
    at += Deno.stdout.writeSync(bytes.subarray(at));
  }
}

/**
 * Writes a line to stderr. It stays one line whatever is in it.
 *
 * @param line What to write; control characters in it are escaped
 */
export function warn(line: string): void {
  if (isMuted) return;
  clearBar();
  Deno.stderr.writeSync(encoder.encode(`${escaped(line)}\n`));
}

/** Says nothing more, as after Ctrl-C, and takes the progress bar away. */
export function mute(): void {
  clearBar();
  isMuted = true;
}

/**
 * So many of them: "1 image", "2 images".
 *
 * @param items How many
 * @param unit What they are, in the plural
 * @returns The number with the unit, which is in the singular for one
 */
export function count(items: number, unit: string): string {
  return `${items} ${items === 1 ? unit.replace(/s$/, "") : unit}`;
}
/**
 * Escapes control characters where they would do harm: a terminal takes them
 * for orders, and on stderr a newline would make two lines of a name. Other
 * programs get from stdout what they are to get, to the byte.
 *
 * @param text What is to be written, such as a name
 * @param to Where it goes; stdout by default
 * @returns The text, with `\\x0a` for a newline
 */
export function printable(
  text: string,
  to: { isTerminal(): boolean } = Deno.stdout,
): string {
  return to === Deno.stdout && !stdoutIsTerminal ? text : escaped(text);
}

function escaped(text: string): string {
  return text.replace(
    /(?!\t)\p{Cc}/gu,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** The progress bar that is on the terminal. */
let bar: ProgressBar | undefined;

/** Makes room for a line; the bar comes back when it is next drawn. */
function clearBar(): void {
  if (bar) Deno.stderr.writeSync(encoder.encode("\r\x1b[K"));
}

/** A progress bar on stderr while a terminal watches; else nothing. */
export class Progress {
  readonly #unit: string;
  #Bar?: typeof ProgressBar;
  #max = 0;
  #done = 0;

  /**
   * Shows nothing before there is something to expect.
   *
   * @param unit What a step is, in the plural
   * @param quiet Whether to show nothing at all
   */
  constructor(unit: string, quiet: boolean) {
    this.#unit = unit;
    if (quiet || !Deno.stderr.isTerminal()) return;
    // Nobody waits for it: a small run is over by then.
    import("@std/cli/unstable-progress-bar").then(({ ProgressBar }) => {
      this.#Bar = ProgressBar;
      this.#show();
    });
  }

  /** Says how many steps there will be, as far as is known. */
  expect(max: number): void {
    this.#max = max;
    this.#show();
  }

  #show(): void {
    const max = this.#max;
    if (!this.#Bar || max === 0) return;
    if (bar) bar.max = max;
    bar ??= new this.#Bar({
      max,
      value: this.#done,
      clear: true,
      barLength: 30,
      formatter: ({ styledTime, progressBar, value, max }) =>
        `${styledTime} ${progressBar} ${value}/${max} ${this.#unit}`,
    });
  }

  /** Counts one step. */
  step(): void {
    this.#done++;
    if (bar) bar.value++;
  }

  /** Takes the bar away. */
  async stop(): Promise<void> {
    this.#max = 0; // what is loaded only now shows nothing any more
    await bar?.stop();
    bar = undefined;
  }
}
