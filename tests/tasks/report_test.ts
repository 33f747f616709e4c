import { assert, assertEquals, assertMatch } from "@std/assert";
import { Pool, type Runner, type TaskTiming } from "../../mod.ts";
import {
  barChart,
  commandBlock,
  conclusion,
  render,
  table,
  timeline,
} from "../../tasks/report/markdown.ts";
import {
  AllFailedError,
  compare,
  type Comparison,
} from "../../tasks/report/measure.ts";
import { service } from "../../workers/logscan.ts";

/** A made-up comparison: ten images, two workers, twice as fast. */
function made(changes: Partial<Comparison> = {}): Comparison {
  return {
    items: 10,
    failed: 0,
    unit: "images",
    bytes: 2_000_000,
    workers: 2,
    repeats: 3,
    sequential: 4000,
    parallel: 2000,
    startUp: 50,
    breakEven: 0.2,
    timings: [timing(0, 0, 0, 400), timing(1, 0, 0, 390)],
    ...changes,
  };
}

function timing(
  worker: number,
  index: number,
  start: number,
  end: number,
): TaskTiming {
  return { worker, job: "x", index, start, end };
}

Deno.test("the words are true of the numbers", async (t) => {
  const cases: Record<
    string,
    [changes: Partial<Comparison>, said: RegExp[], row: RegExp]
  > = {
    "faster": [{}, [
      /^2 workers did 10 images \(2\.0 MB\) 2\.00 times as fast as one thread/,
      /another 50\.0 ms, once\..* takes 2050 ms in parallel and 4000 ms seq/,
      /: the pool pays\.$/m,
      /pays from about 2 images like these \(400 kB\) on\.$/,
    ], /improvement +\| +50\.0 %/],
    "faster, but not by enough for the start": [
      { sequential: 40, parallel: 20, breakEven: 2.5 },
      [/2\.00 times as fast/, /batch alone the pool does not pay\.$/m, /25 im/],
      /start-up of the pool +\| +50\.0 ms/,
    ],
    "slower": [{ sequential: 3, parallel: 6, breakEven: 128 }, [
      /^2 workers took 2\.00 times as long for 10 images/,
      /does not pay\.$/m,
      /pays from about 1280 images like these \(256\.0 MB\) on\.$/,
    ], /improvement +\| +-100\.0 %/],
    "equal": [{ parallel: 4000, breakEven: undefined }, [
      /in about the time that one thread takes alone/,
      /does not pay\.$/m,
      /No batch that was tried was large enough for the pool to pay\.$/,
    ], /improvement +\| +0\.0 %/],
    "a hair slower": [
      { parallel: 4001, breakEven: undefined },
      [/in about the time/],
      /improvement +\| +0\.0 %/, // not -0.0
    ],
    "one worker": [{ workers: 1, parallel: 4400, breakEven: undefined }, [
      /^1 worker did 10 images .* in about the time/,
      /One worker only moves the work to another thread, so it cannot pay\.$/,
    ], /workers +\| +1 \|/],
    "one item": [
      { items: 1, parallel: 4000, breakEven: 2 },
      [/did 1 image \(/, /about 2 images like these \(4\.0 MB\) on\.$/],
      /speed-up +\| +1\.00×/,
    ],
    "one item that was cut into parts": [
      { items: 1, unit: "logs", breakEven: 1 },
      [/did 1 log \(/, /1 log like these .* is enough .* cut into parts/],
      /speed-up +\| +2\.00×/,
    ],
    "hardly any bytes": [{ bytes: 12 }, [/\(12 bytes\)/], /2\.00×/],
    "some that failed": [{ failed: 3 }, [
      /^2 workers did 7 images and 3 that failed \(2\.0 MB\) 2\.00 times/,
    ], /speed-up +\| +2\.00×/],
    "lots of bytes": [{ bytes: 3e9 }, [/\(3\.0 GB\)/], /2\.00×/],
  };
  for (const [name, [changes, said, row]] of Object.entries(cases)) {
    await t.step(name, () => {
      const comparison = made(changes);
      for (const each of said) assertMatch(conclusion(comparison), each);
      assertMatch(table(comparison), row);
      const report = render("Title", "deno task x", comparison, ["a", "b"]);
      assert(!/NaN|Infinity|undefined|null|-0\.0/.test(report), report);
    });
  }
});

Deno.test("tables are as wide as their cells, in every row", () => {
  const text = table(made());
  const widths = text.trimEnd().split("\n").map((line) => line.length);
  assertEquals(new Set(widths).size, 1, text);
});

Deno.test("charts have only what Mermaid can read", () => {
  const chart = barChart("1 image", "ms", { a: 123456.7, b: 0.5 });
  assertMatch(chart, /0 --> 135802\n {2}bar \[123457, 0\.50\]/, "no exponents");
  const names = [
    ...["a:b", "a;b", "#1", "%% x", "%%{init}%%", "two\nlines", "'q' \"q\""],
    ...["2026-01-01.log", "gantt.png", "section x", "title y", "click z"],
    ...["crit, done", "", "日本 é.log", "x".repeat(300), "tab\tbell\x07"],
  ];
  const timings = names.map((_, i) => timing(1, i, i, i + 0.4));
  const lines = timeline(timings, names).split("\n").slice(6, -2);
  assertEquals(lines.length, names.length);
  for (const [i, line] of lines.entries()) {
    // The number keeps "2026-01-01" from being a date, "gantt" a keyword.
    assertMatch(line, /^ {2}\d+( [\p{L}\p{M}\p{N}._ -]{1,30})? : \d+, \d+$/u);
    assert(line.startsWith(`  ${i + 1} `), line);
  }
  assertMatch(lines[14], /日本 é\.log/);
});

Deno.test("the timeline starts at 0 in each run, and no bar is empty", () => {
  const text = timeline([
    ...[timing(2, 1, 5000.5, 5000.5), timing(1, 0, 5000, 5002)],
    ...[timing(0, 0, 100, 101), timing(0, 1, 101, 103)],
  ], ["a", "b"]);
  assertMatch(text, /in µs from the start/);
  assertEquals(text.split("\n").slice(5, -2), [
    ...["  section sequential", "  1 a : 0, 1000", "  2 b : 1000, 3000"],
    ...["  section worker 1", "  1 a : 0, 2000"],
    ...["  section worker 2", "  2 b : 500, 501"],
  ]);
  const slow = timeline([timing(0, 0, 1e9, 1e9 + 4000)], []);
  assertMatch(slow, /in ms from .*\n[^]* {2}1 : 0, 4000\n/);
  const many = Array.from(
    { length: 200_000 },
    (_, i) => timing(0, i, i, i + 1),
  );
  assertEquals(timeline(many, []).split("\n").length, 6 + 60 + 2);
});

Deno.test("in a report a bar has a file's name only where it is a file", () => {
  const cut = [0, 1, 2].map((index) => timing(0, index, index, index + 1));
  const report = (items: number) =>
    render("x", "y", made({ items, timings: cut }), ["a", "b", "c"]);
  assertMatch(report(3), /^ +3 c : /m);
  assertMatch(report(2), /^ +3 : /m);
});

Deno.test("a report says how many failed", () => {
  const report = render("x", "y", made({ failed: 9 }), []);
  const mentions = report.match(/1 image and 9 that failed/g);
  assertEquals(mentions?.length, 3); // the head, the chart and the conclusion
  assert(!/fail/.test(render("x", "y", made(), [])));
});

Deno.test("a command stays one block of markdown", () => {
  assertEquals(
    commandBlock("deno task x '```\n# y'"),
    "Command:\n\n    deno task x '```\n    # y'\n",
  );
});

Deno.test("compare measures work that begins nothing, and tells answers apart", async () => {
  const work = {
    service,
    items: 1,
    unit: "logs",
    bytes: 0,
    run: () => Promise.resolve(),
    answer: () => "same",
  };
  const { startUp, repeats, timings } = await compare(work, 1, true);
  assert(Number.isFinite(startUp) && startUp >= 0);
  assertEquals([repeats >= 3, timings], [true, []]);
  let answers = 0;
  let message = "";
  try {
    await compare({ ...work, answer: () => `${answers++}` }, 1, true);
  } catch (error) {
    message = (error as Error).message;
  }
  assertEquals(message, "The sequential and the parallel answers differ");
});

Deno.test("compare counts failures, and seeks a break-even", async () => {
  let runs = 0;
  let clock = 0;
  const { now } = performance;
  performance.now = () => clock;
  const failures = new Map([[1, "bad"]]);
  const work = {
    ...{ service, items: 2, unit: "logs", bytes: 0, failures },
    run: (runner: Runner<typeof service.jobs>) => {
      runs++;
      clock += runner instanceof Pool ? 1 : 30;
      return Promise.resolve();
    },
    answer: () => "same",
  };
  try {
    const { failed, breakEven } = await compare(work, 2, true);
    assertEquals(failed, 1);
    assert(breakEven! > 0);
    failures.set(0, "bad");
    runs = 0;
    const error = await compare(work, 2, true).catch((error) => error);
    assert(error instanceof AllFailedError);
    assertEquals(runs, 1);
    assertEquals(error.message, "Nothing to compare: 2 logs failed");
  } finally {
    performance.now = now;
  }
});
