/** Character sets: what is found is what is in the decoded text. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "@std/path/join";
import { gzipSync } from "node:zlib";
import { sequential } from "../../mod.ts";
import {
  codingOf,
  encodingNamed,
  PartReader,
  type Report,
  scanLogs,
  type ScanOptions,
  service,
} from "../../workers/logscan.ts";
import { withFolder } from "../tasks/folders.ts";

/** All that the Encoding Standard has, but `replacement`, which decodes nothing. */
const ENCODINGS = [
  ...["utf-8", "ibm866", "iso-8859-2", "iso-8859-3", "iso-8859-4"],
  ...["iso-8859-5", "iso-8859-6", "iso-8859-7", "iso-8859-8", "iso-8859-8-i"],
  ...["iso-8859-10", "iso-8859-13", "iso-8859-14", "iso-8859-15"],
  ...["iso-8859-16", "koi8-r", "koi8-u", "macintosh", "windows-874"],
  ...["windows-1250", "windows-1251", "windows-1252", "windows-1253"],
  ...["windows-1254", "windows-1255", "windows-1256", "windows-1257"],
  ...["windows-1258", "x-mac-cyrillic", "gbk", "gb18030", "big5", "euc-jp"],
  ...["iso-2022-jp", "shift_jis", "euc-kr", "utf-16be", "utf-16le"],
  "x-user-defined",
];

async function scan(path: string, options: ScanOptions): Promise<Report> {
  const reports = scanLogs(sequential(service), [path], options);
  const [report] = await Array.fromAsync(reports);
  return report;
}

/** Numbers below a limit that are the same in every run. */
function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return (state >>> 8) % limit;
  };
}

/** What stands for one printable character each. */
function charactersOf(encoding: string): Uint8Array[] {
  const decoder = new TextDecoder(encoding);
  const isOne = (bytes: Uint8Array) =>
    /^[^\p{Cc}\ufffd\ufeff]$/u.test(decoder.decode(bytes));
  const ones = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  const pairs = ones.flatMap(([first]) =>
    [0x21, 0x41, 0x5c, 0x61, 0x80, 0xa1, 0xb1, 0xc2, 0xd3, 0xe4]
      .map((second) => Uint8Array.of(first, second))
  );
  return [...ones, ...pairs].filter(isOne);
}

/** Lines of a character set, with `\n` between them. */
function linesOf(encoding: string, next: (limit: number) => number): number[] {
  const characters = charactersOf(encoding);
  const wide = characters.filter(({ length }) => length === 2);
  const bytes: number[] = [];
  for (let line = 0; line < 60; line++) {
    for (let count = next(20); count > 0; count--) {
      const some = wide.length > 0 && next(2) > 0 ? wide : characters;
      bytes.push(...some[next(some.length)]);
      if (encoding === "iso-2022-jp" && next(9) === 0) {
        bytes.push(0x1b, 0x24, 0x42); // "$B", then pairs, then ASCII again
        for (let pair = next(6); pair >= 0; pair--) {
          bytes.push(0x30 + next(16), 0x21 + next(90));
        }
        bytes.push(0x1b, 0x28, 0x42);
      }
    }
    if (encoding === "utf-16be") bytes.push(0);
    bytes.push(10);
    if (encoding === "utf-16le") bytes.push(0);
  }
  return bytes;
}

Deno.test("scanLogs finds in each character set what is in the decoded text", (t) =>
  withFolder(async (folder) => {
    for (const encoding of ENCODINGS) {
      await t.step(encoding, async () => {
        assertEquals(encodingNamed(encoding), encoding);
        for (let seed = 1; seed <= 3; seed++) {
          const next = random(seed);
          const bytes = Uint8Array.from(linesOf(encoding, next));
          const decoder = new TextDecoder(encoding);
          const lines = decoder.decode(bytes).split("\n");
          lines.pop();
          const texts = lines.filter((line) => line.length > 3);
          const keywords = Array.from({ length: 5 }, (_, i) => {
            const line = [...texts[next(texts.length)]];
            const start = next(line.length);
            return line.slice(start, start + 1 + i).join("");
          }).filter((keyword) => !keyword.includes("\r"));
          const path = join(folder, "log"), packed = join(folder, "log.gz");
          Deno.writeFileSync(path, bytes);
          Deno.writeFileSync(packed, gzipSync(bytes));
          for (const some of [keywords, keywords.slice(0, 1)]) {
            const wanted = lines.flatMap((line, i) =>
              some.some((keyword) => line.includes(keyword)) ? [i + 1] : []
            );
            const options = {
              keywords: some,
              encoding,
              mode: "lines",
            } as const;
            for (const each of [path, packed]) {
              const { count, error, hits } = await scan(each, options);
              const clue = `${seed} ${JSON.stringify(some)} ${each}`;
              assertEquals(error, undefined, clue);
              assertEquals(hits.map(({ line }) => line), wanted, clue);
              assertEquals(
                hits.map(({ text }) => text),
                wanted.map((line) => lines[line - 1]),
                clue,
              );
              assertEquals(count, wanted.length);
            }
            // The same with the file decoded, as it has to be for this.
            const words = await scan(path, { ...options, ignoreCase: true });
            assert(words.count >= wanted.length);
          }
        }
      });
    }
  }));

