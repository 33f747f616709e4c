/**
 * `deno task bench:pool`: what the pool costs, with jobs that do nothing, beside
 * its peers. See README.md. (`Deno.bench` finishes one before it begins the
 * next; on a machine with other users only turns are fair.)
 *
 * @module
 */

import { resolve } from "@std/path/resolve";
import { Pool } from "../../mod.ts";
import { commandLine, readFlags } from "../cli/flags.ts";
import { userFolder } from "../cli/paths.ts";
import { runTask } from "../cli/program.ts";
import { flush, print, Progress } from "../cli/terminal.ts";
import { commandBlock, environment } from "../report/markdown.ts";
import { service } from "./jobs.ts";

const HELP = `Measures what the pool costs, with jobs that do nothing.

Usage: deno task bench:pool [FLAG]…

  --peers DIR   a folder in which "npm install piscina tinypool workerpool
                poolifier-web-worker" was run, to measure those as well
  --rounds N    how many rounds, after one to warm up (default 5)
  --workers N   how many workers each pool has (default 2)
  -q, --quiet   show no progress
  -h, --help    show this
`;

/** What is measured; the peers know it by its name. */
interface Work {
  name: string;
  title: string;
  items: number;
}

const WORKS: Work[] = [
  { name: "one", title: "`apply`, one at a time", items: 2_000 },
  { name: "many", title: "`apply`, all at once", items: 10_000 },
  { name: "map", title: "`map` over numbers", items: 200_000 },
  {
    name: "stream",
    title: "`imapUnordered` over an async generator",
    items: 20_000,
  },
  { name: "copy", title: "`map` over 64 kB each, copied", items: 1_000 },
  { name: "move", title: "`map` over 64 kB each, moved", items: 1_000 },
  { name: "start", title: "a new pool's first result", items: 1 },
];

/** How many rounds in one pool are to show whether it slows down. */
const LONG = 10;

/** How long a round took, and how many items it had; or why there is none. */
type Answer = { ms: number; items: number } | { none: string };

/** A pool of its own that does what it is asked to. */
interface Contestant {
  name: string;
  ask(work: Work): Promise<Answer>;
  end(): Promise<void>;
}

async function main(args: string[]): Promise<number> {
  const { is, text, number } = readFlags(args, {
    text: ["peers"],
    number: { rounds: 1 },
  });
  if (is.help) return print(HELP), 0;
  const { rounds = 5, workers = 2 } = number;
  const progress = new Progress("rounds", is.quiet);
  progress.expect((1 + rounds) * WORKS.length + 1 + LONG);
  print(`# The pool\n\n${environment()}\n`);
  print(`${commandBlock(commandLine("bench:pool", args))}\n`);
  print(`${workers} workers; each row is of ${rounds} rounds in turns, after `);
  print("one to warm up. All answers were checked.\n\n");
  const contestants = [
    new Own(workers),
    ...await startPeers(text.peers, workers),
  ];
  const rows: string[][] = [];
  for (const work of WORKS) {
    rows.push(...await compare(work, contestants, rounds, progress));
  }
  for (const contestant of contestants) await contestant.end();
  const head = ["work", "pool", "items", "ms", "from", "to", "items/s", "×"];
  print(table(head, rows));
  print("\nms: the median. ×: time per item, where ours is 1.\n\n");
  print(await goOn(workers, progress));
  await progress.stop();
  flush();
  return 0;
}

/** Gives all a round of the work in turns, and tells of each in a row. */
async function compare(
  work: Work,
  contestants: Contestant[],
  rounds: number,
  progress: Progress,
): Promise<string[][]> {
  const answers = contestants.map((): Answer[] => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, contestant] of contestants.entries()) {
      const before = answers[i].at(-1);
      answers[i].push(
        before && "none" in before ? before : await contestant.ask(work),
      );
    }
    progress.step();
  }
  let own = NaN;
  return contestants.map(({ name }, i) => {
    const [, ...timed] = answers[i];
    const last = timed.at(-1)!;
    if ("none" in last) {
      return [work.title, `${name}: ${last.none}`, "", "", "", "", "", ""];
    }
    const { items } = last;
    const times = timed.map((answer) => "ms" in answer ? answer.ms : NaN)
      .sort((a, b) => a - b);
    const median = times[times.length >> 1];
    if (i === 0) own = median / items;
    return [
      work.title,
      name,
      `${items}`,
      ...[median, times[0], times.at(-1)!].map((ms) => ms.toFixed(1)),
      (1000 * items / median).toFixed(0),
      (median / items / own).toFixed(2),
    ];
  });
}

