/** What is compressed, by the tools that people compress with. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path/join";
import { Pool, sequential } from "../../mod.ts";
import { type Query, scanLogs, service } from "../../workers/logscan.ts";
import { searchDecoded, type SpanReport } from "../../workers/logscan/scan.ts";
import { withFolder } from "../tasks/folders.ts";

const KEYWORD = "unauthorized access";

const encode = (text: string) => new TextEncoder().encode(text);

function concat(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Runs a tool on some bytes; undefined if it is not installed. */
async function tool(
  [command, ...args]: string[],
  input: Uint8Array,
): Promise<Uint8Array | undefined> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(command, {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
  } catch {
    console.warn(`NOT TESTED: what ${command} makes, which is not installed`);
    return;
  }
  const writer = child.stdin.getWriter();
  // It may fail before it has read all.
  writer.write(input).then(() => writer.close()).catch(() => {});
  return (await child.output()).stdout;
}

/** Numbers that are the same in every run. */
function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  let state = seed;
  return Uint8Array.from({ length }, () => {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return state >>> 24;
  });
}

/** Lines, of which every third has the keyword. */
function linesOf(count: number): Uint8Array<ArrayBuffer> {
  const lines = Array.from(
    { length: count },
    (_, i) => i % 3 === 1 ? `${i} ${KEYWORD} ${i * i}\n` : `${i * 7919} fine\n`,
  );
  return encode(lines.join("")) as Uint8Array<ArrayBuffer>;
}

const count = (bytes: Uint8Array) =>
  new TextDecoder("latin1").decode(bytes).split(KEYWORD).length - 1;

/** Searches bytes as a pipe gives them, at most so many at a time. */
async function search(
  bytes: Uint8Array,
  most = Infinity,
  mode: Query["mode"] = "count",
  first = false,
): Promise<SpanReport[]> {
  let at = 0;
  const read = (into: Uint8Array) => {
    if (at === bytes.length) return null;
    const part = bytes.subarray(at, at + Math.min(most, into.length));
    into.set(part);
    at += part.length;
    return part.length;
  };
  const query: Query = { keywords: [KEYWORD], mode, first };
  const from = { content: 0, offset: 0 };
  return await Array.fromAsync(searchDecoded({ read }, query, from));
}

/** The sum of what was found, and the first error. */
function sumOf(reports: SpanReport[]): [count: number, error?: string] {
  const sum = reports.reduce((sum, { count }) => sum + count, 0);
  return [sum, reports.find(({ error }) => error !== undefined)?.error];
}

/** How each format is made, and undone up to the damage. */
const TOOLS: Record<string, { pack: string[][]; unpack: string[] }> = {
  gzip: { pack: [["gzip", "-c"], ["gzip", "-1c"]], unpack: ["gzip", "-dc"] },
  zstd: {
    pack: [["zstd", "-c"], ["zstd", "-19c", "--no-check"], ["pzstd", "-c"]],
    unpack: ["zstd", "-dc"],
  },
  bzip2: {
    pack: [["bzip2", "-c"], ["bzip2", "-1c"], ["pbzip2", "-1c"]],
    unpack: ["bzip2", "-dc"],
  },
  xz: {
    pack: [
      ["xz", "-c"],
      ["xz", "-9c", "-Ccrc32"],
      ["xz", "-0c", "-Cnone", "--block-size=100000"],
    ],
    unpack: ["xz", "-dc"],
  },
  lz4: {
    pack: [
      ["lz4", "-c"],
      ["lz4", "-9c", "-B4", "-BD", "-BX"],
      ["lz4", "-c", "-B5", "--no-frame-crc", "--content-size"],
      ["lz4", "-cl"],
    ],
    unpack: ["lz4", "-dc"],
  },
};