Deno.test("keywords are searched as bytes where that is exact, and only there", () => {
  const cases: [name: string, keyword: string, isEncoded: boolean][] = [
    ["latin1", "café", true],
    ["windows-1251", "отказ", true],
    ["macintosh", "café", true],
    ["latin1", "отказ", false], // no byte stands for it
    ["shift_jis", "a", false], // it may be the second byte of a character
    ["euc-kr", "a", false],
    ["utf-8", "é", false], // as without a character set
  ];
  for (const [name, keyword, isEncoded] of cases) {
    const encoding = encodingNamed(name);
    const coding = codingOf(encoding, { keywords: ["a", keyword] });
    assertEquals(coding.isEncoded ?? false, isEncoded, `${name} ${keyword}`);
    const others = { keywords: ["a"], ignoreCase: true };
    assertEquals(codingOf(encoding, others).isEncoded, undefined);
  }
  assertEquals(codingOf(encodingNamed("auto"), { keywords: ["a"] }), {});
  assertThrows(() => encodingNamed("latin-99"), RangeError);
});

Deno.test("scanLogs refuses a character set that there is not", async () => {
  await assertRejects(() => scan("x", { encoding: "latin-99" }), RangeError);
});

function utf16(text: string, isBig = false): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(2 * text.length);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < text.length; i++) {
    view.setUint16(2 * i, text.charCodeAt(i), !isBig);
  }
  return bytes;
}

Deno.test("scanLogs notices UTF-16 without a byte-order mark, and nothing else", () =>
  withFolder(async (folder) => {
    const path = join(folder, "log");
    const search = async (bytes: Uint8Array, keyword: string) => {
      Deno.writeFileSync(path, bytes);
      const found = await scan(path, { keywords: [keyword] });
      Deno.writeFileSync(path, gzipSync(bytes));
      const packed = await scan(path, { keywords: [keyword] });
      assertEquals(packed, found);
      return found.found;
    };
    const texts = [
      "key!",
      "2026-01-01 key\r\nx\n",
      "日本語 2026-01-01 12:00:00 key 一一一\n".repeat(999),
      "\x1b[31mkey\x1b[0m\t😀\n",
      `${"x".repeat(300_000)}\nkey\n`,
      `${"a".repeat(2047)}😀 key\n`, // a pair at the sample's end
    ];
    for (const text of texts) {
      for (const isBig of [false, true]) {
        const clue = `${text.slice(0, 20)} ${isBig}`;
        assertEquals(await search(utf16(text, isBig), "key"), true, clue);
        // As it is, it would be found only as what it is not.
        assertEquals(await search(utf16(text, isBig), "k\0e"), false, clue);
      }
    }
    const others: Record<string, Uint8Array> = {
      "numbers": Uint8Array.from({ length: 9999 }, (_, i) => i & 1 ? 0 : i / 2),
      "words with NULs": new TextEncoder().encode("ab\0cd\0ef\0key\0\0k\0e"),
      "UTF-32": Uint8Array.from("some key", (c) => c.charCodeAt(0)).reduce(
        (all, byte, i) => (all[4 * i] = byte, all),
        new Uint8Array(32),
      ),
      "a program": Deno.readFileSync("/bin/sh").subarray(0, 50_000),
      "text and a NUL": new TextEncoder().encode("a key is here\0k\0e\n"),
    };
    for (const [name, bytes] of Object.entries(others)) {
      const raw = new TextDecoder("latin1").decode(bytes);
      for (const keyword of ["key", "k\0e", "\0\0"]) {
        const isThere = raw.split("\n").some((l) => l.includes(keyword));
        assertEquals(
          await search(bytes, keyword),
          isThere,
          `${name} ${keyword}`,
        );
      }
    }
    // The rest of a long line is read as the line was, which its beginning misleads.
    const mixed = `${"k\0e\0y\0!\0".repeat(9)}${"x".repeat(90_000)} key`;
    Deno.writeTextFileSync(path, mixed);
    const { hits: [long] } = await scan(path, { keywords: ["key"] });
    using reader = new PartReader(path);
    const parts = await Array.fromAsync(reader.read(long.offset, long.length));
    assertEquals(
      parts.reduce((sum, { length }) => sum + length, 0),
      mixed.length,
    );
    // What the user says counts more, but for a byte-order mark.
    Deno.writeFileSync(path, utf16("key"));
    const encoding = "windows-1252";
    assert((await scan(path, { keywords: ["k\0e"], encoding })).found);
    Deno.writeFileSync(path, utf16("\ufeffkey é"));
    const { hits } = await scan(path, { keywords: ["é"], encoding });
    assertEquals(hits[0].text, "key é");
  }));

Deno.test("PartReader gives lines that are too long to be held in UTF-8", () =>
  withFolder(async (folder) => {
    const line = `é${"ü".repeat(70_000)} key`;
    const text = `x\n${line}\nkey\n${line}\n`;
    const latin = Uint8Array.from(text, (c) => c.charCodeAt(0));
    const options = { keywords: ["key"], mode: "lines" as const };
    for (
      const [encoding, bytes] of [
        ["windows-1252", latin],
        ["windows-1252", gzipSync(latin)],
        ["windows-1252", utf16(`\ufeff${text}`)],
        ["auto", utf16(text, true)],
      ] as const
    ) {
      const path = join(folder, "log");
      Deno.writeFileSync(path, bytes);
      const { hits } = await scan(path, { ...options, encoding });
      assertEquals(hits.map(({ line }) => line), [2, 3, 4]);
      assertEquals(hits.map(({ text }) => text), [undefined, "key", undefined]);
      const coding = codingOf(encodingNamed(encoding), options);
      using reader = new PartReader(path, coding);
      for (const { offset, length } of [hits[0], hits[2], hits[0]]) {
        let read = "";
        const decoder = new TextDecoder();
        for await (const block of reader.read(offset, length)) {
          read += decoder.decode(block, { stream: true });
        }
        assert(read === line, `${encoding}: ${read.length}`);
      }
    }
  }));