/** Shows whether anything grows with the number of items that were done. */
async function goOn(workers: number, progress: Progress): Promise<string> {
  const own = new Own(workers);
  const works = WORKS.filter(({ name }) => ["many", "map"].includes(name));
  const rates = works.map((): number[] => []);
  const rows: string[][] = [];
  for (let round = 0; round <= LONG; round++) {
    for (const [i, work] of works.entries()) {
      const { ms, items } = await own.ask(work);
      rates[i].push(1000 * items / ms);
    }
    progress.step();
    if (round === 0) continue; // the warm-up
    rows.push([
      `${round}`,
      `${own.done}`,
      ...rates.map((rate) => rate[round].toFixed(0)),
      (Deno.memoryUsage().rss / 1e6).toFixed(0),
    ]);
  }
  await own.end();
  const [many, map] = rates.map((rate) =>
    (median(rate.slice(-3)) / median(rate.slice(1, 4))).toFixed(2)
  );
  const head = ["round", "items done", "`apply`/s", "`map`/s", "MB"];
  return `${LONG} rounds in one pool:\n\n${table(head, rows)}\n` +
    `The last three rounds were ${many} (\`apply\`, all at once) and ${map} ` +
    `(\`map\`) times as fast as the first three.\n`;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

function table(head: string[], rows: string[][]): string {
  const widths = head.map((_, i) =>
    Math.max(...[head, ...rows].map((row) => row[i].length))
  );
  const isText = (i: number) => head[i] === "work" || head[i] === "pool";
  const line = (row: string[]) => {
    const cells = row.map((cell, i) =>
      isText(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])
    );
    return `| ${cells.join(" | ")} |\n`;
  };
  const rule = widths.map((width, i) =>
    isText(i) ? "-".repeat(width) : `${"-".repeat(width - 1)}:`
  );
  return [head, rule, ...rows].map(line).join("");
}

// Ours

class Own implements Contestant {
  readonly name = "manyhands";
  readonly #size: number;
  readonly #pool: Pool<typeof service.jobs>;

  constructor(size: number) {
    this.#size = size;
    this.#pool = new Pool(service, { size });
  }

  /** How many items it has done so far. */
  get done(): number {
    return this.#pool.stats().done;
  }

  async ask({ name, items }: Work): Promise<{ ms: number; items: number }> {
    if (name === "start") return { ms: await this.#start(), items };
    const pool = this.#pool;
    const numbers = Array.from({ length: items }, (_, i) => i);
    const isBytes = name === "copy" || name === "move";
    const buffers = isBytes ? numbers.map(() => new Uint8Array(1 << 16)) : [];
    const begun = performance.now();
    let results: number[] = [];
    if (name === "one") {
      for (const n of numbers) results.push(await pool.apply("same", [n]));
    } else if (name === "many") {
      results = await Promise.all(numbers.map((n) => pool.apply("same", [n])));
    } else if (name === "map") {
      results = await pool.map("same", numbers);
    } else if (name === "stream") {
      const answers = pool.imapUnordered("same", generate(items));
      for await (const n of answers) results.push(n);
    } else if (name === "copy") {
      results = await pool.map("length", buffers);
    } else {
      const transfer = (bytes: Uint8Array<ArrayBuffer>) => [bytes.buffer];
      results = await pool.map("length", buffers, { transfer });
    }
    const ms = performance.now() - begun;
    if (name === "stream") results.sort((a, b) => a - b);
    const expected = (i: number) => isBytes ? 1 << 16 : i;
    if (results.length !== items || results.some((n, i) => n !== expected(i))) {
      throw new Error(`${name}: the answers are wrong`);
    }
    return { ms, items };
  }

  /** From `new Pool` to the first result; every worker has something to do. */
  async #start(): Promise<number> {
    const begun = performance.now();
    const size = this.#size;
    await using pool = new Pool(service, { size });
    const calls = Array.from({ length: size }, () => pool.apply("same", [1]));
    const result = await Promise.race(calls);
    const ms = performance.now() - begun;
    if (result !== 1) throw new Error("start: the answer is wrong");
    await pool.close();
    return ms;
  }

