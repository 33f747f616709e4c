/**
 * The log scan beside ripgrep, grep and a program that only reads: whole
 * processes of the task.
 *
 * @module
 */

import { join } from "@std/path/join";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { findFiles, totalSize } from "../cli/paths.ts";
import { inPeers, NPM_HINT } from "./peer.ts";
import * as program from "./program.ts";
import { Files, type Program, run } from "./program.ts";
import { isWanted, measure, type Options } from "./rows.ts";
import type { Result, Section } from "./rows.ts";

const KEYWORD = "unauthorized access", ABSENT = "no such thing";
/** In one line of a hundred: in so many of a file of 4.2 MiB. */
const FREQUENT = "status=503", LINES = 511;
/** None of them occurs but the first. */
const KEYWORDS = [
  ...[KEYWORD, "segfault", "out of memory", "kernel panic", "denied"],
  ...["refused", "timeout", "fatal", "exception", "traceback", "corrupt"],
  ...["no space left", "broken pipe", "reset by peer", "unreachable"],
  ...["invalid", "failed password", "root login", "sudo:", "oom-killer"],
];

/** The flags of each mode: ours, ripgrep's and grep's. */
const FLAGS = {
  files: [[], ["-l"], ["-rl"]],
  count: [["--count"], ["-c"], ["-rc"]],
  lines: [["--lines"], ["-n", "--no-heading"], ["-rn"]],
  packed: [[], ["-z", "-l"], []],
};

/** What is looked for, and how many lines the answer has. */
interface Query {
  mode: keyof typeof FLAGS;
  keywords: string[];
  lines: number;
}

/** A row: what it is called, which file or folder is searched, and for what. */
type Search = [
  ...[what: string, where: string, query: Query],
  /** Who takes part, and what ours ÷ it shall be at most, if that is said. */
  beside: Record<string, number | undefined>,
];

/** They take part without an aim. */
const grep = undefined, one = { "1 worker": undefined };
const EMPTY = "empty `deno run`";

function searches({ many, big, packed, small }: Sizes): Search[] {
  const query = (lines: number, changes: Partial<Query> = {}): Query => ({
    mode: "files",
    keywords: [KEYWORD],
    lines,
    ...changes,
  });
  const absent = query(0, { keywords: [ABSENT] });
  const often = (mode: "count" | "lines", lines: number) =>
    query(lines, { mode, keywords: [FREQUENT] });
  const all = `${many} files of 4.2 MiB`, percent = "1 % of the lines";
  const ten = `${10 * many} files of 4.2 MiB, by hard links`;
  const both = { floor: 1.6, rg: 2.2, grep, ...one }, two = { rg: 2, grep };
  const few = { floor: 1.35, rg: 3.5, grep, ...one };
  const many20 = query(hits(many), { keywords: KEYWORDS });
  const all40 = query(hits(packed), { mode: "packed" });
  const listed = (count: number) =>
    query(0, { mode: "count", keywords: indicators(count) });
  return [
    [`${all}, found`, "many", query(hits(many)), both],
    [`${all}, not found`, "many", absent, both],
    [ten, "ten", query(10 * hits(many)), { floor: 1.2, rg: 1.2, ...one }],
    [`${small} files of 4 kB`, "small", query(hits(small)), few],
    [`one file of ${big} MiB`, "big.txt", absent, { rg: 0.6, grep, ...one }],
    ["one file of 4 kB", "one.log", query(1), { [EMPTY]: 1.25, rg: undefined }],
    [`${all}, --count, ${percent}`, "many", often("count", many), two],
    [`${all}, --lines, ${percent}`, "many", often("lines", many * LINES), two],
    [`${all}, 20 keywords`, "many", many20, { rg: 1.8 }],
    [`${all}, --count, 1,000 indicators`, "many", listed(1e3), { rg: 0.4 }],
    [`${all}, --count, 10,000 indicators`, "many", listed(1e4), { rg: 0.2 }],
    [`${packed} .gz files of 4.4 MB`, "gz", all40, { rg: 0.8, ...one }],
    [`${packed} .zst files of 4.4 MB`, "zst", all40, { rg: 0.8, ...one }],
  ];
}

/** More keywords than this are in a file. */
const ARGUMENTS = 100;
/** The most memory that it may take, in MB. */
const MEMORY = 120;

/** How many files there are of each kind, and the MiB of the big one. */
interface Sizes {
  many: number;
  big: number;
  packed: number;
  small: number;
}

function sizesOf({ percent }: Options): Sizes {
  const part = (all: number) => Math.max(1, Math.round(all * percent / 100));
  return {
    ...{ many: part(200), big: part(4096) },
    ...{ packed: part(40), small: part(20_000) },
  };
}

