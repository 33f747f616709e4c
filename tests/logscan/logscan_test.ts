import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { join } from "@std/path";
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { Buffer } from "node:buffer";
import { type CallOptions, Pool, sequential } from "../../mod.ts";
import { withFolder } from "../tasks/folders.ts";
import {
  type Hit,
  hitsOf,
  type LogRunner,
  PartReader,
  type Query,
  type Report,
  scanLogs,
  type ScanOptions,
  type ScanRequest,
  scanSpans,
  service,
  type Span,
} from "../../workers/logscan.ts";
import { searchDecoded } from "../../workers/logscan/scan.ts";

const BLOCK = 1 << 20;
const KEYWORD = "unauthorized access";

/** Every line with a keyword, found in the slow and obvious way. */
function reference(bytes: Uint8Array, keywords: string[]): Hit[] {
  const raw = Buffer.from(bytes).toString("latin1");
  const hits: Hit[] = [];
  let offset = 0;
  const lines = raw.split("\n");
  if (lines.at(-1) === "") lines.pop();
  for (const [i, line] of lines.entries()) {
    const found = keywords.filter((keyword) =>
      line.includes(Buffer.from(keyword).toString("latin1"))
    );
    if (found.length > 0) {
      const hit: Hit = {
        line: i + 1,
        offset,
        length: line.length,
        keywords: found,
      };
      if (line.length <= 64 << 10) {
        hit.text = Buffer.from(line, "latin1").toString();
        if (hit.text.includes("\ufffd")) hit.raw = line;
      }
      hits.push(hit);
    }
    offset += line.length + 1;
  }
  return hits;
}

async function scan(paths: string[], options: ScanOptions): Promise<Report[]> {
  return await Array.fromAsync(scanLogs(sequential(service), paths, options));
}

/** Checks one file in every mode against the reference. */
async function check(
  bytes: Uint8Array,
  keywords = [KEYWORD],
  name = "log.txt",
): Promise<void> {
  const dir = await Deno.makeTempDir();
  const path = join(dir, name);
  const wanted = reference(bytes, keywords);
  await Deno.writeFile(
    path,
    name.endsWith(".gz") ? gzipSync(bytes, { level: 1 }) : bytes,
  );
  const found = wanted.length > 0;
  const count = wanted.length;
  const clue = `keywords ${keywords}, ${bytes.length} bytes`;
  const [lines] = await scan([path], { keywords, mode: "lines" });
  const { bytes: read, ...rest } = lines;
  assertEquals(rest, { path, found, count, hits: wanted }, clue);
  assertEquals(read, bytes.length, clue);
  const [counted] = await scan([path], { keywords, mode: "count" });
  assertEquals([counted.count, counted.found, counted.hits], [
    count,
    found,
    [],
  ]);
  const [first] = await scan([path], { keywords });
  assertEquals([first.found, first.hits], [found, wanted.slice(0, 1)], clue);
  await Deno.remove(dir, { recursive: true });
}

const text = (s: string) => new TextEncoder().encode(s);

Deno.test("scanLogs agrees with the reference on awkward files", async (t) => {
  const cases: Record<string, string | Uint8Array> = {
    "a first hit after many lines": `${"x\n".repeat(3e5)}${KEYWORD}\n`,
    "empty": "",
    "one newline": "\n",
    "keyword at the very start": `${KEYWORD}\nx\n`,
    "keyword at the very end, no final newline": `a\nb ${KEYWORD}`,
    "keyword is all there is": KEYWORD,
    "twice on a line, on two lines": `${KEYWORD} ${KEYWORD}\n${KEYWORD}\n`,
    "broken by a newline": "unauthorized\n access\nunauthorized access\n",
    "CRLF": `a\r\nb ${KEYWORD}\r\nc\r\n`,
    "lone CR": `a\rb ${KEYWORD}\rc\n`,
    "NUL bytes": `a\0b\n\0${KEYWORD}\0\n\0\0\n`,
    "empty lines": `\n\n\n${KEYWORD}\n\n`,
    "invalid UTF-8": new Uint8Array([
      ...[0xff, 0xc3, 0x28, 10, 0xe2, 0x82],
      ...text(KEYWORD),
      ...[0xf0, 0x9f, 10, 0x80],
    ]),
    "Latin-1": Buffer.from(`caf\xe9 ${KEYWORD}\n`, "latin1"),
    "UTF-8": `naïve 😀 ${KEYWORD} 中\n`,
    "UTF-8 with a byte-order mark": `\ufeff${KEYWORD}\n`,
  };
  for (const [name, content] of Object.entries(cases)) {
    const bytes = typeof content === "string" ? text(content) : content;
    await t.step(name, () => check(new Uint8Array(bytes)));
    await t.step(
      `${name}, .gz`,
      () => check(new Uint8Array(bytes), [KEYWORD], "log.gz"),
    );
  }
});

Deno.test("scanLogs finds a keyword across every offset of a block edge", async () => {
  const dir = await Deno.makeTempDir();
  const lines = text(("x".repeat(99) + "\n").repeat(22_000));
  const paths: string[] = [];
  for (let back = 0; back <= KEYWORD.length + 1; back++) {
    const bytes = lines.slice();
    bytes.set(text(KEYWORD), BLOCK - back);
    bytes.set(text(KEYWORD), 2 * BLOCK - back);
    const path = join(dir, `${back}.txt`);
    await Deno.writeFile(path, bytes);
    paths.push(path);
    const [report] = await scan([path], { mode: "lines" });
    assertEquals(report.hits, reference(bytes, [KEYWORD]), `${back} before`);
  }
  await Deno.remove(dir, { recursive: true });
});

