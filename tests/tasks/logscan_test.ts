/** What the flags of logscan choose and print, as a user runs it. */

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { ended, Home, skipped, waitUntil } from "./programs.ts";

const ALERT = "unauthorized access";

const utf16 = (text: string) => new Uint8Array(Buffer.from(text, "utf16le"));
const encode = (text: string) => new TextEncoder().encode(text);

/** Runs logscan with something piped in. */
async function runWith(
  home: Home,
  input: string | Uint8Array,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = home.start(home.words("logscan", args), { stdin: "piped" });
  const outcome = ended(child);
  const writer = child.stdin.getWriter();
  // It may end before it has read all of it.
  await writer.write(typeof input === "string" ? encode(input) : input)
    .then(() => writer.close()).catch(() => {});
  return await outcome;
}

Deno.test("logscan --files-from searches what a list names", async (t) => {
  await using home = new Home();
  const names = ["a.log", "b c.log", "-d.log", "[x]*.log", "sub/e.log"];
  const files = names.map((name) => [name, `${name}\n${ALERT}\n`]);
  await home.write(Object.fromEntries(files));
  await home.write({ "line\nbreak.log": ALERT, "\ufeffbom.log": ALERT });
  const line = (name: string) => `${name}:1\n`;
  const lists: [what: string, list: string, args: string[], stdout: string][] =
    [
      ["a list", "a.log\nb c.log\n", [], line("a.log") + line("b c.log")],
      ["without a last newline", "a.log\nsub", [], "a.log:1\nsub/e.log:1\n"],
      [
        "CRLF, a BOM, empty lines",
        "\ufeffa.log\r\n\r\n\n-d.log\r\n",
        [],
        [
          ...["a.log", "-d.log"].map(line),
        ].join(""),
      ],
      ["no globs", "[x]*.log\n", [], line("[x]*.log")],
      [
        "NUL",
        "line\nbreak.log\0\ufeffbom.log\0",
        ["-0"],
        [
          ...["line\nbreak.log", "\ufeffbom.log"].map(line),
        ].join(""),
      ],
      ["NUL, long form", "\0a.log", ["--null"], line("a.log")],
      ["besides a path", "a.log\n", ["sub"], line("sub/e.log") + line("a.log")],
      ["filtered", "a.log\nsub\n", ["--include", "a*"], line("a.log")],
    ];
  for (const [what, list, args, stdout] of lists) {
    await t.step(what, async () => {
      const wanted = { code: 0, stdout, stderr: "" };
      const flags = ["--count", ...args];
      const piped = await runWith(home, list, "--files-from", "-", ...flags);
      assertEquals(piped, wanted);
      await home.write({ list });
      assertEquals(
        await home.run("logscan", "--files-from=list", ...flags),
        wanted,
      );
    });
  }
  await t.step("names that mean nothing have a line each", async () => {
    const { code, stdout, stderr } = await runWith(
      home,
      "none\n*.log\na.log\n",
      ...["--files-from", "-", "--count"],
    );
    assertEquals([code, stdout], [2, "a.log:1\n"]);
    const cause = "No such file or directory";
    assertEquals(stderr, `none: ${cause}\n*.log: ${cause}\n`);
  });
  await t.step("an empty list names nothing", async () => {
    const wanted = { code: 1, stdout: "", stderr: "" };
    assertEquals(await runWith(home, "", "--files-from=-"), wanted);
  });
  await t.step("a list without an end is refused", async () => {
    const { code, stderr } = await runWith(
      home,
      "x".repeat(200_000),
      "--files-from=-",
    );
    const line = "logscan: --files-from: -: a name in it is too long\n";
    assertEquals([code, stderr], [2, line]);
  });
  await t.step("5,000 names", async () => {
    const { code, stdout } = await runWith(
      home,
      "a.log\n".repeat(5_000),
      ...["--files-from=-", "--count"],
    );
    assertEquals([code, stdout], [0, line("a.log").repeat(5_000)]);
  });
});