/** Measures the log scan. */
export async function measureLogs(options: Options): Promise<Section> {
  const files = new Files("logscan", options);
  const own = program.taskOf("logscan");
  const cpu = { x86_64: "x64", aarch64: "arm64" }[Deno.build.arch];
  const rg = `@vscode/ripgrep-${Deno.build.os}-${cpu}/bin/rg`;
  const pinned = join(options.folder ?? "-", "node_modules", rg);
  const contestants = [
    await program.find("rg", "--version", NPM_HINT, pinned),
    await program.find("grep", "--version", "install it"),
  ];
  const results: Result[] = [];
  const sizes = sizesOf(options);
  for (const search of searches(sizes)) {
    const [what, where, , beside] = search;
    if (!isWanted(what, options)) continue;
    if (!await makeLogs(where, sizes, files)) continue;
    const path = files.at(where);
    const { keywords } = search[2];
    const list = keywords.length > ARGUMENTS ? files.at("keywords") : undefined;
    if (list) Deno.writeTextFileSync(list, keywords.join("\n") + "\n");
    const from = { path, list };
    const words = commands(search, from, contestants, options.workers, own);
    const entries = Object.entries(words).map(([name, command]) => ({
      ...{ name, aim: beside[name], isFloor: [EMPTY, "floor"].includes(name) },
      run: () => run(command, 1),
    }));
    const check = checkOf(search, path);
    results.push(await measure({ what, entries, check }, options));
  }
  for (const where of ["many", "big.txt", "small"]) {
    const what = `memory: ${where}`;
    if (!isWanted(what, options)) continue;
    if (!await makeLogs(where, sizes, files)) continue;
    const words = [...own, "-k", ABSENT, files.at(where)];
    const peak = program.measurePeak(what, words, MEMORY, options, 1);
    results.push(await peak);
  }
  return { title: "Log scan", contestants, notes: files.notes, results };
}

/** The commands of all who take part and are there, ours first. */
function commands(
  [, , { mode, keywords }, beside]: Search,
  { path, list }: { path: string; list?: string },
  programs: Program[],
  workers: number,
  own: string[],
): Record<string, string[]> {
  const [ours, rg, grep] = FLAGS[mode];
  const keys = (flag: string) =>
    list ? ["-f", list] : keywords.flatMap((word) => [flag, word]);
  const words = (name: string, ...args: string[]) => {
    const { command, missing } = programs.find((p) => p.name === name)!;
    return missing === undefined ? [command, ...args, ...keys("-e"), path] : [];
  };
  const scan = [...own, ...ours, ...keys("-k"), path];
  const floor = [Deno.execPath(), "run", "--allow-all", "--no-config"];
  const all: Record<string, string[]> = {
    manyhands: [...scan, `--workers=${workers}`],
    floor: [...floor, inPeers("floor.mjs"), `${workers}`, path],
    rg: words("rg", "--no-config", "-uu", "-F", `-j${workers}`, ...rg),
    grep: words("grep", "-F", ...grep),
    "1 worker": [...scan, "--workers=1"],
    [EMPTY]: program.EMPTY,
  };
  return Object.fromEntries(
    Object.entries(all).filter(([name, command]) =>
      name === "manyhands" || name in beside && command.length > 0
    ),
  );
}

/**
 * The answers of all have to be the same, and as many lines as are known; what
 * searches nothing has to have read all.
 */
function checkOf([, , { lines }]: Search, path: string) {
  let first: string | undefined;
  return async (value: unknown, name: string) => {
    const text = `${value}`.trimEnd();
    if (name === EMPTY) return text ? "it said something" : undefined;
    if (name === "floor") {
      const found = await Array.fromAsync(findFiles([path]));
      const bytes = await totalSize(found.map(({ path }) => path));
      return Number(text) === bytes ? undefined : `it read ${text} of ${bytes}`;
    }
    const said = text.split("\n")
      .filter((line) => line !== "" && !/(: Not found|:0)$/.test(line))
      .map((line) => line.replace(/: Found, line .*$/, "")).sort();
    if (said.length !== lines) return `${said.length} lines, not ${lines}`;
    first ??= said.join("\n");
    return first === said.join("\n") ? undefined : "its answer is another";
  };
}

/** Addresses, domains and SHA-256 of what is malicious; no log has any of them. */
function indicators(count: number): string[] {
  let seed = 7;
  const random = (n: number) => (seed = seed * 48271 % 2147483647) % n;
  const letters = (from: string, length: number) =>
    Array.from({ length }, () => from[random(from.length)]).join("");
  const ends = ["com", "net", "org", "cn", "io", "info"];
  const kinds = [
    () => `${11 + random(212)}.${[0, 0, 0].map(() => random(256)).join(".")}`,
    () =>
      `${letters("abcdefghijklmnopqrstuvwxyz", 4 + random(12))}.` +
      ends[random(ends.length)],
    () => letters("0123456789abcdef", 64),
  ];
  return Array.from({ length: count }, (_, i) => kinds[i % 3]());
}