Deno.test("scanLogs handles lines longer than what it holds", async (t) => {
  for (const length of [64 << 10, (64 << 10) + 1, BLOCK, 20_000_000]) {
    await t.step(`${length} bytes`, async () => {
      const long = new Uint8Array(length).fill(120);
      for (const at of [0, length >> 1, length - KEYWORD.length]) {
        const line = long.slice();
        line.set(text(KEYWORD), at);
        await check(Buffer.concat([text("a\n"), line, text(`\n${KEYWORD}`)]));
      }
      await check(long);
    });
  }
});

Deno.test("scanLogs agrees with the reference on generated logs", async () => {
  const keywords = ["error", "rror a", "err", "é", "a", "no such thing"];
  const words = ["error ", "err", "or a", "ror", "é", "\xe9", " ", "\r", "\0"];
  let seed = 1;
  const random = (n: number) => {
    seed = (seed * 48271) % 2147483647;
    return seed % n;
  };
  for (let i = 0; i < 60; i++) {
    let log = "";
    for (let k = random(400); k > 0; k--) {
      log += random(4) ? words[random(words.length)] : "\n";
    }
    const some = keywords.filter(() => random(2));
    const name = i % 4 === 0 ? "log.gz" : "log.txt";
    await check(text(log), some.length ? some : ["err"], name);
  }
});

/** The lines that spans of a file have, with numbers in the file. */
async function linesOfSpans(
  path: string,
  cuts: [start: number, end: number][],
  keywords: string[],
): Promise<[line: number, offset: number, length: number][]> {
  const query = { keywords, ignoreCase: false, mode: "lines" as const };
  const found: [number, number, number][] = [];
  let before = 1;
  for (const [start, end] of cuts) {
    const spans = [{ path, start, end }];
    const [{ lines, hits, error }] = await scanSpans({ spans, query });
    assertEquals(error, undefined);
    for (const [i, line] of hits?.lines.entries() ?? []) {
      found.push([before + line, hits!.offsets[i], hits!.lengths[i]]);
    }
    before += lines;
  }
  return found;
}

Deno.test("scanSpans: spans cut anywhere add up to the whole file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log.txt");
    const content = text(`hit\n\nno\nhit hit\n${"x".repeat(30)}hit\nhit`);
    await Deno.writeFile(path, content);
    const wanted = reference(content, ["hit"]).map((
      { line, offset, length },
    ) => [line, offset, length]);
    const size = content.length;
    for (let a = 1; a < size; a++) {
      for (let b = a + 1; b < size; b++) {
        const cuts: [number, number][] = [[0, a], [a, b], [b, size]];
        const found = await linesOfSpans(path, cuts, ["hit"]);
        assertEquals(found, wanted, `cut at ${a} and ${b}`);
      }
    }
  }));

Deno.test("scanLogs cuts a big file and reports it as one", async () => {
  const dir = await Deno.makeTempDir();
  const path = join(dir, "big.txt");
  const bytes = new Uint8Array(70 << 20).fill(120);
  for (let i = 99; i < bytes.length; i += 100) bytes[i] = 10;
  const cut = 32 << 20;
  for (const at of [cut - 5, 2 * cut + 1, bytes.length - 19]) {
    bytes.set(text(KEYWORD), at);
  }
  await Deno.writeFile(path, bytes);
  const wanted = reference(bytes, [KEYWORD]);
  await using pool = new Pool(service, { size: 2 });
  for (const runner of [sequential(service), pool]) {
    const lines = scanLogs(runner, [path, path], { mode: "lines" });
    for await (const report of lines) assertEquals(report.hits, wanted);
    for await (const report of scanLogs(runner, [path])) {
      assertEquals(report.hits, wanted.slice(0, 1));
    }
  }
  await Deno.remove(dir, { recursive: true });
});

Deno.test("scanLogs searches UTF-16 in its own encoding", async (t) => {
  const log = `eins\r\nzwei ${KEYWORD} 😀\nĊ ${KEYWORD}`;
  for (const encoding of ["utf-16le", "utf-16be"]) {
    await t.step(encoding, async () => {
      const dir = await Deno.makeTempDir();
      const path = join(dir, "log.txt");
      const bytes = Buffer.from(`\ufeff${log}`, "utf16le");
      if (encoding === "utf-16be") bytes.swap16();
      await Deno.writeFile(path, bytes);
      const [{ hits }] = await scan([path], { mode: "lines" });
      assertEquals(hits.map((hit) => [hit.line, hit.offset, hit.text]), [
        [2, 6, `zwei ${KEYWORD} 😀`],
        [3, 6 + 30, `Ċ ${KEYWORD}`],
      ]);
      await Deno.remove(dir, { recursive: true });
    });
  }
});

Deno.test("scanLogs reads all members of a .gz, and what it can of a bad one", async () => {
  const dir = await Deno.makeTempDir();
  const path = join(dir, "log.gz");
  const first = gzipSync(`${KEYWORD} 1\n`);
  const second = gzipSync(`${KEYWORD} 2\n`);
  await Deno.writeFile(path, Buffer.concat([first, second]));
  const [whole] = await scan([path], { mode: "lines" });
  assertEquals(whole.hits.map((hit) => hit.text), [
    `${KEYWORD} 1`,
    `${KEYWORD} 2`,
  ]);
  const noise = crypto.getRandomValues(new Uint8Array(60_000));
  const big = gzipSync(Buffer.concat([text(`${KEYWORD}\n`), noise]));
  await Deno.writeFile(path, big.subarray(0, 50_000));
  const [cut] = await scan([path], { mode: "lines" });
  assertStringIncludes(cut.error!, "unexpected end of file");
  big[30_000] ^= 255;
  await Deno.writeFile(path, big);
  const [corrupt] = await scan([path], { mode: "lines" });
  assert(corrupt.error, "a corrupt file is reported");
  await Deno.remove(dir, { recursive: true });
});

