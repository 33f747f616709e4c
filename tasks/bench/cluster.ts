/**
 * A batch by joined processes beside the same batch by a pool, on the same cores:
 * what it costs that the work goes through Redis.
 *
 * @module
 */

import { join } from "@std/path/join";
import { makeImage, makeLog } from "../../workers/fixtures.ts";
import type { Answer } from "./peer.ts";
import * as program from "./program.ts";
import { Files, run } from "./program.ts";
import { isWanted, measure, type Options } from "./rows.ts";
import type { Result, Section } from "./rows.ts";

/** What the cluster ÷ the pool shall be at most: 0.85 and 0.7 of its throughput. */
const LARGE = 1.18, SMALL = 1.43;
/** By how much the starter's memory may differ with ten times the files, in MB. */
const FLAT_MB = 10;

/** What is done: the task with its arguments, and what its result depends on. */
interface Batch {
  what: string;
  files: number;
  task: string;
  args: string[];
  /** A folder for results, which is emptied before each run. */
  out?: string;
  aim: number;
}

/** A Redis server and joined processes, of one worker each. */
class Machines implements AsyncDisposable {
  readonly #processes: Deno.ChildProcess[] = [];
  readonly #folder = Deno.makeTempDirSync({ dir: "fixtures" });
  readonly port = 20_000 + Math.floor(40_000 * Math.random());

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  static async start(count: number, root: string): Promise<Machines> {
    const machines = new Machines();
    const { port } = machines;
    machines.#spawn([
      ...["redis-server", "--port", `${port}`, "--bind", "127.0.0.1"],
      ...["--save", "", "--dir", machines.#folder],
    ]);
    while ((await machines.ask("ping")).value !== "PONG\n") {
      await new Promise((go) => setTimeout(go, 20));
    }
    const words = ["--redis", machines.url, "--root", root, "--workers=1"];
    for (let i = 0; i < count; i++) {
      const process = machines.#spawn([...program.taskOf("join"), ...words]);
      const ready = await process.stdout[Symbol.asyncIterator]().next();
      if (ready.done) throw new Error("a process cannot join");
    }
    return machines;
  }

  #spawn([command, ...args]: string[]): Deno.ChildProcess {
    const options = { args, stdin: "null", stdout: "piped" } as const;
    const process = new Deno.Command(command, options).spawn();
    this.#processes.push(process);
    return process;
  }

  /** Asks the server something. */
  ask(...words: string[]): Promise<Answer> {
    return run(["redis-cli", "-p", `${this.port}`, ...words]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of this.#processes.reverse()) {
      process.kill("SIGKILL");
      await process.status;
    }
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

/** Measures batches on joined processes. */
export async function measureCluster(options: Options): Promise<Section> {
  const files = new Files("cluster", options);
  const server = await program.find(
    "redis-server",
    "--version",
    "apt install redis-server",
  );
  const section: Section = {
    title:
      "More machines: joined processes of one worker each beside a pool of as many workers, on the same cores",
    contestants: [server],
    notes: files.notes,
    results: [],
  };
  if (server.missing) return section;
  await using machines = await Machines.start(options.workers, files.folder);
  for (const batch of batchesOf(options, files)) {
    if (!isWanted(batch.what, options)) continue;
    if (!await makeBatch(batch, files)) continue;
    section.results.push(await measureBatch(batch, machines, options));
    files.note(await trafficOf(batch, machines));
    if (batch.aim === SMALL) {
      section.results.push(
        await measureMemory(batch, files, machines, options),
      );
    }
  }
  return section;
}

function batchesOf({ percent }: Options, files: Files): Batch[] {
  const part = (all: number) => Math.max(10, Math.round(all * percent / 100));
  const [images, logs, small] = [part(500), part(2000), part(100_000)];
  const scan = (name: string) => ["--count", files.at(name)];
  const out = files.at("gray");
  return [
    {
      what: `${images} JPEGs of 2 MP`,
      files: images,
      task: "grayscale",
      args: [files.at("images"), "--out", out, "--json"],
      out,
      aim: LARGE,
    },
    {
      what: `${logs} logs of 4.2 MB, by hard links`,
      files: logs,
      task: "logscan",
      args: scan("logs"),
      aim: LARGE,
    },
    {
      what: `${small} logs of 100 bytes`,
      files: small,
      task: "logscan",
      args: scan("small"),
      aim: SMALL,
    },
  ];
}

/** Makes the files of a batch; tells whether they are there. */
async function makeBatch(
  { task, args, files: count, aim }: Batch,
  files: Files,
): Promise<boolean> {
  const name = (task === "logscan" ? args[1] : args[0]).slice(
    files.folder.length + 1,
  );
  if (aim === SMALL) {
    return await files.make(
      name,
      4096 * count,
      (path) => makeSmall(path, count),
    );
  }
  // A hundred different files, and links to them.
  const most = Math.min(count, 100);
  const extension = task === "logscan" ? "log" : "jpg";
  return await files.make(name, 5e6 * most, async (path) => {
    Deno.mkdirSync(path);
    for (let i = 0; i < count; i++) {
      const file = join(path, `${i}.${extension}`);
      if (i >= most) {
        Deno.linkSync(join(path, `${i % most}.${extension}`), file);
      } else if (task === "logscan") {
        makeLog({ path: file, seed: i, lines: 65_000, alert: i % 3 === 0 });
      } else {await makeImage({
          path: file,
          seed: i,
          width: 1600,
          height: 1200,
        });}
    }
  });
}

/** A thousand in each folder, as they may be listed ahead. */
function makeSmall(path: string, count: number): void {
  for (let i = 0; i < count; i++) {
    const folder = join(path, `${Math.floor(i / 1000)}`);
    if (i % 1000 === 0) Deno.mkdirSync(folder, { recursive: true });
    const line = i % 3 === 0 ? "unauthorized access" : "fine";
    Deno.writeTextFileSync(
      join(folder, `${i % 1000}.log`),
      `${line} ${i}\n`.repeat(4),
    );
  }
}

async function measureBatch(
  batch: Batch,
  machines: Machines,
  options: Options,
): Promise<Result> {
  let expected: string | undefined;
  const entry = (name: string, flags: string[], aim?: number) => ({
    name,
    aim,
    run: async () => {
      if (batch.out && program.exists(batch.out)) {
        Deno.removeSync(batch.out, { recursive: true });
      }
      const words = [...program.taskOf(batch.task), ...batch.args, ...flags];
      return await run(words);
    },
  });
  const row = {
    what: batch.what,
    entries: [
      entry("joined processes", ["--redis", machines.url]),
      entry("a pool", [`--workers=${options.workers}`], batch.aim),
    ],
    check: (value: unknown) => {
      const lines = `${value}`.split("\n").filter((line) =>
        !/"machines"/.test(line)
      );
      const answer = lines.sort().join("\n");
      expected ??= answer;
      return answer === expected && answer !== ""
        ? undefined
        : "another answer";
    },
  };
  return await measure(row, options);
}

/** How much goes through Redis, for a million files like these. */
async function trafficOf(batch: Batch, machines: Machines): Promise<string> {
  const counts = async () => {
    const { value } = await machines.ask("info");
    const count = (name: string) =>
      Number(new RegExp(`^${name}:(\\d+)`, "m").exec(`${value}`)?.[1]);
    return {
      commands: count("total_commands_processed"),
      input: count("total_net_input_bytes"),
      output: count("total_net_output_bytes"),
    };
  };
  if (batch.out && program.exists(batch.out)) {
    Deno.removeSync(batch.out, { recursive: true });
  }
  const before = await counts();
  await run([
    ...program.taskOf(batch.task),
    ...batch.args,
    "--redis",
    machines.url,
  ]);
  const after = await counts();
  const of = (name: keyof typeof before) =>
    (after[name] - before[name]) * 1e6 / batch.files;
  return `${batch.what}: for 1,000,000 of them ${
    of("commands").toFixed(0)
  } commands, ` +
    `${(of("input") / 1e6).toFixed(0)} MB into Redis and ${
      (of("output") / 1e6).toFixed(0)
    } MB out of it`;
}

/** How much more memory the starter takes for all files than for a tenth. */
async function measureMemory(
  batch: Batch,
  files: Files,
  machines: Machines,
  options: Options,
): Promise<Result> {
  const tenth = Math.max(1, Math.round(batch.files / 10_000)); // folders
  const what = `memory of the starter, ${batch.files} logs less ${
    1000 * tenth
  }`;
  const peak = async (paths: string[]) => {
    const words = [
      ...program.taskOf("logscan"),
      "--count",
      ...paths,
      "--redis",
      machines.url,
    ];
    const { measured: [{ times: [mb] }] } = await program.measurePeak(
      what,
      words,
      0,
      options,
    );
    return mb;
  };
  const folder = files.at("small");
  const some = Array.from({ length: tenth }, (_, i) => join(folder, `${i}`));
  const few = await peak(some), many = await peak([folder]);
  return {
    what,
    unit: "MB",
    measured: [
      { name: "joined processes", times: [many - few] },
      { name: "the limit", times: [FLAT_MB], aim: 1, isFloor: true },
    ],
  };
}
