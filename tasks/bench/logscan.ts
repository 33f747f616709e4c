/**
 * The part of `deno task bench` that measures the log scan beside ripgrep and
 * grep, where they are installed.
 *
 * @module
 */

import { gzipSync } from "node:zlib";
import { join } from "@std/path/join";
import { projectFolder } from "../cli/paths.ts";

/** How often each command runs, after one that is not counted. */
const RUNS = 5;
const KEYWORD = "unauthorized access";
/** In one line of a hundred. */
const FREQUENT = "status=503";
/** None of them occurs but the first. */
const KEYWORDS = [
  ...[KEYWORD, "segfault", "out of memory", "kernel panic", "denied"],
  ...["refused", "timeout", "fatal", "exception", "traceback", "corrupt"],
  ...["no space left", "broken pipe", "reset by peer", "unreachable"],
  ...["invalid", "failed password", "root login", "sudo:", "oom-killer"],
];

/** A search, as both sides are told of it, and how their answers compare. */
interface Row {
  what: string;
  ours: string[];
  peers: string[][];
  answer: "files" | "counts" | "lines";
}

interface Measured {
  what: string;
  peer: string;
  ours: number;
  theirs: number;
}

/**
 * Measures, and says what came of it.
 *
 * @param folder Where the logs go that are searched: 5.3 GB of them
 * @param scale The part of these that is enough, 1 for all
 * @param say Told of what is going on
 * @returns A table in markdown; a sentence where no peer is installed
 */
export async function comparePeers(
  folder: string,
  scale: number,
  say: (text: string) => void,
): Promise<string> {
  const peers = await installed(["rg", "grep"]);
  if (peers.length === 0) return "Neither ripgrep nor grep is installed.\n";
  say("Making logs to compare with ripgrep and grep …");
  const sizes = sizesOf(scale);
  folder = join(folder, `${sizes.many}`);
  makeLogs(folder, sizes);
  const measured: Measured[] = [];
  for (const row of rows(folder, sizes)) {
    for (const peer of row.peers.filter(([name]) => peers.includes(name))) {
      say(`${row.what}, against ${peer.slice(0, 3).join(" ")} …`);
      measured.push(await measure(row, peer));
    }
  }
  return table(measured) + await memory(join(folder, "big.txt"));
}

/** How many files there are of each kind, and the MiB of the big one. */
interface Sizes {
  many: number;
  big: number;
  compressed: number;
  small: number;
}

function sizesOf(scale: number): Sizes {
  const part = (whole: number) => Math.max(1, Math.round(whole * scale));
  return {
    many: part(200),
    big: part(4096),
    compressed: part(40),
    small: part(20_000),
  };
}

async function installed(names: string[]): Promise<string[]> {
  const found: string[] = [];
  for (const name of names) {
    try {
      await new Deno.Command(name, { args: ["--version"] }).output();
      found.push(name);
    } catch {
      // It is not installed.
    }
  }
  return found;
}

function rows(folder: string, sizes: Sizes): Row[] {
  const at = (name: string) => join(folder, name);
  const rg = ["rg", "--no-config", "-uu", "-F"];
  const keys = (flag: string) => KEYWORDS.flatMap((word) => [flag, word]);
  return [
    {
      what: `${sizes.many} files of 4.2 MiB, found or not`,
      ours: ["-k", KEYWORD, at("many")],
      peers: [
        [...rg, "-l", KEYWORD, at("many")],
        ["grep", "-rlF", KEYWORD, at("many")],
      ],
      answer: "files",
    },
    {
      what: "the same ten times over, by hard links",
      ours: ["-k", KEYWORD, at("ten")],
      peers: [[...rg, "-l", KEYWORD, at("ten")]],
      answer: "files",
    },
    {
      what: "once, 20 keywords",
      ours: [...keys("-k"), at("many")],
      peers: [[...rg, "-l", ...keys("-e"), at("many")]],
      answer: "files",
    },
    {
      what: `one file of ${sizes.big} MiB, no hit`,
      ours: ["-k", "no such thing", at("big.txt")],
      peers: [
        [...rg, "-l", "no such thing", at("big.txt")],
        ["grep", "-lF", "no such thing", at("big.txt")],
      ],
      answer: "files",
    },
    {
      what: "`--count`, 1 % of the lines",
      ours: ["--count", "-k", FREQUENT, at("many")],
      peers: [[...rg, "-c", FREQUENT, at("many")]],
      answer: "counts",
    },
    {
      what: "`--lines`, 1 % of the lines",
      ours: ["--lines", "-k", FREQUENT, at("many")],
      peers: [[...rg, "-n", "--no-heading", FREQUENT, at("many")]],
      answer: "lines",
    },
    {
      what: `${sizes.compressed} .gz files of 4.4 MB`,
      ours: ["-k", KEYWORD, at("gz")],
      peers: [[...rg, "-z", "-l", KEYWORD, at("gz")]],
      answer: "files",
    },
    {
      what: `${sizes.small} files of 4 kB`,
      ours: ["-k", KEYWORD, at("small")],
      peers: [
        [...rg, "-l", KEYWORD, at("small")],
        ["grep", "-rlF", KEYWORD, at("small")],
      ],
      answer: "files",
    },
  ];
}

