import { assert, assertEquals } from "@std/assert";
import { type Query, Search } from "../../workers/logscan/search.ts";

const encoder = new TextEncoder();

/** A generator of the same numbers in every run. */
function randoms(seed: number): (n: number) => number {
  return (n) => (seed = seed * 48271 % 2147483647) % n;
}
type Random = ReturnType<typeof randoms>;

const pick = <T>(random: Random, from: ArrayLike<T>): T =>
  from[random(from.length)];

const latin1 = (text: string) =>
  Array.from(encoder.encode(text), (byte) => String.fromCharCode(byte)).join(
    "",
  );

/** Which keywords each line has, found in the slow and obvious way. */
function naive(text: string, keywords: string[]): string[] {
  const lines = latin1(text).split("\n"), needles = keywords.map(latin1);
  return lines.map((line) => {
    const there: number[] = [];
    needles.forEach((needle, i) => line.includes(needle) && there.push(i));
    return there.join();
  });
}

/** The same, by a `Search` that gets the text in blocks. */
function searched(text: string, query: Query, block: number): string[] {
  const bytes = encoder.encode(text);
  const search = new Search(query, { offset: 0 }, true);
  for (let at = 0; at < bytes.length; at += block) {
    search.add(bytes.subarray(at, at + block));
  }
  search.end();
  const { hits } = search.take();
  const lines = text.split("\n").map(() => "");
  hits?.lines.forEach((line, i) => {
    lines[line] = hits.sets[hits.keywords[i]].join();
  });
  return lines;
}

function check(
  clue: string,
  keywords: string[],
  text: string,
  blocks = [1 << 20],
) {
  const wanted = naive(text, keywords);
  for (const block of blocks) {
    const query: Query = { keywords, mode: "lines", ignoreCase: false };
    const found = searched(text, query, block);
    const i = found.findIndex((each, i) => each !== wanted[i]);
    const line = i < 0 ? "" : text.split("\n")[i];
    const shown = `${clue}, blocks of ${block}, line ${i}: ${line}`;
    assertEquals(found[i], wanted[i], shown.slice(0, 2000));
    const search = new Search({ ...query, mode: "count" }, { offset: 0 }, true);
    search.add(encoder.encode(text));
    search.end();
    const count = wanted.filter((line) => line !== "").length;
    assertEquals(search.take().count, count, clue);
  }
}

/** A text of pieces of the keywords, whole and cut, among other things. */
function textOf(random: Random, keywords: string[], pieces: number): string {
  let text = "";
  for (let i = 0; i < pieces; i++) {
    const keyword = pick(random, keywords);
    const at = random(keyword.length);
    text += random(4) === 0
      ? keyword
      : keyword.slice(at, at + 1 + random(keyword.length - at));
    text += pick(random, ["", "", "", " ", "\n", "x", "é"]);
  }
  return text;
}

const letters = (random: Random, alphabet: string, length: number) =>
  Array.from({ length }, () => pick(random, [...alphabet])).join("");

/** Lists of a kind, of so many keywords. */
const KINDS: Record<string, (random: Random, i: number) => string> = {
  "of 1 to 300 bytes": (random) =>
    letters(random, "abcdefghij é:", 1 + random(random(10) ? 20 : 300)),
  "short": (random) => letters(random, "abc", 1 + random(6)),
  "of two letters": (random) => letters(random, "ab", 1 + random(20)),
  "with the same four bytes": (_, i) => `aaaa${i}aaaa`,
  "with a long common beginning": (_, i) => `${"path/".repeat(20)}${i}`,
  "nested": (_, i) => "ab".repeat(150).slice(0, 1 + i % 300),
  "nested at the end": (_, i) => `${"a".repeat(i % 300)}b`,
  "equal but for case": (_, i) =>
    Array.from(
      "abcdefghijklmno",
      (c, bit) => i >> bit & 1 ? c.toUpperCase() : c,
    ).join(""),
  "binary": (random) =>
    letters(random, "\0\x01\x02\t\r\x7f\x1b\u0080\u{10ffff}", 1 + random(30)),
  "addresses": (random) =>
    Array.from({ length: 4 }, () => random(256)).join("."),
  "all the same": () => "the same",
};

Deno.test("Search finds every keyword of a list, of any kind and size", async (t) => {
  for (const [kind, make] of Object.entries(KINDS)) {
    await t.step(kind, () => {
      const random = randoms(7);
      for (const count of [2, 47, 49, 300, 2000]) {
        const keywords = Array.from(
          { length: count },
          (_, i) => make(random, i),
        );
        const text = textOf(random, keywords, 200);
        const clue = `${count} keywords ${kind}`;
        check(
          clue,
          keywords,
          text,
          count === 300 ? [1 << 20, 1, 7] : undefined,
        );
      }
    });
  }
});
