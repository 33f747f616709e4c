import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { labelled, type Query, Search } from "../../workers/logscan/search.ts";

const encoder = new TextEncoder();

/** A line with a hit: its number, where it begins, its length, its keywords. */
type Line = [line: number, offset: number, length: number, keywords: string];

/** Every line with a keyword, found in the slow and obvious way. */
function naive(bytes: Uint8Array, { keywords, ignoreCase }: Query): Line[] {
  const fold = (bytes: Uint8Array) => {
    const text = Array.from(bytes, (b) => String.fromCharCode(b)).join("");
    return ignoreCase
      ? text.replace(/[A-Z]/g, (letter) => letter.toLowerCase())
      : text;
  };
  const lines: Line[] = [];
  let offset = 0;
  fold(bytes).split("\n").forEach((line, i) => {
    const there = keywords.filter((k) =>
      line.includes(fold(encoder.encode(k)))
    );
    if (there.length > 0) {
      lines.push([i + 1, offset, line.length, there.join()]);
    }
    offset += line.length + 1;
  });
  return lines;
}

/** The same, found by a `Search` that gets the bytes in blocks. */
function searched(bytes: Uint8Array, query: Query, block: number): Line[] {
  const search = new Search(query, { offset: 0 }, true);
  for (let at = 0; at < bytes.length; at += block) {
    search.add(bytes.subarray(at, at + block));
  }
  search.end();
  const { hits } = search.take();
  if (!hits) return [];
  const names = hits.sets.map((set) =>
    set.map((i) => query.keywords[i]).join()
  );
  return hits.lines.map((line, i) => [
    line + 1,
    hits.offsets[i],
    hits.lengths[i],
    names[hits.keywords[i]],
  ]);
}

function check(
  bytes: Uint8Array,
  query: Partial<Query>,
  block = 1 << 20,
): void {
  const whole = { ignoreCase: false, mode: "lines" as const, ...query };
  const full = whole as Query;
  const clue = JSON.stringify([full, bytes.length, block]).slice(0, 300);
  assertEquals(searched(bytes, full, block), naive(bytes, full), clue);
}

/** A generator of the same numbers in every run. */
function randoms(seed: number): (n: number) => number {
  return (n) => (seed = seed * 48271 % 2147483647) % n;
}

Deno.test("Search finds a needle at every alignment, of every length", () => {
  for (const length of [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300]) {
    // Several words, as the two bytes that are compared first may be in two.
    const needle = "xyz w".repeat(100).slice(0, length);
    for (let at = 0; at < 140; at++) {
      const bytes = new Uint8Array(at + length + 70).fill(46);
      bytes.set(encoder.encode(needle), at);
      check(bytes, { keywords: [needle] });
      check(bytes.subarray(0, at + length), { keywords: [needle] });
      check(bytes.subarray(0, at + length - 1), { keywords: [needle] });
      check(bytes, { keywords: [needle, "no", `${needle}!`] });
      check(bytes.subarray(0, at + length), { keywords: ["q", needle] });
    }
  }
});

Deno.test("Search finds a needle of words and signs, whichever two bytes are rare", () => {
  const random = randoms(13);
  const some = (n: number) =>
    Array.from({ length: n }, () => "ab5=:. é"[random(8)]).join("");
  for (let i = 0; i < 500; i++) {
    const keyword = some(1 + random(9));
    const line = () => some(random(40)) + (random(3) ? "" : keyword);
    const text = Array.from({ length: 20 }, line).join("\n");
    check(encoder.encode(text), { keywords: [keyword] });
  }
});

Deno.test("Search can be left in the middle of a line that it does not hold", () => {
  const bytes = encoder.encode(`a hit\n${"x".repeat(1e5)}hit\nno\nhit`);
  const query = {
    keywords: ["hit"],
    ignoreCase: false,
    mode: "lines" as const,
  };
  const search = new Search(query, { offset: 0 }, true);
  search.add(bytes.subarray(0, 8e4));
  assert(search.isFull(0));
  assertEquals(search.next, 6);
  const parts = [search.take()];
  const other = new Search(query, { offset: search.next }, true);
  other.add(bytes.subarray(search.next));
  search.add(bytes.subarray(8e4)); // or continue with the same one
  for (const each of [search, other]) {
    each.end();
    parts.push(each.take());
  }
  assertEquals(
    parts.map(({ lines, hits }) => [lines, hits?.lines, hits?.offsets]),
    [[1, [0], [0]], [2, [0, 2], [6, 100013]], [2, [0, 2], [6, 100013]]],
  );
});

Deno.test("Search is not misled by what lies in the memory beyond the end", () => {
  check(encoder.encode("needle needle\n".repeat(40)), { keywords: ["needle"] });
  for (const keywords of [["needle"], ["needle", "le needle"], ["e", "n"]]) {
    check(encoder.encode("need"), { keywords });
    check(encoder.encode("needle\nneed"), { keywords });
  }
});

