/**
 * What is measured beside ours: programs that answer in lines of JSON.
 *
 * @module
 */

import { fromFileUrl } from "@std/path/from-file-url";
import type { Contestant } from "./rows.ts";

/** What a peer answers to one question. */
export interface Answer {
  /** How long it took, in ms, as the peer saw it. */
  ms?: number;
  /** What came out. */
  value?: unknown;
  /** What the peer has not, so that it cannot be asked this. */
  lacks?: string;
  /** Why it failed. */
  error?: string;
  /** Why the peer is not there at all. */
  missing?: string;
}

/** How to start a peer, and how to get it where it is missing. */
export interface PeerSpec {
  name: string;
  command: string[];
  /** What somebody does who wants it. */
  hint: string;
}

/** How the packages of npm, and Pillow by pip, are installed all at once. */
export const NPM_HINT = "mkdir -p DIR && cp tasks/bench/peers.json " +
  "DIR/package.json && npm install --prefix DIR, then --peers DIR";

/** The path of a program in peers/. */
export function inPeers(name: string): string {
  return fromFileUrl(new URL(`peers/${name}`, import.meta.url));
}

/** How long a peer may take for one answer, in ms. It only ends a hang. */
const LIMIT = 600_000;

/** A peer in a process of its own, which is asked one thing at a time. */
export class Peer implements AsyncDisposable, Contestant {
  readonly name: string;
  version = "";
  missing?: string;
  readonly #command: string[];
  #process?: PeerProcess;

  private constructor(name: string, command: string[]) {
    this.name = name;
    this.#command = command;
  }

  /** Starts a peer; of one that is not there, `missing` says why. */
  static async start({ name, command, hint }: PeerSpec): Promise<Peer> {
    const peer = new Peer(name, command);
    const { value, missing, error } = await peer.#start();
    if (value !== undefined) peer.version = `${value}`;
    else peer.missing = `${missing ?? error}; to get it: ${hint}`;
    return peer;
  }

  async #start(): Promise<Answer> {
    try {
      this.#process = new PeerProcess(this.#command);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      return { missing: `there is no program ${this.#command[0]}` };
    }
    return await this.#process.answer();
  }

  /** Asks for a job, and waits for the answer; starts it anew if it has ended. */
  async ask(job: string, ...args: unknown[]): Promise<Answer> {
    if (this.#process === undefined) await this.#start();
    const answer = await this.#process!.ask([job, ...args]);
    if (this.#process!.hasEnded) this.#process = undefined;
    return answer;
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process?.end();
  }
}

class PeerProcess {
  /** Whether it has no answers any more. */
  hasEnded = false;
  readonly #process: Deno.ChildProcess;
  readonly #answers: AsyncGenerator<string, void, void>;
  readonly #questions: WritableStreamDefaultWriter<Uint8Array>;

  constructor([command, ...args]: string[]) {
    this.#process = new Deno.Command(command, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#answers = lines(this.#process.stdout);
    this.#questions = this.#process.stdin.getWriter();
  }

  async ask(question: unknown[]): Promise<Answer> {
    const line = new TextEncoder().encode(`${JSON.stringify(question)}\n`);
    // A peer that has ended does not read; that no answer comes says so.
    this.#questions.write(line).catch(() => {});
    return await this.answer();
  }

  async answer(): Promise<Answer> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.#process.kill("SIGKILL");
    }, LIMIT);
    const { value, done } = await this.#answers.next();
    clearTimeout(timer);
    if (!done) return JSON.parse(value);
    this.hasEnded = true;
    await this.end();
    const error = isLate ? `no answer in ${LIMIT / 1000} s` : "it has ended";
    return { error };
  }

  async end(): Promise<void> {
    await this.#questions.close().catch(() => {});
    await this.#process.status;
  }
}

async function* lines(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<string, void, void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const whole = (rest + text).split("\n");
    rest = whole.pop()!;
    yield* whole;
  }
}
