/**
 * Output: text on stdout, messages and a progress bar on stderr.
 *
 * @module
 */

import type { ProgressBar } from "@std/cli/unstable-progress-bar";

const encoder = new TextEncoder();

/** Asked once, since asking costs as much as printing a line. */
export const stdoutIsTerminal: boolean = Deno.stdout.isTerminal();

/** Set by `mute`: nothing is printed from then on. */
let isMuted = false;

/** What was printed and not written yet: the first `held` bytes. */
const pending = new Uint8Array(1 << 16);
let held = 0;

/**
 * Prints on stdout. The text is buffered; `runTask` writes the rest at the end.
 * Unlike `console.log` it throws when the reader has gone.
 *
 * @param text What to print, without a newline added
 * @throws {Deno.errors.BrokenPipe} If the reader has gone
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

/** Writes what is buffered. */
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
 * Writes a line to stderr.
 *
 * @param line The line; control characters in it are escaped, so it stays one
 */
export function warn(line: string): void {
  if (isMuted) return;
  clearBar();
  const bytes = encoder.encode(`${escaped(withoutPassword(line))}\n`);
  try {
    Deno.stderr.writeSync(bytes);
  } catch {
    // Its disk is full, or nobody reads it. The work goes on; the status tells.
  }
}

/** Takes user and password out of the URLs of Redis servers in a text. */
export function withoutPassword(text: string): string {
  return text.replace(/(rediss?:\/\/)\S*@/gi, "$1");
}

/** Removes the progress bar and prints nothing from then on. */
export function mute(): void {
  clearBar();
  isMuted = true;
}

/**
 * A number with its unit: "1 image", "2 images".
 *
 * @param items The number
 * @param unit The unit in the plural
 * @returns Both, with the unit in the singular for 1
 */
export function count(items: number, unit: string): string {
  return `${items} ${items === 1 ? unit.replace(/s$/, "") : unit}`;
}
/**
 * Escapes control characters where they would do harm: a terminal obeys them, and
 * on stderr a newline in a name would make two lines. A program that reads stdout
 * gets every byte as it is.
 *
 * @param text What is to be printed, such as a name
 * @param to Where it is printed; default: stdout
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

/** The progress bar on the terminal. */
let bar: ProgressBar | undefined;

/** Clears the bar's line for other output. The bar is drawn again by its timer. */
function clearBar(): void {
  if (bar) Deno.stderr.writeSync(encoder.encode("\r\x1b[K"));
}

/** Not a literal, so that it is read on first need only. */
const BAR = "@std/cli/unstable-progress-bar";

/** A progress bar, if stderr is a terminal. */
export class Progress {
  readonly #unit: string;
  /** Whether somebody watches. */
  readonly isShown: boolean;
  #Bar?: typeof ProgressBar;
  #max = 0;
  #done = 0;

  /**
   * Shows nothing before `expect` is called.
   *
   * @param unit What is counted, in the plural
   * @param quiet Whether to show nothing at all
   */
  constructor(unit: string, quiet: boolean) {
    this.#unit = unit;
    this.isShown = !quiet && Deno.stderr.isTerminal();
    if (!this.isShown) return;
    // Not awaited: a small run is over before this is loaded.
    import(BAR).then(
      ({ ProgressBar }: typeof import("@std/cli/unstable-progress-bar")) => {
        this.#Bar = ProgressBar;
        this.#show();
      },
      () => {},
    ); // it cannot be fetched: there is no bar
  }

  /** Sets how many steps there are, as far as is known. */
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

  /** Removes the bar. */
  async stop(): Promise<void> {
    this.#max = 0; // so that a bar that is loaded later shows nothing
    await bar?.stop();
    bar = undefined;
  }
}