Deno.test("Search says which keywords a line has: nested, overlapping, dozens", () => {
  const random = randoms(5);
  const words = [
    "err",
    "error",
    "rror",
    "or d",
    "disk",
    "isk ",
    "k",
    "é",
    "éé",
  ];
  const many = Array.from({ length: 60 }, (_, i) => `k${i * 37 % 61}x`);
  for (let i = 0; i < 200; i++) {
    let log = "";
    for (let k = random(120); k > 0; k--) {
      log += random(6)
        ? `${[...words, ...many][random(69)]} `.slice(random(2))
        : "\n";
    }
    const bytes = encoder.encode(log);
    const keywords = [...words, ...many].filter(() => random(3) > 0);
    check(bytes, { keywords: keywords.length ? keywords : ["k"] });
    check(bytes, { keywords: [words[random(9)], words[random(9)]] });
    check(bytes, { keywords: [words[random(9)]] });
  }
});

Deno.test("Search ignores the case of A to Z, and of nothing else", () => {
  const random = randoms(11);
  // Each differs only in the case bit from a byte that matches.
  const letters = "aAzZ@`[{kK0\x10iI\xe9\xc9é";
  for (let i = 0; i < 400; i++) {
    const text = (n: number) =>
      Array.from({ length: n }, () => letters[random(letters.length)]).join("");
    const keywords = Array.from(
      { length: 1 + i % 4 },
      () => text(1 + random(3)).replace(/[^\0-\x7f]/g, "a"),
    );
    const bytes = encoder.encode(text(200) + "\n" + text(30));
    check(bytes, { keywords, ignoreCase: true });
    check(bytes, { keywords });
  }
});

Deno.test("Search takes any bytes, as any needle's bytes may occur", () => {
  const random = randoms(3);
  for (let i = 0; i < 200; i++) {
    const bytes = Uint8Array.from({ length: 300 }, () => random(256));
    const at = random(280);
    const part = bytes.subarray(at, at + 1 + random(3));
    if (part.some((byte) => byte > 127 || byte === 10)) continue;
    const keyword = new TextDecoder().decode(part);
    check(bytes, { keywords: [keyword] });
    check(bytes, { keywords: [keyword, "\0", "\x7f"] });
  }
});

Deno.test("Search: blocks cut anywhere make no difference", () => {
  const line = `${"x".repeat(70)}need needle\n\nneedleneedle\nlast needle`;
  const bytes = encoder.encode(line);
  for (let block = 1; block <= bytes.length; block++) {
    check(bytes, { keywords: ["needle"] }, block);
    check(bytes, { keywords: ["needle", "need ", "last"] }, block);
  }
});

Deno.test("Search: long lines, with a needle around each edge", () => {
  const LINE_MAX = 64 << 10, BLOCK = 1 << 18;
  const needle = "needle";
  for (const edge of [LINE_MAX, BLOCK, BLOCK + LINE_MAX]) {
    for (let before = -1; before <= needle.length + 1; before++) {
      const bytes = new Uint8Array(edge + 100).fill(120);
      bytes.set(encoder.encode(needle), edge - before);
      bytes.set(encoder.encode("\nb needle\n"), edge + 20);
      check(bytes, { keywords: [needle] });
      check(bytes, { keywords: [needle, "b "] }, LINE_MAX);
    }
  }
});

Deno.test("Search counts newlines whatever their number and place", () => {
  for (const length of [0, 1, 15, 16, 17, 63, 64, 65, 16319, 16321, 33000]) {
    for (const every of [1, 2, 3, 17, 255, 256]) {
      const bytes = new Uint8Array(length + 4).fill(46);
      for (let i = 0; i < length; i += every) bytes[i] = 10;
      bytes.set(encoder.encode("need"), length);
      check(bytes, { keywords: ["need"] });
    }
  }
});

Deno.test("searches that take turns do not disturb each other", () => {
  const queries = ["aa", "bb"].map((keyword): Query => ({
    keywords: [keyword, "cc"],
    ignoreCase: false,
    mode: "count",
  }));
  const searches = queries.map((query) =>
    new Search(query, { offset: 0 }, true)
  );
  for (const byte of "aa\nbb aa\nbb\ncc\naa bb\na\na") {
    for (const search of searches) search.add(encoder.encode(byte));
  }
  for (const search of searches) search.end();
  assertEquals(searches.map((search) => search.take().count), [4, 4]);
});

Deno.test("labelled gives each line with its label and number, whatever is in it", () => {
  const query: Query = { keywords: ["b"], ignoreCase: false, mode: "lines" };
  // Bytes of any kind; some lines are over 64 KiB.
  const lines = Array.from({ length: 2000 }, (_, i) => {
    const byte = String.fromCharCode(i % 256 === 10 ? 0 : i % 256);
    return `b${byte.repeat(i % 1000 === 999 ? 65_536 : i % 300)}`;
  });
  const search = new Search(query, { offset: 0 }, true);
  const text = lines.map((line) => `${line}\n\n`).join("");
  search.add(Buffer.from(text, "latin1"));
  const hits = search.take().hits!;
  for (const label of ["", "a log", "ä".repeat(3000)]) {
    for (const before of [0, 8, 99_998, 2 ** 32, 2 ** 53 - 4000]) {
      const head = Buffer.from(label).toString("latin1");
      const wanted = lines.map((line, i) =>
        line.length > 65_536 ? "" : `${head}:${before + 2 * i + 1}:${line}\n`
      );
      const long: number[] = [];
      let found = "";
      for (const run of labelled(hits, before, label)) {
        if (typeof run === "number") long.push(run);
        else found += Buffer.from(run).toString("latin1");
      }
      assertEquals(long, [999, 1999]);
      assert(found === wanted.join(""), `${label.length}, ${before}`);
    }
  }
});