Deno.test("scanLogs searches what gzip, zstd, bzip2, xz and lz4 have packed", async (t) => {
  const contents: Record<string, Uint8Array> = {
    "nothing": new Uint8Array(0),
    "a line": encode(`${KEYWORD}\n`),
    "lines": linesOf(9_000),
    "runs": concat(
      new Uint8Array(1_000_000).fill(97),
      ...Array.from({ length: 270 }, (_, i) => new Uint8Array(i).fill(i)),
      linesOf(9),
    ),
    "noise": concat(noise(300_000), encode("\n"), linesOf(30)),
  };
  for (const [format, { pack }] of Object.entries(TOOLS)) {
    for (const command of pack) {
      await t.step(command.join(" "), async () => {
        for (const [name, content] of Object.entries(contents)) {
          const packed = await tool(command, content);
          if (!packed || packed.length === 0) return; // not installed
          const wanted = count(content);
          for (const most of [Infinity, 4001]) {
            const reports = await search(packed, most);
            assertEquals(sumOf(reports), [wanted, undefined], name);
            assertEquals(reports[0].bytes, content.length, name);
          }
          if (content.length > 1000) continue;
          // Several in a row, with zeros between and behind them.
          const zeros = new Uint8Array(512);
          const several = concat(packed, packed, zeros, packed, zeros);
          assertEquals(sumOf(await search(several)), [3 * wanted, undefined]);
          const [found, error] = sumOf(
            await search(concat(packed, encode("this is not packed at all"))),
          );
          assertEquals(found, wanted);
          assertMatch(`${error}`, /follows|header|damaged/, format);
        }
      });
    }
  }
});

Deno.test("scanLogs finds what stands before the end of what is cut anywhere", async (t) => {
  const content = linesOf(40);
  for (const [format, { pack, unpack }] of Object.entries(TOOLS)) {
    await t.step(format, async () => {
      const whole = await tool(pack[0], content);
      if (!whole) return;
      let last = 0;
      for (let size = 0; size <= whole.length; size++) {
        const cut = whole.subarray(0, size);
        const [found, error] = sumOf(await search(cut));
        const clue = `${size} of ${whole.length} bytes`;
        assert(found >= last, `${found} and not ${last} in ${clue}`);
        last = found;
        const isRecognized = size >= 10;
        if (size === whole.length) assertEquals(error, undefined);
        else if (isRecognized) assertMatch(`${error}`, /unexpected end/, clue);
        if (size % 50 > 0) continue;
        // XZ Embedded leaves the last 21 bytes alone that may be cut off.
        const isXz = format === "xz";
        const undone = await tool(unpack, isXz ? cut.subarray(0, -21) : cut);
        assert(found >= count(undone!), clue);
      }
      assertEquals(last, count(content));
    });
  }
});

/** A copy with a bit of it flipped, behind the bytes that tell the format. */
function flipped(bytes: Uint8Array, seed: number): Uint8Array {
  const copy = bytes.slice();
  const [high, low, bit] = noise(3, seed);
  copy[10 + (high << 8 | low) % (copy.length - 10)] ^= 1 << (bit & 7);
  return copy;
}

Deno.test("scanLogs survives a thousand flipped bits of each format", async (t) => {
  const content = linesOf(60);
  const wanted = count(content);
  for (const [format, { pack }] of Object.entries(TOOLS)) {
    await t.step(format, async () => {
      const whole = await tool(pack[0], content);
      if (!whole) return;
      let missed = 0;
      for (let seed = 1; seed <= 1000; seed++) {
        const reports = await search(flipped(whole, seed * 7919));
        const [found, error] = sumOf(reports);
        // All of them have checksums.
        if (found !== wanted && error === undefined) missed++;
      }
      assertEquals(missed, 0);
    });
  }
});