/** The task as deno.json has it: with its permissions. */
function logscan(args: string[]): string[] {
  const path = join(projectFolder, "deno.json");
  const { command } = JSON.parse(Deno.readTextFileSync(path)).tasks.logscan;
  const [, program] = command.split(" && "); // behind setup
  return [...program.split(" "), ...args];
}

async function measure(row: Row, peer: string[]): Promise<Measured> {
  const ours = logscan(row.ours);
  // Also the warm-up of both.
  const answers = [await run(ours, true), await run(peer, true)];
  const [mine, other] = answers.map(({ text }) => sorted(text, row.answer));
  if (mine !== other) throw new Error(`${row.what}: the answers differ`);
  const times: [number[], number[]] = [[], []];
  for (let i = 0; i < RUNS; i++) {
    times[0].push((await run(ours)).ms);
    times[1].push((await run(peer)).ms);
  }
  const [a, b] = times.map(median);
  return { what: row.what, peer: nameOf(peer), ours: a, theirs: b };
}

/** Tells what its children used at most, in KiB: Deno does not. */
const PEAK = `
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)`;

/** How much memory the big file takes, in a sentence; by way of Python. */
async function memory(path: string): Promise<string> {
  if ((await installed(["python3"])).length === 0) return "";
  const command = logscan(["-k", "no such thing", path]);
  const { text } = await run(["python3", "-c", PEAK, ...command], true);
  return `\nOn the one big file logscan took ${
    Math.round(Number(text) / 1024)
  } MiB of memory at its peak, all threads together.\n`;
}

/** A peer's name and its short flags, without the keywords. */
function nameOf([name, ...args]: string[]): string {
  const flags = args.filter((arg) => /^-[a-z]+$/i.test(arg) && arg !== "-uu");
  return [name, ...new Set(flags)].join(" ");
}

function median(times: number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1];
}

async function run(
  [command, ...args]: string[],
  keep = false,
): Promise<{ ms: number; text: string }> {
  const began = performance.now();
  const { stdout, stderr, code } = await new Deno.Command(command, {
    args,
    cwd: projectFolder,
    stdin: "null",
    // The output goes where it goes for both: through a pipe.
    stdout: "piped",
  }).output();
  const ms = performance.now() - began;
  if (code > 1) throw new Error(new TextDecoder().decode(stderr));
  return { ms, text: keep ? new TextDecoder().decode(stdout) : "" };
}

/** What both say, in the same words and order. */
function sorted(text: string, answer: Row["answer"]): string {
  let lines = text.split("\n").filter((line) => line !== "");
  if (answer === "files") {
    lines = lines.filter((line) => !line.endsWith(": Not found"))
      .map((line) => line.replace(/: Found, line .*$/, ""));
  } else if (answer === "counts") {
    lines = lines.filter((line) => !line.endsWith(":0"));
  }
  return lines.sort().join("\n");
}

function table(measured: Measured[]): string {
  const cells = measured.map(({ what, peer, ours, theirs }) =>
    `| ${what} | ${ours.toFixed(0)} ms | \`${peer}\` | ${
      theirs.toFixed(0)
    } ms | ${(ours / theirs).toFixed(2)}× |`
  );
  return [
    `Whole processes, with their start, in turns; medians of ${RUNS} runs after`,
    "one that was not counted. The answers were compared first. Below 1× logscan",
    "was faster.\n",
    "| | logscan | peer | its time | logscan ÷ peer |",
    "|-|-:|-|-:|-:|",
    ...cells,
    "",
  ].join("\n");
}