Deno.test("scanLogs finds all that is before the damage in a .gz", async (t) => {
  const noise = (length: number) =>
    Uint8Array.from({ length }, (_, i) => (i * i * 7919 + i) >> 5);
  const content = Buffer.concat([text(`a\n${KEYWORD}\n`), noise(300_000)]);
  const whole = gzipSync(content);
  const flipped = Buffer.from(whole);
  flipped[whole.length - 7] ^= 255; // in the checksum
  const cases: Record<string, Uint8Array> = {
    "truncated": whole.subarray(0, whole.length - 1000),
    "truncated in the trailer": whole.subarray(0, whole.length - 4),
    "a wrong checksum": flipped,
    "garbage after it": Buffer.concat([whole, text("garbage")]),
    "a damaged second member": Buffer.concat([
      whole,
      whole.subarray(0, 9),
      text("x".repeat(99)),
    ]),
  };
  for (const [name, bytes] of Object.entries(cases)) {
    await t.step(name, async () => {
      const path = await Deno.makeTempFile();
      await Deno.writeFile(path, bytes);
      for (const mode of ["found", "lines"] as const) {
        const [report] = await scan([path], { mode });
        assertEquals(report.hits.map((hit) => hit.line), [2], mode);
        if (mode === "lines") assert(report.error, "the damage is reported");
      }
      await Deno.remove(path);
    });
  }
});

/** How much is read and decompressed at a time. */
const PIECE = 1 << 18;

/** Searches bytes as a pipe gives them, at most so many at a time. */
async function scanPipe(
  bytes: Uint8Array,
  most: number,
): Promise<[lines: number, error?: string]> {
  let at = 0;
  const read = (into: Uint8Array) => {
    if (at === bytes.length) return null;
    const part = bytes.subarray(at, at + Math.min(most, into.length));
    into.set(part);
    at += part.length;
    return part.length;
  };
  const query = { keywords: [KEYWORD], ignoreCase: false, mode: "count" };
  const reports = searchDecoded({ read }, query as Query, {
    content: 0,
    offset: 0,
  });
  const [{ count, error }] = await Array.fromAsync(reports);
  return [count, error];
}

/** Checks how many lines are found, in a file and in pipes, and what is wrong. */
async function checkEncoded(
  bytes: Uint8Array,
  count: number,
  error: RegExp | undefined,
  clue: string,
): Promise<void> {
  const path = await Deno.makeTempFile();
  await Deno.writeFile(path, bytes);
  const [report] = await scan([path], { mode: "count" });
  await Deno.remove(path);
  const outcomes = [
    [report.count, report.error],
    await scanPipe(bytes, Infinity),
    await scanPipe(bytes, bytes.length > 9999 ? 4001 : 1),
  ];
  for (const [i, [found, cause]] of outcomes.entries()) {
    assertEquals(found, count, `${clue}, way ${i}`);
    if (error) assertMatch(`${cause}`, error, clue);
    else assertEquals(cause, undefined, `${clue}, way ${i}`);
  }
}

/** A member of a .gz that is so long, with one line that has the keyword. */
function memberOf(length: number): Uint8Array {
  const content = Buffer.alloc(length, ".");
  content.write(`\n${KEYWORD}\n`);
  for (let size = length;; size--) {
    const member = gzipSync(content.subarray(0, size), { level: 0 });
    if (member.length <= length) return member;
  }
}

Deno.test("scanLogs skips zeros between and behind the members of a .gz", async (t) => {
  const member = gzipSync(`${KEYWORD}\n`);
  const check = (parts: (number | Uint8Array)[], count: number) => {
    const bytes = parts.map((part) =>
      typeof part === "number" ? new Uint8Array(part) : part
    );
    const clue = parts.map((part) => typeof part === "number" ? part : "gz");
    return checkEncoded(Buffer.concat(bytes), count, undefined, `${clue}`);
  };
  await t.step("any number of them", async () => {
    for (const zeros of [1, 2, 7, 8, 18, 511, 10_240, 3 * PIECE]) {
      await check([member, zeros], 1);
      await check([member, zeros, member], 2);
      await check([member, zeros, member, member, 1, member, zeros], 4);
    }
  });
  await t.step("with the next member at the edge of a block", async () => {
    for (let back = -2; back <= 20; back++) {
      await check([member, PIECE - member.length - back, member, 9], 2);
    }
  });
  await t.step("with the end of a member at the edge of a block", async () => {
    for (let back = -2; back <= 12; back++) {
      for (const zeros of [0, 1, 5, PIECE]) {
        await check([memberOf(PIECE - back), zeros, member], 2);
        await check([memberOf(PIECE - back), zeros], 1);
      }
    }
  });
});

Deno.test("scanLogs searches a .gz to its end, and reports what is behind it", async () => {
  const member = gzipSync(`${KEYWORD}\n`);
  const others = [[1], [255, 0], [31], [31, 139], [31, 139, 8], [0, 0, 1]];
  const text = [...new TextEncoder().encode("not compressed\n")];
  for (const other of [...others, text, [0, ...text], Array(PIECE).fill(65)]) {
    for (const size of [member.length, PIECE - 1, PIECE, PIECE + 1]) {
      const first = size > 99 ? memberOf(size) : member;
      const bytes = Buffer.concat([first, new Uint8Array(other)]);
      const clue = `${other.slice(0, 9)} behind ${first.length} bytes`;
      await checkEncoded(bytes, 1, /header|unexpected end|follows/, clue);
    }
  }
});

