/** What the tests of the cluster share: Redis servers, and processes of tasks. */
import { until } from "../pool/gates.ts";
import { assert } from "@std/assert";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { Redis } from "ioredis";

const project = resolve(import.meta.dirname!, "../..");
const { tasks } = JSON.parse(
  Deno.readTextFileSync(join(project, "deno.json")),
) as { tasks: Record<string, { command: string }> };

/** Something that takes longer than this, in ms, hangs. */
const HANGS = 120_000;

/** A test that needs redis-server; it is skipped loudly where there is none. */
export function clusterTest(name: string, fn: () => Promise<void>): void {
  if (hasRedis) Deno.test({ name: `cluster: ${name}`, fn, timeout: HANGS });
  else console.warn(`NOT TESTED: cluster: ${name}: there is no redis-server`);
}

export const hasRedis = await new Deno.Command("redis-server", {
  args: ["--version"],
  stdout: "null",
}).output().then(({ success }) => success, () => false);

/** A Redis server of a test's own, in a fresh folder. */
export class Server implements AsyncDisposable {
  readonly folder: string = Deno.makeTempDirSync();
  readonly port: number = freePort();
  readonly #words: string[];
  #process!: Deno.ChildProcess;

  private constructor(words: string[]) {
    this.#words = words;
  }

  static async start(...words: string[]): Promise<Server> {
    const server = new Server(words);
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    this.#process = new Deno.Command("redis-server", {
      args: [
        ...["--port", `${this.port}`, "--bind", "127.0.0.1", "--save", ""],
        ...["--dir", this.folder, ...this.#words],
      ],
      stdout: "null",
      stderr: "null",
    }).spawn();
    await until(() =>
      Deno.connect({ hostname: "127.0.0.1", port: this.port })
        .then((connection) => (connection.close(), true), () => false)
    );
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  async end(): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#process.status;
  }

  /** Asks it something. */
  async ask<T>(question: (redis: Redis) => Promise<T>): Promise<T> {
    const redis = new Redis(this.port, "127.0.0.1");
    try {
      return await question(redis);
    } finally {
      redis.disconnect();
    }
  }

  /** All keys that it has. */
  keys(): Promise<string[]> {
    return this.ask(async (redis) => (await redis.keys("*")).sort());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    await Deno.remove(this.folder, { recursive: true });
  }
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** A task as a process, and what it has printed so far. */
export class Task implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  stdout = "";
  stderr = "";
  hasEnded = false;
  readonly #output: Promise<unknown>;

  /** Starts a task as `deno task` does, in a folder of the user's. */
  constructor(
    task: string,
    args: string[],
    { folder = project, env = {}, home = project }: {
      folder?: string;
      env?: Record<string, string>;
      home?: string;
    } = {},
  ) {
    const program = tasks[task].command.split(" && ").at(-1)!; // behind setup
    this.process = new Deno.Command(Deno.execPath(), {
      args: [...program.split(" ").slice(1), ...args],
      cwd: home,
      env: { INIT_CWD: folder, NO_COLOR: "1", ...env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.process.status.then(() => this.hasEnded = true);
    this.#output = Promise.all([
      this.#read(this.process.stdout, (text) => this.stdout += text),
      this.#read(this.process.stderr, (text) => this.stderr += text),
    ]);
  }

  async #read(
    stream: ReadableStream<Uint8Array<ArrayBuffer>>,
    add: (text: string) => void,
  ): Promise<void> {
    const decoder = new TextDecoderStream();
    for await (const text of stream.pipeThrough(decoder)) add(text);
  }

  /** Waits until it has printed something. */
  async says(what: RegExp): Promise<void> {
    await until(() => {
      if (what.test(this.stdout + this.stderr)) return true;
      assert(!this.hasEnded, `it ended: ${this.stdout}${this.stderr}`);
    });
  }

  kill(signal: Deno.Signal): void {
    this.process.kill(signal);
  }

  /** Waits for its end; gives its exit status. */
  async ended(): Promise<number> {
    const { code } = await this.process.status;
    await this.#output;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.ended();
  }
}

/** A joined process that is ready. */
export async function joined(
  { url }: Server,
  root: string,
  ...args: string[]
): Promise<Task> {
  const task = new Task("join", ["--redis", url, "--root", root, ...args]);
  await task.says(/ ready /);
  return task;
}