Deno.test("scanLogs reports what is compressed by its name only, unless it is a text", () =>
  withFolder(async (folder) => {
    const errorsOf = async (name: string, bytes: Uint8Array) => {
      const path = join(folder, name);
      Deno.writeFileSync(path, bytes);
      const options = { keywords: ["fine"], mode: "count" as const };
      const reports = scanLogs(sequential(service), [path], options);
      const [{ count, error }] = await Array.fromAsync(reports);
      return [count, error];
    };
    const endings = { gzip: "gz", zstd: "zst", bzip2: "bz2", xz: "xz" };
    for (const [format, ending] of Object.entries({ ...endings, lz4: "lz4" })) {
      const whole = await tool(TOOLS[format].pack[0], linesOf(60));
      if (!whole) continue;
      const name = `a.log.${ending}`;
      for (let size = 1; size < 10; size++) {
        const [, error] = await errorsOf(name, whole.subarray(0, size));
        assertEquals(error, "unexpected end of file", `${size} bytes, ${name}`);
      }
      for (let bit = 0; bit < 16; bit++) {
        const damaged = whole.slice();
        damaged[bit >> 3] ^= 1 << (bit & 7);
        const clue = `bit ${bit} of ${name}`;
        assert((await errorsOf(name, damaged))[1] !== undefined, clue);
        assertEquals((await errorsOf("a.log", damaged))[1], undefined, clue);
      }
      const { length } = encode("fine");
      const mixed = concat(encode("fine"), new Uint8Array(1), whole);
      const [count, error] = await errorsOf(name, mixed);
      assert(Number(count) >= 1, "what is there is searched");
      assertMatch(`${error}`, /not what it is called/);
      const text = concat(encode("fine\tand é\x1b[0m\r\n"), linesOf(9));
      assertEquals(await errorsOf(name, text), [7, undefined]);
      assertEquals(await errorsOf(name, text.subarray(0, 0)), [0, undefined]);
      assertEquals(await errorsOf(name, text.subarray(0, length)), [
        1,
        undefined,
      ]);
    }
  }));

Deno.test("scanLogs says why it cannot search what xz and zstd have packed", async (t) => {
  const content = linesOf(300);
  const file = await Deno.makeTempFile();
  Deno.writeFileSync(file, concat(content, content));
  const dictionary = await Deno.makeTempFile();
  await tool(
    ["zstd", "-qf", "--train", "-B100", file, "-o", dictionary],
    content,
  );
  const filters = /^it has filters or checksums .*: decompress it first$/;
  const cases: [command: string[], error: RegExp][] = [
    [["xz", "-cCsha256"], filters],
    [["xz", "-c", "--x86", "--lzma2"], filters],
    [["xz", "-c", "--delta", "--lzma2"], filters],
    [["xz", "-c", "--lzma2=dict=96MiB"], /more than 64 MiB .* first$/],
    [["zstd", "-cD", dictionary], /^it needs a dictionary$/],
  ];
  for (const [command, wanted] of cases) {
    await t.step(command.join(" "), async () => {
      const packed = await tool(command, content);
      if (!packed) return;
      const [found, error] = sumOf(await search(packed));
      assertEquals(found, 0);
      assertMatch(`${error}`, wanted);
    });
  }
  await Promise.all([file, dictionary].map((path) => Deno.remove(path)));
});

Deno.test("scanLogs reports a damaged run of bzip2 that has no end", async () => {
  // A block whose only table has codes of one bit for the two digits of runs: all
  // that follows are digits, so that the run's length grows without a limit.
  const bits = [
    ...["314159265359", "00000000"].map((hex) =>
      [...hex].map((digit) => parseInt(digit, 16).toString(2).padStart(4, "0"))
        .join("")
    ),
    ...["0", "0".repeat(24)], // not randomized, and its origin
    ...["1000000000000000", "1000000000000000"], // only the byte 0 occurs
    ...["010", "111111111111111", "0".repeat(32767)], // two tables, selectors
    ...["00001", "0", "0", "100"].slice(0, 1), // lengths of three codes: 1, 2, 2
    ...["0", "100", "0"],
    ...["00001", "0", "100", "0"],
    "0".repeat(400_000),
  ].join("");
  const bytes = Uint8Array.from(
    { length: bits.length >> 3 },
    (_, i) => parseInt(bits.slice(8 * i, 8 * i + 8), 2),
  );
  const [, error] = sumOf(await search(concat(encode("BZh9"), bytes)));
  assertEquals(error, "a block is damaged");
});