Deno.test("scanLogs finds in a pipe, too, all that is before the damage in a .gz", async () => {
  const lines = `${KEYWORD}\n`.repeat(20_000);
  const noise = crypto.getRandomValues(new Uint8Array(60_000));
  const whole = gzipSync(Buffer.concat([text(`${lines}\n`), noise]));
  await checkEncoded(whole, 20_000, undefined, "whole");
  const flipped = Buffer.from(whole);
  flipped[whole.length - 7] ^= 255; // in the checksum
  await checkEncoded(flipped, 20_000, /incorrect data check/, "flipped");
  const cut = whole.subarray(0, whole.length - 20_000);
  await checkEncoded(cut, 20_000, /unexpected end of file/, "cut");
});

Deno.test("scanLogs finds every line that can be decompressed before the damage", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log.gz");
    // As the lines are alike, equal numbers of bytes have equal numbers of lines.
    const lines = Array.from(
      { length: 5000 },
      (_, i) => `${i * 7919 % 9973} ${KEYWORD}`,
    );
    const whole = gzipSync(lines.join("\n"));
    for (const part of [0.2, 0.6, 0.95]) {
      const bytes = Buffer.from(whole);
      bytes[Math.floor(bytes.length * part)] ^= 255;
      await Deno.writeFile(path, bytes);
      const [report] = await scan([path], { mode: "lines" });
      assert(report.error && !report.error.includes("end of file"), `${part}`);
      const found = report.hits.map((hit) => hit.text);
      const right = found.findIndex((text, i) => text !== lines[i]);
      const sure = Math.floor(lines.length * (part - 0.05));
      assert((right < 0 ? found.length : right) > sure, `${part}`);
    }
  }));

Deno.test("scanLogs gives many hits in parts, and misses none", async (t) => {
  const lines = Array.from(
    { length: 120_000 },
    (_, i) =>
      i % 3 ? `${KEYWORD} number ${i} ${"x".repeat(i % 50)}` : `line ${i}`,
  );
  const plain = text(lines.join("\n"));
  const wide = Buffer.from(`\ufeff${lines.join("\n")}`, "utf16le");
  const cases = { plain, gzip: gzipSync(plain, { level: 1 }), wide };
  const wanted = reference(plain, [KEYWORD]).map((
    { line, text },
  ) => [line, text]);
  for (const [name, bytes] of Object.entries(cases)) {
    await t.step(name, async () => {
      const path = await Deno.makeTempFile();
      await Deno.writeFile(path, bytes);
      const [whole] = await scan([path], { mode: "lines" });
      const check = (hits: Hit[], wanted: unknown[][]) => {
        const found = hits.map(({ line, text }) => [line, text]);
        // As text: to compare so many one by one takes seconds.
        if (`${found}` !== `${wanted}`) assertEquals(found, wanted);
      };
      check(whole.hits, wanted);
      const parts = await scan([path, path], { mode: "lines", parts: true });
      assert(parts.length > 4, `${parts.length} parts`);
      const hits = joined(parts).flatMap((report) => report.hits);
      check(hits, [...wanted, ...wanted]);
      assertEquals(parts.filter(({ part }) => !part).length, 2);
      assertEquals(parts.at(-1)!.count, wanted.length);
      assertEquals(whole.count, wanted.length);
      await Deno.remove(path);
    });
  }
});

Deno.test("scanLogs gives no more lines of a file than are wanted", () =>
  withFolder(async (dir) => {
    const long = "y".repeat(70_000);
    const line = (i: number) =>
      i % 1000 === 7
        ? `${KEYWORD} ${long}`
        : i % 9 === 0
        ? `${i} ${KEYWORD}`
        : "";
    const lines = Array.from({ length: 600_000 }, (_, i) => line(i));
    const path = join(dir, "a.log"), packed = join(dir, "a.gz");
    const bytes = text(lines.join("\n")); // three spans
    await Deno.writeFile(path, bytes);
    await Deno.writeFile(packed, gzipSync(bytes, { level: 1 }));
    const keywords = [KEYWORD];
    const all = reference(bytes, keywords);
    await using pool = new Pool(service, { size: 2 });
    for (const max of [1, 2, 777, 20_000, all.length - 1, all.length, 1e6]) {
      const wanted = all.slice(0, max);
      for (const runner of [pool, sequential(service)]) {
        for (const mode of ["lines", "count", "found"] as const) {
          const options = { keywords, mode, max };
          const reports = scanLogs(runner, [path, packed], options);
          for await (const report of reports) {
            const clue = `${report.path} ${mode} ${max}`;
            const isFound = mode === "found";
            assertEquals(report.count, isFound ? 1 : wanted.length, clue);
            if (mode === "count") continue;
            const hits = isFound ? all.slice(0, 1) : wanted;
            assertEquals(report.hits.length, hits.length, clue);
            assertEquals(report.hits.at(-1), hits.at(-1), clue);
            if (max === 777) assertEquals(report.hits, hits, clue);
          }
        }
      }
    }
    for (const max of [0, -1, 1.5, NaN, Infinity]) {
      const scan = scanLogs(sequential(service), [path], { max });
      await assertRejects(() => scan.next(), RangeError, `value is ${max}`);
    }
  }));

Deno.test("scanLogs gives more hits of a block than a call takes arguments", () =>
  withFolder(async (dir) => {
    const path = join(dir, "short.log"), count = 200_000;
    await Deno.writeTextFile(path, "a\n".repeat(count));
    const [{ hits }] = await scan([path], { keywords: ["a"], mode: "lines" });
    assertEquals([hits.length, hits.at(-1)!.line], [count, count]);
  }));