// Logs

/** Makes the logs that are not there yet, the same ones each time. */
function makeLogs(folder: string, sizes: Sizes): void {
  const lines = makeLines(40_000);
  const size = 836 * 2 ** 20 / 200;
  const body = bytesOf(lines, size);
  const alert = `Alert: ${KEYWORD} detected from IP 192.168.0.1\n`;
  const whole = (name: string, make: (path: string) => void) => {
    const path = join(folder, name);
    if (exists(path)) return;
    // Made under another name, so that half a set is not taken for one.
    Deno.mkdirSync(folder, { recursive: true });
    if (exists(`${path}~`)) Deno.removeSync(`${path}~`, { recursive: true });
    make(`${path}~`);
    Deno.renameSync(`${path}~`, path);
  };
  const hit = (i: number) => i % 10 < 3 ? [alert] : [];
  whole("many", (path) => {
    Deno.mkdirSync(path);
    for (let i = 0; i < sizes.many; i++) {
      const at = Math.floor(body.length * (i % 7) / 7);
      const cut = body.lastIndexOf(10, at) + 1;
      writeParts(`${path}/${i}.log`, [
        body.subarray(0, cut),
        ...hit(i),
        body.subarray(cut),
      ]);
    }
  });
  whole("ten", (path) => {
    for (let i = 0; i < 10 * sizes.many; i++) {
      const folder = `${path}/${i % 10}`;
      Deno.mkdirSync(folder, { recursive: true });
      const name = `${Math.floor(i / 10)}.log`;
      Deno.linkSync(join(path, "..", "many", name), join(folder, name));
    }
  });
  whole("big.txt", (path) => {
    writeParts(
      path,
      Array(Math.ceil(sizes.big * 2 ** 20 / body.length)).fill(body),
    );
  });
  whole("gz", (path) => {
    Deno.mkdirSync(path);
    for (let i = 0; i < sizes.compressed; i++) {
      const start = i * 99;
      const text = [...lines.slice(start), ...hit(i), ...lines.slice(0, start)];
      // (`CompressionStream` makes blocks that gzip takes ten times as long for.)
      Deno.writeFileSync(`${path}/${i}.log.gz`, gzipSync(text.join("")));
    }
  });
  whole("small", (path) => {
    for (let i = 0; i < sizes.small; i++) {
      if (i % 100 === 0) {
        Deno.mkdirSync(`${path}/${i / 100}`, { recursive: true });
      }
      const own = bytesOf(lines.slice(i, i + 60), 3900);
      writeParts(`${path}/${Math.floor(i / 100)}/${i % 100}.log`, [
        own,
        ...hit(i),
      ]);
    }
  });
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path) !== undefined;
  } catch {
    return false;
  }
}

function writeParts(path: string, parts: (Uint8Array | string)[]): void {
  using file = Deno.openSync(path, { write: true, create: true });
  for (const part of parts) {
    const bytes = typeof part === "string"
      ? new TextEncoder().encode(part)
      : part;
    for (let at = 0; at < bytes.length;) {
      at += file.writeSync(bytes.subarray(at));
    }
  }
}

/** Whole lines, over and over, up to a size. */
function bytesOf(lines: string[], size: number): Uint8Array {
  const once = new TextEncoder().encode(lines.join(""));
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += once.length) {
    bytes.set(once.subarray(0, size - at), at);
  }
  return bytes.subarray(0, bytes.lastIndexOf(10) + 1);
}

/** Lines as servers write them; one in a hundred has `FREQUENT`. */
function makeLines(count: number): string[] {
  let seed = 1;
  const random = (n: number) => (seed = seed * 48271 % 2147483647) % n;
  const kinds = [
    () => "User login successful",
    () => `Connection from 10.0.${random(256)}.${random(256)} closed`,
    () => `GET /index/${random(9999)} HTTP/1.1 200 ${random(99999)}`,
    () => `Cache miss for key session:${random(999999)}`,
  ];
  return Array.from({ length: count }, (_, i) => {
    const time = new Date(1.7e12 + 1000 * i).toISOString();
    const status = i % 100 === 50 ? FREQUENT : `status=${200 + random(5)}`;
    return `${time} host-${random(20)} app[${random(9999)}]: ` +
      `${kinds[random(4)]()} ${status}\n`;
  });
}