Deno.test("scanLogs reports lengths of codes in bzip2 that go up and down for ever", async () => {
  const start = Uint8Array.fromBase64(
    "QlpoOTFBWSZTWQAAAAAAAABAAEAAIAAi3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d",
  );
  const ever = new Uint8Array(20_000_000).fill(0xbb);
  const [{ error }] = await search(concat(start, ever));
  assertEquals(error, "a block is damaged");
});

// zip

/** Makes an archive of files by a tool; undefined if it is not installed. */
async function archive(
  folder: string,
  [command, ...args]: string[],
): Promise<Uint8Array | undefined> {
  try {
    const { success, stdout } = await new Deno.Command(command, {
      args,
      cwd: folder,
    }).output();
    assert(success, `${command} ${args}`);
    const path = join(folder, "made.zip");
    const isFile = args.includes("made.zip");
    const bytes = isFile ? Deno.readFileSync(path) : stdout;
    if (isFile) Deno.removeSync(path);
    return bytes;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.warn(`NOT TESTED: archives by ${command}, which is not installed`);
  }
}

/** Python writes archives without going back, as programs that stream them do. */
const PYTHON = `
import io, sys, zipfile
class Pipe(io.RawIOBase):
    def writable(self): return True
    def write(self, data): return sys.stdout.buffer.write(data)
method, zip64 = int(sys.argv[1]), sys.argv[2] == "64"
with zipfile.ZipFile(Pipe(), "w", method) as z:
    for name in sys.argv[3:]:
        with z.open(name, "w", force_zip64=zip64) as f:
            f.write(open(name, "rb").read())
`;

const MEMBERS: Record<string, Uint8Array> = {
  "a.log": encode(`a\n${KEYWORD}\n`),
  "sub/b c.log": linesOf(3000),
  "sub/ü.log": encode(`x PK\x03\x04 ${KEYWORD}\nPK\x07\x08 ${KEYWORD}`),
  "empty": new Uint8Array(0),
  "noise": concat(noise(150_000), encode(`\n${KEYWORD}\n`)),
};

async function withMembers(
  use: (folder: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    Deno.mkdirSync(join(folder, "sub"));
    for (const [name, content] of Object.entries(MEMBERS)) {
      Deno.writeFileSync(join(folder, name), content);
    }
    await use(folder);
  });
}

const NAMES = Object.keys(MEMBERS);
const ZIPS: string[][] = [
  ["zip", "-qr", "made.zip", ...NAMES, "sub"],
  ["zip", "-q0", "made.zip", ...NAMES],
  ["zip", "-q", "-Z", "bzip2", "made.zip", ...NAMES],
  ["zip", "-qfd", "made.zip", ...NAMES],
  ["zip", "-q", "-", ...NAMES],
  ["zip", "-q", "-fz", "made.zip", ...NAMES],
  ["7z", "a", "-tzip", "-bso0", "made.zip", ...NAMES],
  ["7z", "a", "-tzip", "-mm=BZip2", "-bso0", "made.zip", ...NAMES],
  ["bsdtar", "-caf", "made.zip", ...NAMES],
  ...["0", "8", "12"].flatMap((method) =>
    ["32", "64"].map((
      bits,
    ) => ["python3", "-c", PYTHON, method, bits, ...NAMES])
  ),
];

Deno.test("scanLogs searches the members of a zip archive", (t) =>
  withMembers(async (folder) => {
    for (const command of ZIPS) {
      const name = command.filter((word) => !word.includes("\n")).join(" ");
      await t.step(name, async () => {
        const bytes = await archive(folder, command);
        if (!bytes) return;
        for (const most of [Infinity, 1000]) {
          const reports = await search(bytes, most);
          const { member, error } = reports.pop()!; // of the archive itself
          assertEquals([member, error], [undefined, undefined]);
          const found = reports.map(({ member, count, bytes, error }) =>
            [member, count, bytes, error] as const
          );
          const wanted = NAMES.map((name) =>
            [
              name,
              count(MEMBERS[name]),
              MEMBERS[name].length,
              undefined,
            ] as const
          );
          assertEquals(found.sort(), wanted.sort());
        }
        // Each member ends with its first hit, or all of them.
        for (const first of [false, true]) {
          const some = await search(bytes, Infinity, "found", first);
          assertEquals(sumOf(some), [first ? 1 : 4, undefined]);
          assertEquals(some.length, first ? 2 : NAMES.length + 1);
        }
      });
    }
  }));

