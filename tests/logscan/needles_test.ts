import { assertEquals } from "@std/assert";
import {
  forWorkers,
  type Query,
  Search,
} from "../../workers/logscan/search.ts";

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
      for (const count of [2, 9, 32, 33, 300, 2000]) {
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

Deno.test("Search finds every keyword of a list of 20,000", async (t) => {
  for (
    const kind of ["of 1 to 300 bytes", "with the same four bytes", "nested"]
  ) {
    await t.step(kind, () => {
      const random = randoms(3), make = KINDS[kind];
      const keywords = Array.from(
        { length: 20_000 },
        (_, i) => make(random, i),
      );
      const text = textOf(random, keywords, kind === "nested" ? 5 : 50);
      check(`20,000 keywords ${kind}`, keywords, text, [1 << 20, 11]);
    });
  }
});

/** Lists of which all has to be compared in a text that is made of them. */
const CROWDED: Record<string, (random: Random, i: number) => string> = {
  "numbers": (random) => letters(random, "0123456789", 3 + random(6)),
  "long words of two letters": (random) =>
    letters(random, "ab", 40 + random(90)),
  "very long words of two letters": (random) =>
    letters(random, "ab", random(4) ? 1200 + random(1500) : 8 + random(9)),
  "in rare forms": (random) =>
    letters(random, "kKs\u017f\u212a", 1 + random(9)),
  "nested at the end": (_, i) => `${"a".repeat(i)}b`,
  "nested with other ends": (_, i) => `${"ab".repeat(i)}${i}`,
  "with the same beginning": (_, i) => `${"path/".repeat(20)}${i}/x`,
  "of which some are twice": (_, i) => `a${"b".repeat(i % 20)}`,
};

Deno.test("Search finds every keyword of a list where texts are made of what they share", async (t) => {
  for (const [kind, make] of Object.entries(CROWDED)) {
    await t.step(kind, () => {
      const random = randoms(31);
      for (const count of [3, 30, 120]) {
        const keywords = Array.from(
          { length: count },
          (_, i) => make(random, i),
        );
        // Cut in front of their ends, most are not there; between, nothing is.
        let text = "";
        for (let i = 0; i < 900 && text.length < 1e5; i++) {
          const keyword = pick(random, keywords);
          const cut = keyword.slice(random(3), random(9) ? -1 : undefined);
          const end = pick(random, ["", "", "", "", "\n", "é"]);
          text += i % 300 < 250 ? cut + end : `${"some text ".repeat(99)}\n`;
        }
        const blocks = count === 30 ? [1 << 20, 1777] : [1 << 20];
        check(`${count} keywords ${kind}`, keywords, text, blocks);
        const other = keywords.slice(0, 9);
        for (const ignoreCase of [false, true]) {
          for (const words of [false, true]) {
            const query: Query = {
              ...{ keywords, ignoreCase, words, mode: "lines" },
              without: other.slice(0, 1),
            };
            const some = text.slice(0, 8000);
            checkQuery(some, query, [1 << 20]);
            checkQuery(some, { ...query, keywords: other, all: true }, [7777]);
          }
        }
      }
    });
  }
});

Deno.test("Search finds the same lines whether it says which keywords they have", () => {
  const random = randoms(37);
  for (const count of [1, 5, 100]) {
    const keywords = Array.from(
      { length: count },
      (_, i) => `k${i} ${letters(random, "ab", 9)}`,
    );
    const long = textOf(random, keywords, 9000).replaceAll("\n", " ");
    const text = `${textOf(random, keywords, 300)}\n${long}\n${keywords[0]}`;
    for (const max of [undefined, 3]) {
      const [told, untold] = [true, false].map((which) => {
        const query: Query = { keywords, mode: "lines", which, max };
        const search = new Search(query, { offset: 0 }, true);
        search.add(encoder.encode(text));
        search.end();
        return search.take().hits!;
      });
      assertEquals(untold.lines, told.lines);
      assertEquals(untold.text, told.text);
      assertEquals(untold.sets, count > 1 ? [[]] : [[0]]);
      assertEquals(told.lines.length > 2, true);
    }
  }
});

// Case, whole words, all of them and none of others

/** What belongs to a word. */
const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

/** The keywords of a line by regular expressions; undefined if it is unwanted. */
function naiveLine(line: string, query: Query): string {
  const { ignoreCase, words, all, keywords, without = [] } = query;
  const patterns = (texts: string[]) =>
    texts.map((text) => {
      const escaped = text.replace(/[\\^$.*+?()[\]{}|\/]/g, "\\$&");
      const whole = words ? `(?<!${WORD})${escaped}(?!${WORD})` : escaped;
      return new RegExp(whole, ignoreCase ? "iu" : "u");
    });
  const there = patterns(keywords).flatMap((pattern, i) =>
    pattern.test(line) ? [i] : []
  );
  if (all && there.length < keywords.length) return "";
  return patterns(without).some((each) => each.test(line)) ? "" : there.join();
}

function checkQuery(text: string, query: Query, blocks: number[]): void {
  const wanted = text.split("\n").map((line) => naiveLine(line, query));
  for (const block of blocks) {
    const found = searched(text, query, block);
    const clue = `blocks of ${block}, ${JSON.stringify(query)}`;
    const i = found.findIndex((each, i) => each !== wanted[i]);
    const line = i < 0 ? "" : text.split("\n")[i];
    const shown = `${clue}: ${JSON.stringify(line.slice(0, 500))}`;
    assertEquals(found[i], wanted[i], shown);
  }
}

/** Characters with forms of several lengths, and what is beside words. */
const LETTERS = [..."kKsSaAé\u00c9\u212a\u017fßẞåÅ\u212bσςΣрРιΙ\u1fbe\u0345"];
const OTHERS = [..." \n.-_1²ↅ٣\u0301\u200d中‿\u{10400}\u{10428}İı"];

Deno.test("Search ignores case, takes whole words, all and none, as regular expressions do", () => {
  const random = randoms(17);
  const word = (most: number, from = LETTERS) =>
    Array.from({ length: 1 + random(most) }, () => pick(random, from)).join("");
  for (let i = 0; i < 150; i++) {
    const some = [...LETTERS, ...OTHERS.filter((c) => c !== "\n")];
    const keywords = Array.from({ length: 1 + random(4) }, () => word(3, some));
    if (i % 10 === 0) {
      while (keywords.length < 60) keywords.push(word(i % 20 ? 3 : 12, some));
    }
    let text = "";
    for (let k = 0; k < 60; k++) {
      text += random(3)
        ? pick(random, keywords)
        : word(2, [...LETTERS, ...OTHERS]);
      text += random(2) ? pick(random, OTHERS) : "";
    }
    const query: Query = {
      keywords,
      ignoreCase: random(3) > 0,
      words: random(2) === 0,
      all: keywords.length < 4 && random(3) === 0,
      without: random(3) === 0 ? [word(2, some)] : [],
      mode: "lines",
    };
    checkQuery(text, query, [1 << 20, 1, 5]);
  }
});

Deno.test("Search ignores case as Unicode's simple folding does, of all characters", () => {
  const all = Array.from({ length: 0x110000 }, (_, code) => code)
    .filter((code) => code !== 10 && (code < 0xd800 || code > 0xdfff));
  const lines = all.map((code) => String.fromCodePoint(code));
  const cased = lines.filter((each) => /[\p{CWCF}\p{CWCM}]/u.test(each));
  const query: Query = { keywords: cased, ignoreCase: true, mode: "lines" };
  const found = searched(lines.join("\n"), query, 1 << 20);
  const together = cased.join("");
  const byCharacter = new Map(cased.map((each, i) => [each, i]));
  for (const [i, line] of lines.entries()) {
    const same = byCharacter.has(line)
      ? together.match(new RegExp(line, "giu"))!
      : [];
    const wanted = same.map((each) => byCharacter.get(each)).join();
    if (found[i] !== wanted) assertEquals([line, found[i]], [line, wanted]);
  }
  for (const [a, b, is] of [["İ", "i", 0], ["ß", "ẞ", 1], ["k", "\u212a", 1]]) {
    const query: Query = {
      keywords: [`${a}`],
      ignoreCase: true,
      mode: "lines",
    };
    assertEquals(searched(`${b}`, query, 9)[0], is ? "0" : "", `${a} and ${b}`);
  }
});

Deno.test("Search ignores case in keywords with thousands of characters that have forms of other lengths", () => {
  const random = randoms(23), from = [..."ksKSa \u017f\u212aßé"];
  for (const count of [1, 2, 40]) {
    const keywords = Array.from(
      { length: count },
      () => Array.from({ length: 1300 }, () => pick(random, from)).join(""),
    );
    const others: Record<string, string> = {
      k: "\u212a",
      s: "\u017f",
      ß: "\u1e9e",
    };
    const lines = keywords.flatMap((keyword) => {
      const all = [...keyword];
      const turned = all.map((c) => others[c] ?? c.toUpperCase());
      const mixed = all.map((c, i) => random(2) ? c : turned[i]);
      const late = all.map((c, i) => i < 1299 ? c.toLowerCase() : turned[i]);
      const wrong = mixed.with(random(1300), "-");
      return [turned, mixed, late, wrong, all.slice(0, -1)].map((each) =>
        each.join("")
      );
    });
    const query: Query = { keywords, ignoreCase: true, mode: "lines" };
    const found = searched(lines.join("\n"), query, 1 << 20);
    const wanted = lines.map((_, i) => i % 5 < 3 ? `${Math.floor(i / 5)}` : "");
    assertEquals(found, wanted, `${count} keywords`);
  }
});

Deno.test("Search finds none of a list where it is no whole word, though all were seen before", () => {
  for (const kind of ["with the same four bytes", "short", "addresses"]) {
    const random = randoms(5);
    const keywords = new Set<string>();
    while (keywords.size < 40) keywords.add(KINDS[kind](random, keywords.size));
    const whole = [...keywords], parts = whole.map((each) => `x${each}x`);
    const text = encoder.encode([...whole, ...parts, ...whole, ""].join("\n"));
    for (const mode of ["count", "lines"] as const) {
      const query = { keywords: whole, words: true, mode };
      const search = new Search(query, { offset: 0 }, true);
      search.add(text);
      search.end();
      assertEquals(search.take().count, 80, `${mode}, ${kind}`);
    }
  }
});

Deno.test("Search decides at the edges of a long line's pieces by what is beside them", () => {
  const LINE_MAX = 64 << 10, BLOCK = 1 << 18;
  const cases: [there: string, keyword: string][] = [
    ["\u212aey", "key"],
    [" key ", "key"],
    ["xkey ", "key"],
    [" keyé", "key"],
    ["ékey ", "key"],
    [" ke\u017f\u017f\u212a\u212aey\u017f ", "kesskkeys"],
  ];
  for (const edge of [LINE_MAX, BLOCK]) {
    for (const [there, keyword] of cases) {
      for (let back = 0; back <= there.length * 3 + 2; back++) {
        const text = `${".".repeat(edge - back)}${there}${".".repeat(99)}`;
        for (const words of [true, false]) {
          const query: Query = {
            ...{ keywords: [keyword, "nothing"], ignoreCase: true, words },
            ...{ without: ["absent"], mode: "lines" },
          };
          checkQuery(text, query, [edge === BLOCK ? BLOCK : 30_000]);
        }
      }
    }
  }
});

Deno.test("Search: a long line has all of the keywords, and none of the others, wherever they are", () => {
  const long = ".".repeat(300_000);
  const query: Query = { keywords: ["one", "two"], all: true, mode: "lines" };
  const without = { ...query, without: ["bad"] };
  for (
    const [text, is] of [
      [`one${long}two`, true],
      [`two${long}one${long}`, true],
      [`one${long}one`, false],
      [`one${long}two${long}bad`, false],
      [`bad${long}two${long}one`, false],
    ] as const
  ) {
    for (const whole of [text, `one\n${text}\ntwo`]) {
      checkQuery(whole, query, [1 << 20, 9999]);
      checkQuery(whole, without, [1 << 20, 9999]);
      const lines = searched(whole, without, 1 << 20);
      assertEquals(lines.includes("0,1"), is, whole.slice(0, 9));
    }
  }
});

Deno.test("Search: spans cut anywhere add up to the whole, whatever is asked for", () => {
  const random = randoms(29);
  const list = Array.from(
    { length: 99 },
    (_, i) => `k${i}${"\u017f".repeat(i % 3)}`,
  );
  const text = `k1 \n\n${textOf(random, list, 40)}\nk\u212a K7`;
  const bytes = encoder.encode(text);
  const queries: Query[] = [
    { keywords: list, mode: "lines" },
    { keywords: list, ignoreCase: true, words: true, mode: "lines" },
    { keywords: ["k", "1"], all: true, without: ["3"], mode: "lines" },
  ];
  for (const query of queries) {
    const wanted = searched(text, query, 1 << 20).filter((set) => set !== "");
    for (let cut = 1; cut < bytes.length; cut++) {
      const first = new Search(query, { offset: 0, end: cut }, true);
      const second = new Search(query, { offset: cut - 1, skip: true }, true);
      first.add(bytes);
      second.add(bytes.subarray(cut - 1));
      const found = [first, second].flatMap((search) => {
        search.end();
        const { hits } = search.take();
        return hits?.keywords.map((set) => hits.sets[set].join()) ?? [];
      });
      assertEquals(found, wanted, `cut at ${cut}, ${query.all}`);
    }
  }
});

Deno.test("Search takes a list that it was given compiled, in shared memory", () => {
  const random = randoms(23);
  const keywords = Array.from({ length: 500 }, (_, i) => `${i}k é ${i % 7}`);
  const text = textOf(random, keywords, 500) + "\n17\u212a É 3";
  for (const ignoreCase of [false, true]) {
    const query: Query = { keywords, ignoreCase, mode: "lines" };
    const sent = structuredClone(forWorkers(query));
    assertEquals(sent.keywords, []);
    const found = searched(text, sent, 1 << 20);
    assertEquals(found, searched(text, query, 1 << 20));
    assertEquals(found.at(-1) !== "", ignoreCase);
  }
});