Deno.test("scanLogs reports what it cannot read and goes on, in order", async () => {
  const dir = await Deno.makeTempDir();
  const good = join(dir, "good.txt");
  await Deno.writeTextFile(good, `x\n${KEYWORD}`);
  const missing = join(dir, "missing.txt");
  await using pool = new Pool(service, { size: 2 });
  for (const runner of [sequential(service), pool]) {
    const paths = [missing, good, dir, good, missing];
    const reports = await Array.fromAsync(scanLogs(runner, paths));
    assertEquals(reports.map((report) => [report.error, report.found]), [
      ["No such file or directory", false],
      [undefined, true],
      ["Is a directory", false],
      [undefined, true],
      ["No such file or directory", false],
    ]);
  }
  await Deno.remove(dir, { recursive: true });
});

Deno.test("scanLogs gives the same reports with 0, 1, 2 and 7 workers", async () => {
  const dir = await Deno.makeTempDir();
  const paths = Array.from({ length: 40 }, (_, i) => join(dir, `${i}.txt`));
  for (const [i, path] of paths.entries()) {
    const line = i % 3 ? "fine\n" : `line with ${KEYWORD}\n`;
    await Deno.writeTextFile(path, line.repeat(i * 50));
  }
  for (const mode of ["found", "count", "lines"] as const) {
    const wanted = await scan(paths, { mode });
    for (const size of [1, 2, 7]) {
      await using pool = new Pool(service, { size });
      const reports = await Array.fromAsync(scanLogs(pool, paths, { mode }));
      assertEquals(reports, wanted, `${mode}, ${size} workers`);
    }
  }
  await Deno.remove(dir, { recursive: true });
});

/** A file's reports, part after part, as one; parts of others may not come between. */
function joined(reports: Report[]): Report[] {
  const whole: Report[] = [];
  let last: Report | undefined;
  for (const { part, ...report } of reports) {
    if (part) report.hits = [...hitsOf(part, [KEYWORD])];
    if (last) {
      assertEquals(report.path, last.path);
      last = { ...report, hits: [...last.hits, ...report.hits] };
    } else last = report;
    if (part) continue;
    whole.push(last);
    last = undefined;
  }
  assertEquals(last, undefined);
  return whole;
}

Deno.test("scanLogs gives one file after the other, whatever is ready first", () =>
  withFolder(async (folder) => {
    const line = `${KEYWORD} and so on ${"x".repeat(60)}\n`;
    // A line ends where the first span does.
    const long = `${"y".repeat(1023)}\n`.repeat(21_000);
    const contents = [
      `${KEYWORD}\n`,
      `${long}${KEYWORD}`, // continues after its first span
      line.repeat(230_000), // more hits than a span's answer holds, twice over
      gzipSync(line.repeat(150_000)),
      `${long}${line.repeat(2)}`,
      "nothing\n",
      line,
    ].map((content) => typeof content === "string" ? text(content) : content);
    const paths: string[] = [];
    for (const [i, content] of contents.entries()) {
      paths.push(join(folder, `${i}`));
      await Deno.writeFile(paths[i], content);
    }
    await using pool = new Pool(service, { size: 3 });
    for (const mode of ["lines", "count", "found"] as const) {
      const wanted = await scan(paths, { mode });
      if (mode !== "found") {
        assertEquals(wanted.map(({ count }) => count), [
          ...[1, 1, 230_000, 150_000, 2, 0, 1],
        ]);
      }
      assertEquals(
        wanted[1].hits,
        [{
          line: 21_001,
          offset: long.length,
          length: KEYWORD.length,
          keywords: [KEYWORD],
          text: KEYWORD,
        }].slice(0, mode === "count" ? 0 : 1),
      );
      for (const runner of [sequential(service), pool]) {
        const parts = scanLogs(runner, paths, { mode, parts: true });
        const reports = joined(await Array.fromAsync(parts));
        for (const [i, report] of reports.entries()) {
          // How much of a file with a hit was searched depends on the timing.
          const bytes = mode === "found" ? wanted[i].bytes : report.bytes;
          const same = JSON.stringify({ ...report, bytes }) ===
            JSON.stringify({ ...wanted[i], bytes });
          assert(same, `${mode}, file ${i}`);
        }
      }
    }
  }));

Deno.test("scanSpans says to go on only where there is more", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log");
    const line = KEYWORD.padEnd(999, ".") + "\n";
    // An answer is full just before the end of the file.
    for (const count of [870, 873, 874, 880]) {
      await Deno.writeTextFile(path, line.repeat(count));
      const query = {
        keywords: [KEYWORD],
        ignoreCase: false,
        mode: "lines" as const,
      };
      for (const end of [undefined, count * line.length]) {
        const spans = [{ path, start: 0, end }];
        const [{ next, bytes, ...found }] = await scanSpans({ spans, query });
        const left = next === undefined ? 0 : count - next / line.length;
        assertEquals(found.count + left, count);
        assertEquals(bytes, next ?? count * line.length);
      }
    }
  }));

Deno.test("scanLogs sends no more files together than are worth a while", () =>
  withFolder(async (folder) => {
    const paths: string[] = [];
    const add = async (count: number, bytes: Uint8Array) => {
      for (; count > 0; count--) {
        const path = join(folder, `${paths.length}`);
        paths.push(path);
        await Deno.writeFile(path, bytes);
      }
    };
    await add(200, text(`x\n${KEYWORD}\n`));
    await add(20, text(`${"x\n".repeat(1 << 20)}${KEYWORD}\n`));
    await add(30, text("x\n"));
    const query = {
      keywords: [KEYWORD],
      ignoreCase: false,
      mode: "count" as const,
    };
    const spans = paths.slice(200, 210).map((path) => ({ path, start: 0 }));
    const together = await scanSpans({ spans, query });
    const isUndone = together.map(({ undone = false }) => undone);
    assertEquals(isUndone, [...Array(8).fill(false), true, true]);
    await using pool = new Pool(service, { size: 2 });
    for (const runner of [sequential(service), pool]) {
      const reports = await Array.fromAsync(
        scanLogs(runner, paths, { mode: "count" }),
      );
      assertEquals(
        reports.map(({ path, count }) => [path, count]),
        paths.map((path, i) => [path, i < 220 ? 1 : 0]),
      );
    }
  }));