Deno.test("scanLogs gives a report per member, then one of the archive, with every runner", () =>
  withMembers(async (folder) => {
    const bytes = await archive(folder, ZIPS[0]);
    if (!bytes) return;
    const inner = join(folder, "inner.zip");
    Deno.writeFileSync(inner, bytes);
    const outer = await archive(
      folder,
      ["zip", "-q", "made.zip", "a.log", "inner.zip"],
    );
    Deno.writeFileSync(join(folder, "outer.zip"), outer!);
    const paths = ["a.log", "outer.zip", "inner.zip"]
      .map((name) => join(folder, name));
    const wanted = [
      ...[["a.log", undefined, 1], ["outer.zip", "a.log", 1]],
      ...NAMES.map((
        name,
      ) => ["outer.zip", `inner.zip:${name}`, count(MEMBERS[name])]),
      ["outer.zip", undefined, 0],
      ...NAMES.map((name) => ["inner.zip", name, count(MEMBERS[name])]),
      ["inner.zip", undefined, 0],
    ];
    const all = wanted.reduce((sum, [, , count]) => sum + Number(count), 0);
    wanted.find(([path, name]) => path === "outer.zip" && !name)![2] = all / 2 |
      0;
    wanted.at(-1)![2] = (all - 2) / 2;
    await using pool = new Pool(service, { size: 2 });
    for (const runner of [pool, sequential(service)]) {
      const reports = await Array.fromAsync(
        scanLogs(runner, paths, { mode: "lines" }),
      );
      const found = reports.map(({ path, member, count }) => [
        path.slice(folder.length + 1),
        member,
        count,
      ]);
      assertEquals(found, wanted);
      const archives = reports.filter(({ isArchive }) => isArchive);
      assertEquals(archives.map(({ member }) => member), [
        undefined,
        undefined,
      ]);
    }
  }));

Deno.test("scanLogs reports a zip archive at the end of a program, which is searched as it is", () =>
  withMembers(async (folder) => {
    const packed = await archive(folder, ["zip", "-q", "made.zip", ...NAMES]);
    if (!packed) return;
    const comment = encode("PK\x05\x06 and more");
    const commented = concat(packed, comment);
    commented[packed.length - 2] = comment.length;
    const path = join(folder, "program");
    const cause = "the zip archive at its end is not searched: unpack it first";
    const text = encode(`\n${KEYWORD}\n`);
    const starts = [encode("#!/bin/sh"), encode("MZ"), encode("\x7fELF")];
    for (const start of [...starts, encode("a text")]) {
      const isProgram = starts.includes(start);
      const error = isProgram ? cause : undefined;
      for (const stub of [text, concat(text, noise(300_000), text)]) {
        const cases: [end: Uint8Array, error?: string][] = [
          [packed, error],
          [commented, error],
          [commented.subarray(0, -1)],
          [new Uint8Array(0)],
        ];
        for (const [end, wanted] of cases) {
          Deno.writeFileSync(path, concat(start, stub, end));
          const options = { keywords: [KEYWORD], mode: "count" as const };
          const reports = scanLogs(sequential(service), [path], options);
          const [report] = await Array.fromAsync(reports);
          assertEquals(report.error, wanted);
          assertEquals(report.count, count(concat(stub, end)));
        }
      }
    }
  }));