  end(): Promise<void> {
    return this.#pool.close();
  }
}

async function* generate(count: number): AsyncGenerator<number, void, void> {
  for (let n = 0; n < count; n++) yield n;
}

// The others

/** Starts the peers; one that cannot be is there nevertheless, and says so. */
async function startPeers(
  folder: string | undefined,
  workers: number,
): Promise<Contestant[]> {
  const script = resolve(import.meta.dirname!, "peers", "pool.mjs");
  const deno = [
    "run",
    "--no-config",
    "--allow-read",
    "--allow-env",
    "--allow-sys=cpus",
  ];
  const peers = [
    await Peer.start("multiprocessing.Pool", "python3", [
      resolve(import.meta.dirname!, "peers", "python.py"),
      `${workers}`,
    ]),
  ];
  for (
    const [peer, runtime] of [
      ["piscina", "Node"],
      ["tinypool", "Node"],
      ["workerpool", "Node"],
      ["poolifier-web-worker", "Deno"],
    ]
  ) {
    const name = `${peer} on ${runtime}`;
    if (folder === undefined) {
      peers.push(absent(name, "not measured, no --peers"));
      continue;
    }
    const PEERS = resolve(userFolder, folder);
    const env = { PEERS, PEER: peer, WORKERS: `${workers}` };
    const [command, args] = runtime === "Deno"
      ? ["deno", [...deno, script]]
      : ["node", [script]];
    peers.push(await Peer.start(name, command, args, env));
  }
  return peers;
}

function absent(name: string, none: string): Contestant {
  const end = () => Promise.resolve();
  return { name, ask: () => Promise.resolve({ none }), end };
}

/**
 * A peer in a process of its own. It is asked on its stdin and answers on its
 * stdout, in lines of JSON; its first line is its name. It takes the time
 * itself, so that this way of asking does not count.
 */
class Peer implements Contestant {
  name: string;
  readonly #process: Deno.ChildProcess;
  readonly #answers: AsyncGenerator<string, void, void>;
  readonly #questions: WritableStreamDefaultWriter<Uint8Array>;

  static async start(
    name: string,
    command: string,
    args: string[],
    env: Record<string, string> = {},
  ): Promise<Contestant> {
    try {
      const peer = new Peer(name, command, args, env);
      const { name: full, none } = await peer.#answer();
      if (none !== undefined) {
        await peer.end();
        return absent(name, none);
      }
      peer.name = full!;
      return peer;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      return absent(name, `not installed, no ${command}`);
    }
  }

  private constructor(
    name: string,
    command: string,
    args: string[],
    env: Record<string, string>,
  ) {
    this.name = name;
    this.#process = new Deno.Command(command, {
      args,
      env,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#answers = lines(this.#process.stdout);
    this.#questions = this.#process.stdin.getWriter();
  }

  async ask({ name, items }: Work): Promise<Answer> {
    const question = new TextEncoder().encode(`${name} ${items}\n`);
    try {
      await this.#questions.write(question);
    } catch {
      // It has ended; so have its answers.
    }
    return await this.#answer() as Answer;
  }

  async #answer(): Promise<{ name?: string; none?: string }> {
    const { value, done } = await this.#answers.next();
    return done ? { none: "failed, it ended" } : JSON.parse(value);
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

if (import.meta.main) await runTask("bench:pool", main);