Deno.test("logscan --file takes keywords from lists", async (t) => {
  await using home = new Home();
  const lines = Array.from({ length: 30_000 }, (_, i) => `line ${i} end`);
  await home.write({ log: lines.join("\n") });
  const cases: [what: string, list: string | Uint8Array, count: number][] = [
    ["a keyword a line", "line 7 \nline 8 \n", 2],
    ["without a last newline", "line 7 \nline 8 ", 2],
    ["CRLF, a BOM, empty lines", "\ufeffline 7 \r\n\r\n\nline 8 \r\n", 2],
    ["UTF-16", utf16("\ufeffline 7 \r\nline 8 "), 2],
    ["thousands", lines.filter((_, i) => i % 2).join("\n"), 15_000],
  ];
  for (const [what, list, count] of cases) {
    await t.step(what, async () => {
      const wanted = { code: 0, stdout: `log:${count}\n`, stderr: "" };
      const flags = ["--count", "log"];
      assertEquals(await runWith(home, list, "-f", "-", ...flags), wanted);
      await home.write({ list });
      assertEquals(await home.run("logscan", "--file=list", ...flags), wanted);
      for (const workers of ["--workers=1", "--workers=2"]) {
        assertEquals(
          await home.run("logscan", "-f", "list", ...flags, workers),
          wanted,
        );
      }
      const more = await home.run("logscan", "-flist", "-k=e 5 e", ...flags);
      assertEquals(more.stdout, `log:${count + (count > 9 ? 0 : 1)}\n`);
    });
  }
  await t.step("wrong ones have a line each, and status 2", async () => {
    await home.write({ bad: new Uint8Array([65, 10, 0xff]), empty: "\n\r\n" });
    for (
      const [args, cause] of [
        [["-f", "none", "log"], "none: No such file or directory"],
        [["-f", "bad", "log"], "bad: it is not valid utf-8 text"],
        [["-f", "empty", "log"], "empty: there is no keyword in it"],
      ] as const
    ) {
      const stderr = `logscan: --file ${cause}\n`;
      const wanted = { code: 2, stdout: "", stderr };
      assertEquals(await home.run("logscan", ...args), wanted);
    }
    for (const flag of ["--keyword", "--without"]) {
      // What Deno makes of bytes that are not UTF-8.
      const lost = await home.run("logscan", flag, "caf\ufffd", "log");
      assertEquals([lost.code, lost.stdout], [2, ""]);
      assertMatch(lost.stderr, new RegExp(`^logscan: ${flag}: .*UTF-8.*\n$`));
    }
    const { code, stderr } = await runWith(home, "a", "-f", "-", "-");
    assertEquals(code, 2);
    assertStringIncludes(stderr, "can be read only once");
    const nowhere = await runWith(home, "a", "-f", "-");
    assertStringIncludes(nowhere.stderr, "nothing to search");
  });
});

Deno.test("logscan -w, --all and --without choose lines", async () => {
  await using home = new Home();
  await home.write({ log: "an ox\noxen\nox, an old one\nan \u212a\nan K_\n" });
  const cases: [args: string[], lines: number[]][] = [
    [["-k", "ox"], [1, 2, 3]],
    [["-k", "ox", "-w"], [1, 3]],
    [["-k", "k", "--word", "-i"], [4]],
    [["-k", "k", "-i"], [4, 5]],
    [["-k", "ox", "-k", "an"], [1, 2, 3, 4, 5]],
    [["-k", "ox", "-k", "an", "--all"], [1, 3]],
    [["-k", "ox", "-k", "an", "--all", "--without", "old"], [1]],
    [["-k", "an", "--without", "ox", "--without=_"], [4]],
  ];
  for (const [args, numbers] of cases) {
    const { stdout, stderr } = await home.run(
      "logscan",
      "--lines",
      ...args,
      "log",
    );
    assertEquals(stderr, "");
    const found = stdout.split("\n").filter((line) => line !== "")
      .map((line) => Number(line.split(":")[1]));
    assertEquals(found, numbers, args.join(" "));
  }
});

Deno.test("logscan --include and --exclude choose among the files of folders", async () => {
  await using home = new Home();
  const paths = ["a.log", "a.txt", "old/b.log", "new/b.log", "new/c.gz"];
  const files = paths.map((path) => [`logs/${path}`, ALERT]);
  await home.write(Object.fromEntries(files));
  const cases: [args: string[], found: string[]][] = [
    [["--include", "*.log"], ["a.log", "new/b.log", "old/b.log"]],
    [["--include=*.txt", "--include", "*.gz"], ["a.txt", "new/c.gz"]],
    [["--exclude", "*.log"], ["a.txt", "new/c.gz"]],
    [["--exclude", "old"], ["a.log", "a.txt", "new/b.log", "new/c.gz"]],
    [["--include", "new/*.log"], ["new/b.log"]],
    [["--include", "*.log", "--exclude", "*/b.*"], ["a.log"]],
    [["--include", "none"], []],
  ];
  for (const [args, found] of cases) {
    const outcome = await home.run("logscan", "-l", "logs", ...args);
    const stdout = found.map((path) => `logs/${path}\n`).join("");
    const code = found.length > 0 ? 0 : 1;
    assertEquals(outcome, { code, stdout, stderr: "" }, args.join(" "));
  }
});