Deno.test("scanLogs asks what a path is, unless that is known", () =>
  withFolder(async (folder) => {
    const fifo = join(folder, "fifo");
    await new Deno.Command("mkfifo", { args: [fifo] }).output();
    const [pipe, dir] = await scan([fifo, folder], {});
    assertEquals([pipe.error, dir.error], [
      "Not a regular file",
      "Is a directory",
    ]);
    const [known] = await scan([folder], { regular: true });
    assertEquals(known.error, "Is a directory");
  }));

Deno.test("scanLogs decompresses what is little at once, and all else as well", async () => {
  const noise = new Uint8Array(5 << 20);
  for (let i = 0; i < noise.length; i += 1 << 16) {
    crypto.getRandomValues(noise.subarray(i, i + (1 << 16)));
  }
  const end = text(`\n${KEYWORD}\n`);
  await check(Buffer.concat([noise, end]), [KEYWORD], "much.gz");
  const line = "x".repeat(63) + "\n";
  const long = text(line.repeat(20 << 14)); // it decompresses to far more
  await check(Buffer.concat([long, end]), [KEYWORD], "long.gz");
  await check(Buffer.concat([long.subarray(0, 999), end]), [KEYWORD], "a.gz");
});

Deno.test("scanLogs refuses a keyword that no line can have", async () => {
  for (const keyword of ["", "a\nb"]) {
    await assertRejects(
      () => scan([], { keywords: [keyword] }),
      RangeError,
      JSON.stringify(keyword),
    );
  }
});

Deno.test("scanLogs ignores case, and refuses keywords that are no text of a line", async () => {
  const path = await Deno.makeTempFile();
  await Deno.writeTextFile(path, "UnAuthorized\nunauth\nUNAUTHORIZED Ä\n");
  for (const keywords of [["unauthorized"], ["UNAUTHorized", "nothing"]]) {
    const options = { keywords, ignoreCase: true, mode: "lines" as const };
    const [{ hits }] = await scan([path], options);
    assertEquals(hits.map(({ line }) => line), [1, 3]);
    assertEquals(hits[0].keywords, keywords.slice(0, 1));
  }
  const chinese = { keywords: ["登录 a"], ignoreCase: true };
  assertEquals((await scan([path], chinese))[0].found, false);
  const [{ count }] = await scan([path], {
    ...{ keywords: ["unauth", "ä"], ignoreCase: true, words: true },
    ...{ all: false, without: ["no"], mode: "count" },
  });
  assertEquals(count, 2);
  for (const keyword of ["x".repeat(4097), "", "a\nb", "a\r"]) {
    const [keywords, without] = [["a"], [keyword]];
    await assertRejects(() => scan([path], { keywords: without }), RangeError);
    await assertRejects(() => scan([path], { keywords, without }), RangeError);
  }
  await assertRejects(() => scan([path], { keywords: [] }), RangeError);
  await Deno.remove(path);
});

Deno.test("scanLogs reports what is compressed otherwise, and does not search it", async () => {
  const ones = Array(8).fill(255);
  const magics: [name: string, bytes: number[]][] = [
    ["7z", [0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c]],
    ["rar", [0x52, 0x61, 0x72, 0x21, 0x1a, 7]],
    ["lzma", [0x5d, 0, 0, 0x80, 0, ...ones, 0]],
    ["lzma", [0x5d, 0, 0, 0, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0]],
    ["lzip", [0x4c, 0x5a, 0x49, 0x50, 1]],
    ["lzop", [0x89, 0x4c, 0x5a, 0x4f, 0, 13, 10, 0x1a, 10]],
    ["compress (.Z)", [0x1f, 0x9d]],
  ];
  for (const [name, magic] of magics) {
    const bytes = Buffer.concat([new Uint8Array(magic), text(KEYWORD)]);
    const error = `${name} is not supported: decompress it first`;
    const wanted = new RegExp(`^${RegExp.escape(error)}$`);
    await checkEncoded(bytes, 0, wanted, name);
    // Only the beginning of it, alone and with text behind it.
    await check(new Uint8Array(magic.slice(0, -1)));
    await check(new Uint8Array([...magic.slice(0, -1), 66, ...text(KEYWORD)]));
  }
  // They begin like zip, bzip2 and .lzma, but go on as text.
  await check(text(`PK\x07\x08 ${KEYWORD}\n`));
  await check(text(`BZh9 is what ${KEYWORD} begins with\n`));
  await check(text(`]\0\0 ${KEYWORD} and the like\n`));
});

