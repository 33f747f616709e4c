// Stands in for jsr:@std/cli/unstable-progress-bar.

/** What a formatter is given for every update. */
export interface ProgressBarFormatter {
  /** The time so far as `mm:ss`. */
  styledTime: string;
  /** Value and maximum as `0.40/97.66 KiB`. */
  styledData: string;
  /** The bar, by default `###-------`. */
  progressBar: string;
  /** The time so far in milliseconds. */
  time: number;
  /** `time` of the update before. */
  previousTime: number;
  /** How far it is. */
  value: number;
  /** `value` of the update before. */
  previousValue: number;
  /** Where it ends. */
  max: number;
}

/** Options for {@linkcode ProgressBar}. */
export interface ProgressBarOptions {
  /** Where the bar is drawn. @default {Deno.stderr.writable} */
  writable?: WritableStream<Uint8Array>;
  /** Where it starts. @default {0} */
  value?: number;
  /** Where it ends. */
  max: number;
  /** The bar's length in characters. @default {50} */
  barLength?: number;
  /** The character for what is done. @default {'#'} */
  fillChar?: string;
  /** The character for what is left. @default {'-'} */
  emptyChar?: string;
  /** Remove the bar at the end. @default {false} */
  clear?: boolean;
  /** Makes the line that is drawn. */
  formatter?: (formatter: ProgressBarFormatter) => string;
  /** Leave the stream open at the end. @default {true} */
  keepOpen?: boolean;
  /** Milliseconds between updates. @default {1000} */
  interval?: number;
}

const CLEAR_LINE = "\r\x1b[K";
const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

function styleData(value: number, max: number): string {
  let power = 1;
  while (power < UNITS.length && max >= 1024 ** (power + 1)) power++;
  const [done, all] = [value, max].map((n) => (n / 1024 ** power).toFixed(2));
  return `${done}/${all} ${UNITS[power - 1]}`;
}

function styleTime(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  return [Math.floor(seconds / 60), seconds % 60]
    .map((n) => `${n}`.padStart(2, "0")).join(":");
}

/**
 * A line that shows how far something is: set `value` as it goes on, and
 * `stop()` it in the end. A stream that fails ends the drawing, no more.
 */
export class ProgressBar {
  /** How far it is. */
  value: number;
  /** Where it ends. */
  max: number;

  #options: Required<Omit<ProgressBarOptions, "writable" | "value" | "max">>;
  #writer: WritableStreamDefaultWriter<Uint8Array>;
  #timer: ReturnType<typeof setInterval>;
  #start = Date.now();
  #previousTime = 0;
  #previousValue: number;

  /** Draws the bar for the first time. */
  constructor(options: ProgressBarOptions) {
    const { writable = Deno.stderr.writable, value = 0, max } = options;
    this.value = this.#previousValue = value;
    this.max = max;
    this.#options = {
      barLength: options.barLength ?? 50,
      fillChar: options.fillChar ?? "#",
      emptyChar: options.emptyChar ?? "-",
      clear: options.clear ?? false,
      keepOpen: options.keepOpen ?? true,
      interval: options.interval ?? 1000,
      formatter: options.formatter ??
        (({ styledTime, progressBar, styledData }) =>
          `[${styledTime}] [${progressBar}] [${styledData}]`),
    };
    this.#writer = writable.getWriter();
    this.#timer = setInterval(() => this.#draw(), this.#options.interval);
    this.#draw();
  }

  #bar(): string {
    const { barLength, fillChar, emptyChar } = this.#options;
    const part = Math.min(Math.max(this.value / this.max, 0), 1);
    const filled = Math.trunc(part * barLength);
    return fillChar.repeat(filled) + emptyChar.repeat(barLength - filled);
  }

  #draw(): Promise<void> {
    const { value, max } = this;
    const time = Date.now() - this.#start;
    const line = this.#options.formatter({
      styledTime: styleTime(time),
      styledData: styleData(value, max),
      progressBar: this.#bar(),
      time,
      previousTime: this.#previousTime,
      value,
      previousValue: this.#previousValue,
      max,
    });
    this.#previousTime = time;
    this.#previousValue = value;
    return this.#write(CLEAR_LINE + line);
  }

  async #write(text: string): Promise<void> {
    try {
      await this.#writer.write(new TextEncoder().encode(text));
    } catch {
      clearInterval(this.#timer);
    }
  }

  /** Draws the bar for the last time, or removes it, and lets go of it all. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    const { clear, keepOpen } = this.#options;
    if (clear) {
      await this.#write(CLEAR_LINE);
    } else {
      await this.#draw();
      await this.#write("\n");
    }
    try {
      if (!keepOpen) await this.#writer.close();
    } catch {
      // The stream failed before: there is nothing left to close.
    } finally {
      this.#writer.releaseLock();
    }
  }
}