/** A grep as reference; undefined if it is not installed. */
async function grep(
  home: Home,
  command: string,
  ...args: string[]
): Promise<string | undefined> {
  try {
    const { stdout } = await new Deno.Command(command, {
      args,
      cwd: home.path,
    }).output();
    return new TextDecoder().decode(stdout);
  } catch {
    skipped(`beside ${command}: there is none`);
  }
}

Deno.test("logscan -l and -m print what grep and rg do", async (t) => {
  await using home = new Home();
  const lines = Array.from(
    { length: 50 },
    (_, i) => i % 7 === 3 ? `${i} ${ALERT}` : `${i}`,
  );
  await home.write({
    "logs/many": lines.join("\n"),
    "logs/none": "fine\n",
    "logs/one": `${ALERT}\n`,
    "logs/sub/empty": "",
    "logs/sub/three": `x\n${ALERT}\n${ALERT}\n\n${ALERT}`,
  });
  const cases: [args: string[], same: string[]][] = [
    [["-l"], ["-l"]],
    [["--files-with-matches", "-m", "1"], ["-l", "-m1"]],
  ];
  for (const n of ["1", "2", "3", "7", "8", "99"]) {
    cases.push([["--lines", "-m", n], ["-Hn", "-m", n]]);
    cases.push([["--count", `--max-count=${n}`], ["-Hc", "-m", n]]);
  }
  for (const [args, same] of cases) {
    await t.step(args.join(" "), async () => {
      const { code, stdout, stderr } = await home.run(
        "logscan",
        ...args,
        "logs",
      );
      assertEquals([code, stderr], [0, ""]);
      const sorted = (text: string) => text.trimEnd().split("\n").sort();
      for (const command of ["grep", "rg"]) {
        const tool = command === "grep"
          ? ["-r", "-F"]
          : ["-F", "--no-heading", "--include-zero"];
        const flags = args.includes("--count") ? tool : tool.slice(0, 2);
        const wanted = await grep(
          home,
          command,
          ...flags,
          ...same,
          ALERT,
          "logs",
        );
        if (wanted === undefined) continue;
        assertEquals(sorted(stdout), sorted(wanted), command);
      }
      assertEquals(stdout.startsWith("logs/many"), true);
    });
  }
  await t.step("-q -l prints nothing", async () => {
    const wanted = { code: 0, stdout: "", stderr: "" };
    assertEquals(await home.run("logscan", "-ql", "logs"), wanted);
    const nothing = await home.run("logscan", "-l", "logs/none");
    assertEquals(nothing, { code: 1, stdout: "", stderr: "" });
  });
});

Deno.test("logscan --lines prints long lines of standard input, which cannot be read again", async () => {
  await using home = new Home();
  const { gzipSync } = await import("node:zlib");
  const lines = [60_000, 70_000, 300_000, 1_000_000].flatMap((size) => [
    `${"é".repeat(size)} ${ALERT}`,
    "x".repeat(size),
    ALERT,
    `${ALERT}${"\u00a0".repeat(size)}`,
  ]);
  const text = lines.join("\r\n");
  const hits = text.split("\n").flatMap((line, i) =>
    line.includes(ALERT) ? [`-:${i + 1}:${line}\n`] : []
  );
  const bytes = encode(text);
  const latin1 = Buffer.from(text, "latin1");
  const cases: [what: string, input: Uint8Array, args: string[]][] = [
    ["as it is", bytes, []],
    ["compressed", gzipSync(bytes, { level: 1 }), []],
    ["UTF-16", utf16(`\ufeff${text}`), []],
    ["searched as latin1", latin1, ["--encoding=latin1"]],
    ["decoded from latin1", latin1, ["--encoding=latin1", "-i"]],
    ["a few", bytes, ["-m", "5"]],
  ];
  for (const [what, input, args] of cases) {
    const outcome = await runWith(home, input, "-k", ALERT, "--lines", ...args);
    assertEquals([outcome.code, outcome.stderr], [0, ""], what);
    const wanted = hits.slice(0, args.includes("-m") ? 5 : undefined);
    assert(outcome.stdout === wanted.join(""), what);
  }
  // One that cannot be held has a line.
  const huge = encode(`x\n${"y".repeat(34 << 20)}${ALERT}\n${ALERT}`);
  const { code, ...rest } = await runWith(home, huge, "-k", ALERT, "--lines");
  assertEquals(code, 2);
  const stderr = "-: line 2 is too long to show\n";
  assertEquals(rest, { stdout: `-:3:${ALERT}\n`, stderr });
});