// Logs

const hit = (i: number) => i % 10 < 3;
const hits = (count: number) =>
  Array.from({ length: count }, (_, i) => i).filter(hit).length;
const ALERT = `Alert: ${KEYWORD} detected from IP 192.168.0.1\n`;
const FILE = Math.floor(836 * 2 ** 20 / 200);

/** Makes the logs of a kind, the same ones each time. */
async function makeLogs(
  name: string,
  sizes: Sizes,
  files: Files,
): Promise<boolean> {
  const alert = (i: number) => hit(i) ? [ALERT] : [];
  const packed = (
    ending: string,
    pack: (text: string) => Uint8Array,
  ): [number, (to: string) => void] => [sizes.packed * 1e6, (to) => {
    Deno.mkdirSync(to);
    const all = makeLines();
    for (let i = 0; i < sizes.packed; i++) {
      const at = i * 99;
      const text = [...all.slice(at), ...alert(i), ...all.slice(0, at)];
      write(`${to}/${i}.log.${ending}`, pack(text.join("")));
    }
  }];
  const makers: Record<string, [bytes: number, make: (to: string) => void]> = {
    many: [sizes.many * FILE, (to) => {
      Deno.mkdirSync(to);
      const bytes = body();
      for (let i = 0; i < sizes.many; i++) {
        const at = Math.floor(bytes.length * (i % 7) / 7);
        const cut = bytes.lastIndexOf(10, at) + 1;
        const [before, behind] = [bytes.slice(0, cut), bytes.slice(cut)];
        write(`${to}/${i}.log`, before, ...alert(i), behind);
      }
    }],
    ten: [0, (to) => {
      for (let i = 0; i < 10 * sizes.many; i++) {
        const [file, folder] = [Math.floor(i / 10), `${to}/${i % 10}`];
        Deno.mkdirSync(folder, { recursive: true });
        Deno.linkSync(files.at(`many/${file}.log`), `${folder}/${file}.log`);
      }
    }],
    "big.txt": [sizes.big * 2 ** 20, (to) => {
      const bytes = body();
      write(to, ...Array(Math.ceil(sizes.big * 2 ** 20 / FILE)).fill(bytes));
    }],
    // (`CompressionStream` makes blocks that gzip takes ten times as long for.)
    gz: packed("gz", gzipSync),
    zst: packed("zst", zstdCompressSync),
    small: [sizes.small * 4096, (to) => {
      const all = makeLines();
      for (let i = 0; i < sizes.small; i++) {
        const folder = `${to}/${Math.floor(i / 100)}`;
        if (i % 100 === 0) Deno.mkdirSync(folder, { recursive: true });
        const own = all.slice(i, i + 44).join("");
        write(`${folder}/${i % 100}.log`, own, ...alert(i));
      }
    }],
    "one.log": [
      4096,
      (to) => write(to, makeLines().slice(0, 44).join(""), ALERT),
    ],
  };
  if (name === "ten" && !await makeLogs("many", sizes, files)) return false;
  return await files.make(name, ...makers[name]);
}

function write(path: string, ...parts: (Uint8Array | string)[]): void {
  using file = Deno.openSync(path, { write: true, create: true });
  for (const part of parts) {
    const isText = typeof part === "string";
    const bytes = isText ? new TextEncoder().encode(part) : part;
    for (let at = 0; at < bytes.length;) {
      at += file.writeSync(bytes.subarray(at));
    }
  }
}

/** Whole lines, over and over: a file without a hit. */
function body(): Uint8Array {
  const once = new TextEncoder().encode(makeLines().join(""));
  const bytes = new Uint8Array(FILE);
  for (let at = 0; at < FILE; at += once.length) {
    bytes.set(once.subarray(0, FILE - at), at);
  }
  return bytes.subarray(0, bytes.lastIndexOf(10) + 1);
}

/** Lines as servers write them; one in a hundred has `FREQUENT`. */
function makeLines(): string[] {
  let seed = 1;
  const random = (n: number) => (seed = seed * 48271 % 2147483647) % n;
  const kinds = [
    () => "User login successful",
    () => `Connection from 10.0.${random(256)}.${random(256)} closed`,
    () => `GET /index/${random(9999)} HTTP/1.1 200 ${random(99999)}`,
    () => `Cache miss for key session:${random(999999)}`,
  ];
  return Array.from({ length: 40_000 }, (_, i) => {
    const time = new Date(1.7e12 + 1000 * i).toISOString();
    const status = i % 100 === 50 ? FREQUENT : `status=${200 + random(5)}`;
    return `${time} host-${random(20)} app[${random(9999)}]: ` +
      `${kinds[random(4)]()} ${status}\n`;
  });
}
