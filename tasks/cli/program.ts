/**
 * A task as a program: its exit status, its error message, and Ctrl-C.
 *
 * @module
 */

import { JobError } from "../../mod.ts";
import { causeOf } from "../../workers/shared/files.ts";
import { UsageError } from "./flags.ts";
import { flush, mute, warn } from "./terminal.ts";

/** Set at Ctrl-C: the end of the process, which nothing may overtake. */
let leaving: Promise<never> | undefined;

const cleanUps: (() => unknown)[] = [];

/**
 * Runs a task and ends the process with its status.
 *
 * If the task throws, that is one line on stderr and status 2. If the reader of
 * stdout has gone (`| head`), the task ends quietly with status 0. The process
 * ends even if a worker does not: `Deno.exit` stops threads that nothing else can
 * stop.
 *
 * @param name The task's name, for error messages
 * @param main The task: takes the command line and returns the status
 * @returns Never; the process ends
 */
export async function runTask(
  name: string,
  main: (args: string[]) => Promise<number>,
): Promise<never> {
  let status = 2;
  try {
    status = await main(Deno.args).finally(flush);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) status = 0;
    else warn(`${name}: ${lineOf(error)}`);
  }
  await leaving;
  mute();
  Deno.exit(status);
}

/** The line for what was thrown: `cause`, or `path: cause` if a path is known. */
function lineOf(error: unknown): string {
  if (error instanceof UsageError) return error.message; // `warn` escapes it
  if (error instanceof JobError) return lineOf(error.cause);
  const message = error instanceof Error ? error.message : "";
  const [, path] =
    / \(os error \d+\): \w+ '(.*?)'(?: -> '.*')?$/s.exec(message) ??
      /^Requires all access to "(.*)"/s.exec(message) ?? [];
  return path ? `${path}: ${causeOf(error)}` : causeOf(error);
}

/**
 * Ends the process with status 130 at Ctrl-C, after everything that is to be
 * cleaned up; the last `cleanUp` given is done first. Through `deno task` a
 * terminal delivers the signal twice; the second one is ignored.
 *
 * @param cleanUp What to do before the process ends
 * @returns Withdraws `cleanUp` when it is disposed of
 */
export function onInterrupt(cleanUp: () => unknown): Disposable {
  if (cleanUps.push(cleanUp) === 1) Deno.addSignalListener("SIGINT", interrupt);
  return {
    [Symbol.dispose]() {
      if (leaving) return;
      cleanUps.splice(cleanUps.indexOf(cleanUp), 1);
      if (cleanUps.length === 0) Deno.removeSignalListener("SIGINT", interrupt);
    },
  };
}

function interrupt(): void {
  leaving ??= leave();
}

async function leave(): Promise<never> {
  mute();
  while (cleanUps.length > 0) {
    try {
      await cleanUps.pop()!();
    } catch {
      // The others are still to be done.
    }
  }
  Deno.exit(130);
}

/** How long a thread works before it lets the event loop run, in ms. */
const YIELD_MS = 2;
/** How long it works before the event loop looks for signals, too, in ms. */
const SIGNALS_MS = 200;

/**
 * Lets the event loop run now and then while this thread is busy, so that Ctrl-C
 * and messages are heard. A message to itself costs 30 µs, `setTimeout` 2 ms. But
 * where only messages make the loop go round, Deno 2.9 looks for signals in every
 * 129th round: after 4 s, if a piece of work takes 30 ms. A timer makes it look
 * within three.
 */
export class Yielder implements Disposable {
  readonly #channel = new MessageChannel();
  #last = performance.now();
  #lastTimer = this.#last;
  #resolve = () => {};

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /** Lets the event loop run, if it has not for a while. */
  async yield(): Promise<void> {
    const now = performance.now();
    if (now < this.#last + YIELD_MS) return;
    const byTimer = now > this.#lastTimer + SIGNALS_MS;
    await new Promise<void>((resolve) => {
      if (byTimer) return void setTimeout(resolve, 0);
      this.#resolve = resolve;
      this.#channel.port2.postMessage(0);
    });
    this.#last = performance.now();
    if (byTimer) this.#lastTimer = this.#last;
  }

  [Symbol.dispose](): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}