Deno.test("logscan --count ends with the sum where a terminal watches several files", async () => {
  await using home = new Home();
  await home.write({
    "logs/a": `${ALERT}\n`.repeat(3),
    "logs/b": "fine\n",
    "logs/c": ALERT,
  });
  const run = async (...args: string[]) => {
    const words = home.words("logscan", args);
    const quoted = words.map((word) => `'${word}'`).join(" ");
    const { stdout } = await ended(
      home.start(["script", "-qec", quoted, "/dev/null"]),
    );
    const [start] = ["\x1b[K"]; // behind what the progress bar was drawn by
    return stdout.replaceAll("\r", "").split("\n")
      .map((line) => line.slice(line.lastIndexOf(start) + 1).replace("[K", ""))
      .join("\n");
  };
  try {
    await run("--help");
  } catch {
    return skipped("a terminal: there is no `script`");
  }
  const counts = "logs/a:3\nlogs/b:0\nlogs/c:1\n";
  assertStringIncludes(
    await run("--count", "logs"),
    `${counts}4 lines in 2 of 3 files\n`,
  );
  const one = await run("--count", "logs/a");
  assert(one.includes("logs/a:3\n") && !one.includes(" lines in "), one);
  assert(!(await run("--count", "--json", "logs")).includes(" lines in "));
  const piped = await home.run("logscan", "--count", "logs");
  assertEquals(piped.stdout, counts);
});

Deno.test("logscan --json gives an object a file, or a hit, as soon as it is known", async (t) => {
  await using home = new Home();
  const raw = new Uint8Array([0xff, ...encode(ALERT), 0x0d, 10]);
  await home.write({ "a": `x\n${ALERT}\n${ALERT} é\n`, "b": "", "c": raw });
  const objects = async (...args: string[]) => {
    const { stdout } = await home.run("logscan", "--json", ...args);
    return stdout.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  };
  const keywords = [ALERT];
  const first = { line: 2, offset: 2, length: 19, keywords, text: ALERT };
  const second = { line: 3, offset: 22, length: 22, keywords };
  const third = { line: 1, offset: 0, length: 21, keywords };
  const broken = { text: `\ufffd${ALERT}\r`, base64: btoa(`\xff${ALERT}\r`) };
  await t.step("a file", async () => {
    assertEquals(await objects("a", "b", "c", "d"), [
      { path: "d", error: "No such file or directory" },
      { path: "a", found: true, count: 1, bytes: 45, hits: [first] },
      { path: "b", found: false, count: 0, bytes: 0, hits: [] },
      {
        ...{ path: "c", found: true, count: 1, bytes: 22 },
        hits: [{ ...third, ...broken }],
      },
    ]);
    const [{ count, found }] = await objects("--count", "a");
    assertEquals([count, found], [2, true]);
  });
  await t.step("a hit", async () => {
    assertEquals(await objects("--lines", "a", "b", "c"), [
      { path: "a", ...first },
      { path: "a", ...second, text: `${ALERT} é` },
      { path: "c", ...third, ...broken },
    ]);
  });
  // Its input does not end before the object has been read.
  for (const args of [["--lines", "-"], ["a", "-"]]) {
    await t.step(`at once: ${args.join(" ")}`, async () => {
      const words = home.words("logscan", ["--json", ...args]);
      const child = home.start(words, { stdin: "piped" });
      const input = child.stdin.getWriter();
      await input.write(encode(`${ALERT}\n`));
      let text = "";
      const output = child.stdout.pipeThrough(new TextDecoderStream())
        .getReader();
      await waitUntil(async () => {
        text += (await output.read()).value ?? "";
        return text.includes("\n");
      }, child);
      assertEquals(JSON.parse(text).path, args[0] === "a" ? "a" : "-");
      await input.close();
      while (!(await output.read()).done);
      await child.stderr.cancel();
      assertEquals((await child.status).code, 0);
    });
  }
});

Deno.test("logscan hears Ctrl-C while it decompresses a long file", async (t) => {
  await using home = new Home();
  const { gzipSync, zstdCompressSync } = await import("node:zlib");
  const zeros = new Uint8Array(64 << 20);
  const repeated = (part: Uint8Array) => {
    const whole = new Uint8Array(2000 * part.length);
    for (let i = 0; i < 2000; i++) whole.set(part, i * part.length);
    return whole;
  };
  await home.write({
    "first": ALERT,
    "a.gz": repeated(gzipSync(zeros)), // it would take minutes
    "a.zst": repeated(zstdCompressSync(zeros)),
  });
  for (const name of ["a.gz", "a.zst"]) {
    for (const workers of ["1", "2"]) {
      await t.step(`${name}, ${workers} workers`, async () => {
        const args = ["--json", "--workers", workers, "first", name];
        const child = home.start(home.words("logscan", args));
        const output = child.stdout.getReader();
        await output.read(); // of the first file: the other one is next
        child.kill("SIGINT");
        assertEquals(await child.stderr.text(), "");
        assertEquals((await child.status).code, 130);
        while (!(await output.read()).done);
      });
    }
  }
});