Deno.test("scanLogs says which members of an archive it cannot search", (t) =>
  withMembers(async (folder) => {
    const cases: [command: string[], error: RegExp, count: number][] = [
      [
        ["zip", "-qP", "x", "made.zip", "a.log", "empty"],
        /^it is encrypted$/,
        2,
      ],
      [["zip", "-qP", "x", "-", "a.log"], /^it is encrypted$/, 1],
      [
        [
          "7z",
          "a",
          "-tzip",
          "-mm=Deflate64",
          "-bso0",
          "made.zip",
          "sub/b c.log",
        ],
        /^Deflate64 is not supported/,
        1,
      ],
      [
        ["7z", "a", "-tzip", "-mm=LZMA", "-bso0", "made.zip", "sub/b c.log"],
        /^LZMA is not supported/,
        1,
      ],
      [
        [
          ...["7z", "a", "-tzip", "-pX", "-mem=AES256", "-bso0", "made.zip"],
          "a.log",
        ],
        /^it is encrypted$/,
        1,
      ],
    ];
    for (const [command, error, count] of cases) {
      await t.step(command.join(" "), async () => {
        const bytes = await archive(folder, command);
        if (!bytes) return;
        const good = await archive(folder, ["zip", "-q", "made.zip", "a.log"]);
        // What follows is searched all the same.
        const reports = await search(concat(bytes, good!));
        const errors = reports.map(({ error }) => error).filter((each) => each);
        assertEquals(errors.length, count, errors.join());
        assertMatch(errors[0]!, error);
        assertEquals(sumOf(reports)[0], 1);
      });
    }
  }));

Deno.test("scanLogs searches a zip that is cut anywhere up to there, and survives flipped bits", () =>
  withFolder(async (folder) => {
    for (const i of [1, 2, 3]) {
      Deno.writeFileSync(join(folder, `${i}`), linesOf(15 * i));
    }
    for (const name of ["made.zip", "-"]) {
      const whole = await archive(folder, ["zip", "-q", name, "1", "2", "3"]);
      if (!whole) return;
      const wanted = 5 + 10 + 15;
      let last = 0;
      for (let size = 10; size <= whole.length; size++) {
        const reports = await search(whole.subarray(0, size));
        const [found, error] = sumOf(reports);
        assert(found >= last, `${found} and not ${last} in ${size} bytes`);
        last = found;
        const errors = reports.filter(({ error }) => error !== undefined);
        assert(errors.length <= 1, `${errors.length} errors in ${size} bytes`);
        if (size === whole.length) assertEquals(error, undefined);
        else assertMatch(`${error}`, /unexpected end/, `${size} bytes`);
      }
      assertEquals(last, wanted);
      const directory = 3 * 76 + 22; // nobody needs it
      let missed = 0;
      for (let seed = 1; seed <= 500; seed++) {
        const part = flipped(
          whole.subarray(0, whole.length - directory),
          seed * 31,
        );
        const bytes = concat(part, whole.subarray(whole.length - directory));
        const [found, error] = sumOf(await search(bytes));
        if (found !== wanted && error === undefined) missed++;
      }
      assertEquals(missed, 0);
    }
  }));

Deno.test("scanLogs does not unpack for ever what holds itself", async () => {
  const { gzipSync } = await import("node:zlib");
  const pack = (content: Uint8Array, times: number) => {
    for (; times > 0; times--) content = new Uint8Array(gzipSync(content));
    return content;
  };
  const line = encode(KEYWORD);
  assertEquals(sumOf(await search(pack(line, 4))), [1, undefined]);
  const [found, error] = sumOf(await search(pack(line, 5)));
  assertEquals([found, error], [0, "it is packed more than 4 times over"]);
});

Deno.test("scanLogs expands bombs of each format in little memory", async (t) => {
  const content = new Uint8Array(16 << 20);
  for (const [format, { pack }] of Object.entries(TOOLS)) {
    await t.step(format, async () => {
      const packed = await tool(pack[0], content);
      if (!packed) return;
      const times = format === "bzip2" ? 3 : 8;
      const before = Deno.memoryUsage().rss;
      const [{ bytes, error }] = await search(
        concat(...Array(times).fill(packed)),
        Infinity,
        "lines",
      );
      assertEquals([bytes, error], [times * content.length, undefined]);
      const grown = (Deno.memoryUsage().rss - before) >> 20;
      assert(grown < 60, `${grown} MiB more`);
    });
  }
});