/** A frame of zstd that is to be skipped. */
function skippedFrame(size: number, magic = 0x50): Uint8Array {
  const head = Buffer.from([magic, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
  head.writeUInt32LE(size, 4);
  return Buffer.concat([head, text(KEYWORD), Buffer.alloc(size, "x")])
    .subarray(0, 8 + size);
}

const CHECKED = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };

Deno.test("scanLogs searches all frames of zstd, and skips what is to be skipped", async (t) => {
  const line = text(`a\n${KEYWORD}\n`);
  const one = zstdCompressSync(line);
  const noise = new Uint8Array(400_000);
  for (let i = 0; i < noise.length; i += 50_000) {
    crypto.getRandomValues(noise.subarray(i, i + 50_000));
  }
  const raw = zstdCompressSync(Buffer.concat([noise, text("\n"), line]));
  const runs = zstdCompressSync(Buffer.concat([new Uint8Array(9e5), line]));
  const empty = zstdCompressSync("");
  const cases: [parts: Uint8Array[], count: number][] = [
    [[one], 1],
    [[raw, runs, one], 3],
    [[zstdCompressSync(line, CHECKED), one], 2],
    [[empty, one, empty, empty, one, empty], 2],
    [[skippedFrame(4), one], 1], // as pzstd does it
    [[skippedFrame(0)], 0],
    ...Array.from({ length: 16 }, (_, i): [Uint8Array[], number] => [
      [skippedFrame(i, 0x50 + i), one, skippedFrame(3 * PIECE, 0x50 + i), one],
      2,
    ]),
    [[one, new Uint8Array(512), one, new Uint8Array(PIECE)], 2],
  ];
  for (const [i, [parts, count]] of cases.entries()) {
    await checkEncoded(Buffer.concat(parts), count, undefined, `case ${i}`);
  }
  await t.step("at every edge of a block", async () => {
    for (let back = -2; back <= one.length + 12; back++) {
      const first = skippedFrame(PIECE - 8 - back);
      const parts = [first, one, skippedFrame(1), one];
      await checkEncoded(Buffer.concat(parts), 2, undefined, `${back}`);
    }
  });
});

Deno.test("scanLogs says that something else follows the end of zstd", async () => {
  const one = zstdCompressSync(`${KEYWORD}\n`);
  const zip = [0x50, 0x4b, 5, 6];
  for (const other of [[1], [0, 1], zip, [...text("not compressed\n")]]) {
    const bytes = Buffer.concat([one, new Uint8Array(other)]);
    await checkEncoded(bytes, 1, /^something else follows/, `${other}`);
  }
});

Deno.test("scanLogs finds what is before the end of a zstd that is cut anywhere", async () => {
  const one = zstdCompressSync(`${KEYWORD}\n`, CHECKED);
  const parts = [one, skippedFrame(9), one, new Uint8Array(3), one];
  const whole = Buffer.concat(parts);
  const ends = parts.map((_, i) => Buffer.concat(parts.slice(0, i + 1)).length);
  for (let length = 1; length < whole.length; length++) {
    const isZero = length > ends[2] && length < ends[3];
    const error = ends.includes(length) || isZero
      ? undefined
      : /^(unexpected end of file|something else follows its end)$/;
    if (length < 4) continue; // nothing tells that it is zstd
    // The line is there as soon as its block is; only the checksum comes then.
    const count = [0, 2, 4].filter((i) => ends[i] - 4 <= length).length;
    await checkEncoded(whole.subarray(0, length), count, error, `${length}`);
  }
});

Deno.test("scanLogs survives a zstd with any byte of it flipped", async () => {
  const lines = Array.from(
    { length: 9000 },
    (_, i) => `${i * 7919 % 9973} ${KEYWORD}\n`,
  );
  const whole = zstdCompressSync(lines.join("").repeat(3), CHECKED);
  assertEquals(await scanPipe(whole, Infinity), [27_000, undefined]);
  let failed = 0, early = 0;
  for (let i = 0; i < 1000; i++) {
    const bytes = Buffer.from(whole); // of a Buffer, `slice` is no copy
    const at = Math.floor(i / 1000 * whole.length);
    bytes[at] ^= 1 << i % 8;
    const [count, error] = await scanPipe(bytes, Infinity);
    assert(count <= 27_000 + 1e5, `byte ${at}`);
    if (error) failed++;
    if (error && count === 0) early++;
  }
  // But for the few in front that change what it is; and blocks before are found.
  assert(failed > 990, `${failed} failed`);
  assert(early < 500, `${early} had no hit`);
});

Deno.test("scanLogs refuses a zstd that needs too much memory", async () => {
  // A frame with a window of 2 GiB, as `zstd --long=31` makes it.
  const bytes = [...ZSTD_MAGIC, 0, 21 << 3, 0b001, 0, 0];
  await checkEncoded(new Uint8Array(bytes), 0, /too much memory/, "2 GiB");
  const large = [...ZSTD_MAGIC, 0, 0, 0xff, 0xff, 0xff];
  await checkEncoded(new Uint8Array(large), 0, /too large/, "a block");
});

const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

Deno.test("scanLogs searches UTF-16 in a .gz, and an odd end of it", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log.gz");
    const wide = Buffer.from(`\ufeffa\n${KEYWORD}\nb`, "utf16le");
    await Deno.writeFile(path, gzipSync(wide.subarray(0, -1)));
    const [{ hits, error }] = await scan([path], { mode: "lines" });
    assertEquals(hits.map(({ line, text }) => [line, text]), [[2, KEYWORD]]);
    assertEquals(error, undefined);
    for (const bytes of [[0xff], [0xff, 0xfe], [0xfe, 0xff, 0]]) {
      await Deno.writeFile(path, new Uint8Array(bytes));
      const [report] = await scan([path], {});
      assertEquals([report.found, report.error], [false, undefined]);
    }
  }));

Deno.test("PartReader gives back what hits stand for, decoded as they were", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log");
    const long = `${"é".repeat(200_000)} ${KEYWORD}`;
    const log = `first\n${long}\nbetween\n${long}\nlast`;
    const cases = [
      text(log),
      gzipSync(log),
      zstdCompressSync(log),
      Buffer.from(`\ufeff${log}`, "utf16le"),
    ];
    for (const bytes of cases) {
      await Deno.writeFile(path, bytes);
      const [{ hits: [hit, other] }] = await scan([path], { mode: "lines" });
      assertEquals([hit.line, hit.offset, hit.text], [2, 6, undefined]);
      using reader = new PartReader(path);
      // In their order, one twice, back again, and one that is left early.
      for (const { offset, length } of [hit, other, other, hit, other, hit]) {
        const blocks: Uint8Array[] = [];
        for await (const block of reader.read(offset, length)) {
          blocks.push(new Uint8Array(block)); // of a Buffer, `slice` is no copy
        }
        assertEquals(Buffer.concat(blocks).toString() === long, true);
        for await (const _ of reader.read(offset, length)) break;
      }
    }
  }));

