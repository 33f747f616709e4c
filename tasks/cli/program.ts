/**
 * A task as a program: its exit status, its one line of error, and Ctrl-C.
 *
 * @module
 */

import { JobError } from "../../mod.ts";
import { causeOf } from "../../workers/shared/files.ts";
import { UsageError } from "./flags.ts";
import { flush, mute, warn } from "./terminal.ts";

/** Set at Ctrl-C: from then on nothing more is said or decided. */
let leaving: Promise<never> | undefined;

const cleanUps: (() => unknown)[] = [];

/**
 * Runs a task and ends the process with its status.
 *
 * What goes wrong is one line and status 2. A reader of stdout that has gone
 * (`| head`) ends the task quietly. The process ends even where a worker does
 * not: `Deno.exit` stops threads that nothing else can stop.
 *
 * @param name What the task is called, for its error messages
 * @param main Does the task; it gets the command line, and gives the status
 * @returns Never: the process has ended by then
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

/** What was thrown: `cause`, or `path: cause` where the system names a path. */
function lineOf(error: unknown): string {
  if (error instanceof UsageError) return error.message; // `warn` escapes it
  if (error instanceof JobError) return lineOf(error.cause);
  const message = error instanceof Error ? error.message : "";
  const path = / \(os error \d+\): \w+ '(.*?)'(?: -> '.*')?$/s.exec(message)
    ?.[1];
  return path ? `${path}: ${causeOf(error)}` : causeOf(error);
}

/**
 * Ends the process with status 130 at Ctrl-C, after all `cleanUp`s; the last
 * one that was given is the first one done. Through `deno task` a terminal
 * delivers the signal twice: once is enough.
 *
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

/** How long a busy thread leaves signals and messages unheard, in ms. */
const DEAF = 2;

/**
 * Turns of the event loop, for a thread that is busy: Ctrl-C and messages get
 * through. `setTimeout` would take 2 ms, a message to itself 30 µs.
 */
export class Turns implements Disposable {
  readonly #channel = new MessageChannel();
  #last = performance.now();
  #resolve = () => {};

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /** Lets others have their turn, if it is time to. */
  async take(): Promise<void> {
    if (performance.now() < this.#last + DEAF) return;
    await new Promise<void>((resolve) => {
      this.#resolve = resolve;
      this.#channel.port2.postMessage(0);
    });
    this.#last = performance.now();
  }

  [Symbol.dispose](): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}