Deno.test("scanLogs reads no more than there was, and says when there is less", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log");
    await Deno.writeFile(path, text("a\n".repeat(50)));
    const query = {
      keywords: ["a"],
      ignoreCase: false,
      mode: "lines" as const,
    };
    const spans = [{ path, start: 0, end: 200 }];
    const [shrunk] = await scanSpans({ spans, query });
    assertEquals(shrunk.error, "it shrank while it was searched");
    assertEquals(shrunk.count, 50);
    const [grown] = await scanSpans({
      spans: [{ path, start: 0, end: 9 }],
      query,
    });
    assertEquals([grown.error, grown.count], [undefined, 5]);
  }));

Deno.test("scanLogs tells of a file that goes or shrinks between its parts", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a"), other = join(folder, "b");
    const many = `${KEYWORD} ${"x".repeat(30)}\n`.repeat(250_000);
    await Deno.writeTextFile(other, KEYWORD);
    const wide = Buffer.from(`\ufeff${many}`, "utf16le");
    const isGone = () => Deno.removeSync(path);
    const isCut = () => Deno.truncateSync(path, 99);
    await using pool = new Pool(service, { size: 2 });
    for (
      const [content, spoil, cause] of [
        [gzipSync(many, { level: 1 }), isGone, "No such file or directory"],
        [wide, isGone, "No such file or directory"],
        [text(many), isGone, "No such file or directory"],
        [text(many), isCut, "it shrank while it was searched"],
      ] as const
    ) {
      for (const runner of [sequential(service), pool]) {
        await Deno.writeFile(path, content);
        let spoilt = false;
        const reports: Report[] = [];
        const options = { mode: "lines", parts: true } as const;
        for await (const part of scanLogs(runner, [path, other], options)) {
          if (!spoilt) spoil();
          spoilt = true;
          reports.push(part);
        }
        const [first, last] = joined(reports);
        assertEquals([first.error, last.error], [cause, undefined]);
        assertEquals(last.count, 1);
        assertEquals(first.count, first.hits.length);
        assert(first.bytes >= 0 && first.count > 1e3, `${first.count} hits`);
      }
    }
  }));

Deno.test("scanLogs asks for small files by the hundred, once it has seen one", () =>
  withFolder(async (folder) => {
    const path = join(folder, "small.log");
    await Deno.writeTextFile(path, "fine\n");
    const inner = sequential(service);
    const counts: number[] = [];
    async function* counted(requests: AsyncIterable<ScanRequest>) {
      for await (const request of requests) {
        counts.push(request.spans.length);
        yield request;
      }
    }
    const runner = {
      apply: () => {
        throw new Error("nothing goes on");
      },
      imap: (
        job: "scanSpans",
        requests: AsyncIterable<ScanRequest>,
        options: CallOptions,
      ) => inner.imap(job, counted(requests), options),
    } as unknown as LogRunner;
    const paths = Array.from({ length: 1000 }, () => path);
    const reports = await Array.fromAsync(scanLogs(runner, paths));
    assertEquals(reports.length, paths.length);
    assertEquals(counts.reduce((sum, count) => sum + count), paths.length);
    assert(counts.length < 10, `${counts}`);
  }));

Deno.test("scanLogs cuts a file of many terabytes into spans that can be held", async () => {
  // Only sparse files are that large, and reading one takes half an hour.
  let spans = 0, end = 0;
  const runner: LogRunner = {
    apply: () => {
      throw new Error("nothing goes on");
    },
    imap: async function* (_: string, batches: AsyncIterable<ScanRequest>) {
      for await (const { spans: [first] } of batches) {
        const span = typeof first === "string" ? { start: 0 } as Span : first;
        const found = { lines: 0, count: 0, bytes: 1 };
        const size = span.start === 0 ? 8e12 : undefined;
        assertEquals(span.start, end);
        end = span.end ?? 16 << 20;
        spans++;
        yield { status: "fulfilled", value: [{ ...found, size }] };
      }
    } as unknown as LogRunner["imap"],
  };
  const [report] = await Array.fromAsync(scanLogs(runner, ["huge"]));
  assertEquals([report.bytes, end], [spans, 8e12]);
  assert(spans < 30_000, `${spans} spans`);
});

Deno.test("scanLogs gives what comes before an error of its paths", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a");
    await Deno.writeTextFile(path, KEYWORD);
    await using pool = new Pool(service, { size: 2 });
    for (const runner of [sequential(service), pool]) {
      let reports = 0;
      await assertRejects(
        async () => {
          const paths = function* () {
            for (let i = 0; i < 333; i++) yield path;
            throw new Error("no more paths");
          };
          for await (const { found } of scanLogs(runner, paths())) {
            reports += Number(found);
          }
        },
        Error,
        "no more paths",
      );
      assertEquals(reports, 333);
    }
  }));

Deno.test("scanLogs expands a bomb in little memory", () =>
  withFolder(async (folder) => {
    const path = join(folder, "bomb");
    const content = new Uint8Array(64 << 20);
    for (const member of [gzipSync(content), zstdCompressSync(content)]) {
      await Deno.writeFile(path, Buffer.concat(Array(6).fill(member)));
      const before = Deno.memoryUsage().rss;
      const [report] = await scan([path], { mode: "lines" });
      assertEquals(report.bytes, 6 * (64 << 20));
      const grown = (Deno.memoryUsage().rss - before) >> 20;
      assert(grown < 150, `${grown} MiB more`);
    }
  }));
