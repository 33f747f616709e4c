/**
 * The tasks as a user runs them: as child processes, with the flags that
 * deno.json gives them, and INIT_CWD as `deno task` sets it.
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { exists } from "@std/fs/exists";
import { join } from "@std/path/join";
import { Buffer } from "node:buffer";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { commandLine } from "../../tasks/cli/flags.ts";
import { printable } from "../../tasks/cli/terminal.ts";
import { makeImage, makeLog, randomFrom } from "../../workers/fixtures.ts";
import {
  ended,
  Home,
  linesOf,
  repo,
  skipped,
  tasks,
  waitUntil,
} from "./programs.ts";

const ALERT = "Alert: unauthorized access detected from IP 192.168.0.7";
const GIF = Uint8Array.fromBase64(
  "R0lGODdhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs=",
);

/** The flags of each task, with a value for those that need one. */
const FLAGS: Record<string, string[]> = {
  logscan: [
    ...["--keyword=x", "--ignore-case", "--count", "--lines", "--json"],
    ...["--files-from=x", "--null", "--include=x", "--exclude=x"],
    ...["--files-with-matches", "--max-count=1", "--encoding=latin1"],
    ...["--file=x", "--word", "--all", "--without=x"],
    ...["--compare", "--workers=1", "--quiet"],
    ...["--redis=redis://x", "--root=x", "--wait=1"],
  ],
  join: [
    ...["--redis=redis://x", "--root=x", "--wait=1", "--workers=1", "--quiet"],
  ],
  grayscale: [
    ...["--out=x", "--force", "--max-pixels=1", "--compare", "--simulate"],
    ...["--json", "--workers=1", "--quiet", "--salvage"],
    ...["--to=jpeg", "--quality=1"],
    ...["--include=x", "--exclude=x"],
    ...["--redis=redis://x", "--root=x", "--wait=1"],
  ],
  fixtures: [
    ...["--images=1", "--logs=1", "--lines=1", "--seed=1", "--out=x"],
    ...["--workers=1", "--quiet"],
  ],
  bench: [
    ...["--peers=x", "--runs=1", "--workers=1", "--rows=x", "--percent=1"],
    ...["--mod=x", "--quiet"],
  ],
};

async function has(command: string): Promise<boolean> {
  try {
    const { code } = await new Deno.Command(command, {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).output();
    return code === 0;
  } catch {
    return false;
  }
}

/** So many images that two workers need more than a minute for them. */
const ENDLESS = 10_000;

/** Makes them: one, and links to it. */
async function makeEndless(home: Home, folder: string): Promise<void> {
  const first = join(home.path, folder, "0.png");
  await Deno.mkdir(join(home.path, folder), { recursive: true });
  await makeImage({ path: first, seed: 1, width: 500, height: 400 });
  for (let i = 1; i < ENDLESS; i++) {
    Deno.linkSync(first, join(home.path, folder, `${i}.png`));
  }
}

// Command lines

Deno.test("every task explains all of its flags, and knows them", async (t) => {
  await using home = new Home();
  for (const [task, flags] of Object.entries(FLAGS)) {
    await t.step(task, async () => {
      const help = await home.run(task, "--help");
      assertEquals([help.code, help.stderr], [0, ""]);
      const long = help.stdout.split("\n").filter(({ length }) => length > 80);
      assertEquals(long, []);
      const shown = help.stdout.matchAll(/^ +(?:-\w, )?(--[a-z-]+)/gm);
      const names = [...shown].map(([, name]) => name);
      const wanted = flags.map((flag) => flag.split("=")[0]);
      assertEquals(names.sort(), [...wanted, "--help"].sort());
      // Among many flags only the wrong one is refused.
      const { code, stdout, stderr } = await home.run(task, ...flags, "--nope");
      assertEquals([code, stdout], [2, ""]);
      assertEquals(stderr, `${task}: unknown flag --nope (see --help)\n`);
    });
  }
});

Deno.test("a wrong command line is one line that names the flag", async () => {
  await using home = new Home();
  const wrong: [task: string, args: string[], flag: string][] = [
    ...["0", "-1", "1.5", "abc", "1e3", "", " 1", "0x10", "99999999999999999"]
      .map((n) => ["logscan", ["--workers", n, "x"], "--workers"] as never),
    ["logscan", ["--workers=-1"], "--workers"],
    ["logscan", ["x", "-k"], "--keyword"],
    ["logscan", ["-k", "", "x"], "--keyword"],
    ["logscan", ["-k", "-x", "x"], "--keyword"],
    ["logscan", ["--workers", "-1", "x"], "whole number .* not '-1'"],
    ["logscan", ["--count=maybe", "x"], "--count .* 'maybe'"],
    ["logscan", ["-q=", "x"], "--quiet .* ''"],
    ["logscan", ["--x\n\x1b"], String.raw`--x\\x0a\\x1b`],
    ["fixtures", ["a\nb"], String.raw`'a\\x0ab'`],
    ["ok", ["x"], '"x"'],
    ["setup", ["--nope"], '"--nope"'],
    ["logscan", ["-k", "a\nb", "x"], "--keyword"],
    ["logscan", ["--count", "--lines", "x"], "--count"],
    ["logscan", ["--compare", "-"], "--compare"],
    ["logscan", ["-l", "--lines", "x"], "--lines and --files-with-matches"],
    ["logscan", ["--json", "-l", "x"], "--files-with-matches and --json"],
    ["logscan", ["-m", "0", "x"], "--max-count .* 'x|0'"],
    ["logscan", ["-m-1", "x"], "--max-count .* '-1'"],
    ["logscan", ["-0", "x"], "--null"],
    ["logscan", ["--files-from"], "--files-from"],
    ["logscan", ["--files-from", "-", "-"], "only once"],
    ["logscan", ["--files-from=none"], "--files-from: none: No such file"],
    ["logscan", ["--files-from="], "--files-from"],
    ["logscan", ["--include", "*.log"], "--include"],
    ["logscan", ["--encoding", "latin-99", "x"], "--encoding: 'latin-99'"],
    ["logscan", ["--exclude=", "x"], "--exclude"],
    ["logscan", ["-z"], "-z"],
    ["logscan", ["--out=x"], "--out"],
    ["grayscale", ["--out"], "--out"],
    ["grayscale", ["--max-pixels", "0"], "--max-pixels"],
    ["grayscale", ["--simulate", "x"], "--simulate"],
    ["grayscale", ["--include", "*.jpg"], "--include"],
    ["grayscale", ["--no-force"], "--no-force"],
    ["fixtures", ["--images", "-1"], "--images"],
    ["fixtures", ["--lines", "0"], "--lines"],
    ["fixtures", ["stray"], "'stray'"],
    ["bench", ["--runs", "0"], "--runs"],
    ["bench", ["tests"], "'tests'"],
  ];
  const outcomes = await inTurns(
    wrong,
    ([task, args]) => home.run(task, ...args),
  );
  for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
    const [task, args, flag] = wrong[i];
    const clue = `${task} ${JSON.stringify(args)}`;
    assertEquals([code, stdout], [2, ""], clue);
    assertMatch(stderr, new RegExp(`^${task}: .*${flag}.*\n$`), clue);
  }
  assertEquals(home.list(), []);
});

/** A few at a time: each is a process. */
async function inTurns<T, R>(
  items: T[],
  run: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  for (let i = 0; i < items.length; i += 4) {
    results.push(...await Promise.all(items.slice(i, i + 4).map(run)));
  }
  return results;
}

Deno.test("the tasks have no permission that they do not need", async () => {
  await using home = new Home();
  for (const [name, { command }] of Object.entries(tasks)) {
    assert(!/ (-A|--allow-all) /.test(command), name);
    // The benchmark runs its peers, wherever they are installed. What joins
    // machines needs the network; below is what is left of it without `--redis`.
    const own = name === "bench"
      ? command.replace(" --allow-run", "")
      : ["grayscale", "logscan", "join"].includes(name)
      ? command.replace(" --allow-net", "")
      : command;
    if (name in FLAGS) assert(!/--allow-(net|run|ffi|import)/.test(own), name);
  }
  // What they may do once they have read their flags, according to Deno itself.
  const probe = `
    const attempts: Record<string, () => unknown> = {
      net: () => Deno.connect({ hostname: "127.0.0.1", port: 9 }),
      run: () => new Deno.Command("ls").output(),
      env: () => Deno.env.get("HOME"),
      outside: () => Deno.writeTextFile(${
    JSON.stringify(home.path)
  } + "/x", ""),
      source: () => Deno.writeTextFile("mod.ts", ""),
      fixtures: () => Deno.mkdir("fixtures/probe", { recursive: true }),
      reports: () => Deno.mkdir("reports/probe", { recursive: true }),
    };
    for (const [name, attempt] of Object.entries(attempts)) {
      try {
        await attempt();
        console.log(name, "allowed");
      } catch (error) {
        console.log(name, (error as Error).name);
      }
    }
    Deno.exit();`;
  home.copyProject();
  const writes = ["outside", "source"];
  for (const task of ["logscan", "grayscale"]) {
    const file = join(home.project, "tasks", `${task}.ts`);
    const code = await Deno.readTextFile(file);
    const after = "confine(flags);";
    assertStringIncludes(code, after, "the task gives up nothing");
    await Deno.writeTextFile(file, code.replace(after, `${after}\n${probe}`));
    const { stdout } = await home.run(task, "x");
    const refused = ["net", "run", "env", ...task === "logscan" ? writes : []];
    const allowed = [
      ...task === "logscan" ? [] : writes,
      ...["fixtures", "reports"],
    ];
    assertEquals(
      stdout,
      refused.map((name) => `${name} NotCapable\n`).join("") +
        allowed.map((name) => `${name} allowed\n`).join(""),
    );
  }
});

/** What `deno info` says of a module: what it imports, and how. */
interface Imported {
  specifier: string;
  dependencies?: { code?: { specifier?: string }; isDynamic?: boolean }[];
}

Deno.test("a task reads at its start nothing that only some runs need", async (t) => {
  const others = { logscan: "grayscale", grayscale: "logscan" };
  for (const [task, other] of Object.entries(others)) {
    await t.step(task, async () => {
      const { code, stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["info", "--json", `tasks/${task}.ts`],
        cwd: repo,
      }).output();
      assertEquals(code, 0);
      const { roots: [root], modules } = JSON.parse(
        new TextDecoder().decode(stdout),
      );
      const known = new Map<string, Imported>(
        modules.map((module: Imported) => [module.specifier, module]),
      );
      /** What is reached by imports that run, the dynamic ones on wish. */
      const reached = (withDynamic: boolean) => {
        const all = new Set<string>([root]);
        for (const name of all) {
          for (const each of known.get(name)?.dependencies ?? []) {
            const { code, isDynamic = false } = each;
            if (code?.specifier === undefined) continue;
            if (withDynamic || !isDynamic) all.add(code.specifier);
          }
        }
        return [...all];
      };
      assert(reached(false).some((name) => name.endsWith("/mod.ts")));
      const foreign = new RegExp(
        `^(node|npm):|/${other}|/report/|/cluster\\.ts`,
      );
      assertEquals(reached(false).filter((name) => foreign.test(name)), []);
      // Deno reads also what stands as a literal in an import() that does not run.
      const elsewhere = new RegExp(`^npm:|/${other}|/report/|/cluster\\.ts`);
      assertEquals(reached(true).filter((name) => elsewhere.test(name)), []);
    });
  }
});

Deno.test("ok and setup explain themselves, and do nothing else", async () => {
  await using home = new Home();
  for (const task of ["ok", "setup"]) {
    const { code, stdout, stderr } = await home.run(task, "--help");
    assertEquals([code, stderr], [0, ""], task);
    assertMatch(stdout, new RegExp(`^Usage: deno task ${task}\n[^\n]+\n$`));
  }
});

Deno.test("a terminal sees how far a task is", async (t) => {
  if (!await has("script")) return skipped("progress, without `script`");
  // So much work that none is done before the progress bar is loaded.
  const cases: [task: string, args: string[], seen: string][] = [
    [
      "fixtures",
      ["--images=998", "--logs=1", "--out=f", "--workers=1"],
      "999 fixtures",
    ],
    // The first one would replace an input.
    [
      "grayscale",
      ["d", "d/sub", "--out=d/sub", "--workers=1"],
      `${ENDLESS} images`,
    ],
  ];
  await using home = new Home();
  await home.write({ "d/sub/0.png": GIF });
  await makeEndless(home, "d");
  for (const [task, args, seen] of cases) {
    await t.step(task, async () => {
      const words = home.words(task, args).map((word) => `'${word}'`);
      const command = ["script", "-qec", words.join(" "), "/dev/null"];
      const child = home.start(command, { stdin: "piped" });
      const output = child.stdout.pipeThrough(new TextDecoderStream());
      const input = child.stdin.getWriter();
      let said = "", isSeen = false;
      for await (const text of output) {
        said += text;
        const [, first] = /\d+\/(\d+ (?:fixtures|images))/.exec(said) ?? [];
        if (isSeen || !first) continue;
        isSeen = true;
        assertEquals(first, seen);
        await input.write(new Uint8Array([3])); // Ctrl-C, as it is typed
      }
      assert(isSeen, said);
      await input.close();
      await child.stderr.cancel();
      assertEquals((await child.status).code, 130);
    });
  }
});

Deno.test("a name is on one line wherever that is read as a line", () => {
  const to = (terminal: boolean) => ({ isTerminal: () => terminal });
  for (const terminal of [true, false]) {
    const shown = printable("a\n\tb\x1b[31m é", to(terminal));
    assertEquals(shown, "a\\x0a\tb\\x1b[31m é");
  }
  if (Deno.stdout.isTerminal()) return skipped("stdout that is no terminal");
  assertEquals(printable("a\nb"), "a\nb");
});

Deno.test("commandLine can be typed again", async () => {
  const args = ["-k", "a b", "it's", "", "*.txt", "$HOME", "`x`", "a\nb", "é"];
  const line = commandLine("logscan", args);
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", line.replace("deno task logscan", "printf '%s|'")],
  }).output();
  assertEquals(new TextDecoder().decode(stdout), args.join("|") + "|");
  assertEquals(commandLine("bench", []), "deno task bench");
});

// logscan

Deno.test("logscan names files as the user did, and exits like grep", async (t) => {
  await using home = new Home();
  const hit = `fine\n${ALERT}\n`;
  await home.write({
    "logs/a b.txt": hit,
    "logs/a[1].txt": `${ALERT}`,
    "logs/c:d.txt": `${ALERT}\r\n\n${ALERT}\n`,
    "logs/.hidden": "fine\n",
    "logs/sub/.deep/z.log": hit,
    "logs/old.gz": new Uint8Array(gzipSync(hit)),
    "-dash.txt": hit,
    "none.txt": "nothing\n",
    "empty.txt": "",
  });
  const cases: [args: string[], code: number, stdout: string][] = [
    [["none.txt"], 1, "none.txt: Not found\n"],
    [["empty.txt", "--count"], 1, "empty.txt:0\n"],
    [["./logs/a b.txt"], 0, `./logs/a b.txt: Found, line 2: ${ALERT}\n`],
    [["logs/sub"], 0, `logs/sub/.deep/z.log: Found, line 2: ${ALERT}\n`],
    [
      ["./logs/", "--count"],
      0,
      "./logs/.hidden:0\n./logs/a b.txt:1\n./logs/a[1].txt:1\n" +
      "./logs/c:d.txt:2\n./logs/old.gz:1\n./logs/sub/.deep/z.log:1\n",
    ],
    [
      ["logs/c:d.txt", "--lines"],
      0,
      `logs/c:d.txt:1:${ALERT}\r\nlogs/c:d.txt:3:${ALERT}\n`,
    ],
    [["logs/a[1].txt", "--lines"], 0, `logs/a[1].txt:1:${ALERT}\n`],
    [["--lines", "--", "-dash.txt"], 0, `-dash.txt:2:${ALERT}\n`],
    [["--count", "*.txt"], 0, "-dash.txt:1\nempty.txt:0\nnone.txt:0\n"],
    [
      ["--count", "./logs/*.txt"],
      0,
      "./logs/a b.txt:1\n./logs/a[1].txt:1\n./logs/c:d.txt:2\n",
    ],
    [["--count", "**/*.log"], 0, "logs/sub/.deep/z.log:1\n"],
    [
      ["--count", `${home.path}/l*/a*`, "logs/a b.txt"], // each file once
      0,
      `${home.path}/logs/a b.txt:1\n${home.path}/logs/a[1].txt:1\n`,
    ],
    [
      ["--count", `../${home.path.split("/").pop()}/none.txt`],
      1,
      `../${home.path.split("/").pop()}/none.txt:0\n`,
    ],
    [["-k", "fin", "-k", "noth", "none.txt", "--count"], 0, "none.txt:1\n"],
    [["-k=-1", "none.txt", "--count"], 1, "none.txt:0\n"],
    [["-knoth", "none.txt", "--count"], 0, "none.txt:1\n"],
    [["-k-1", "none.txt", "--count=true"], 1, "none.txt:0\n"],
    [["-qknoth", "none.txt"], 0, ""],
    [["--quiet", "logs"], 0, ""],
    [["-q", "none.txt"], 1, ""],
    [["-q", "--json", "logs"], 0, ""],
    [["--json", "-k", "x", "empty.txt", "--workers", "1"], 1, emptyReport],
  ];
  const outcomes = await inTurns(
    cases,
    ([args]) => home.run("logscan", ...args),
  );
  for (const [i, [args, code, stdout]] of cases.entries()) {
    await t.step(args.join(" "), () => {
      assertEquals(outcomes[i], { code, stdout, stderr: "" });
    });
  }
});

const emptyReport =
  '{"path":"empty.txt","found":false,"count":0,"bytes":0,"hits":[]}\n';

Deno.test("logscan says what it cannot search, on a line each, and goes on", async (t) => {
  await using home = new Home();
  await home.write({ "logs/good.txt": ALERT, "logs/bad.gz": cutGzip() });
  await Deno.symlink("loop", join(home.path, "loop"));
  await Deno.symlink("..", join(home.path, "logs/up")); // is not followed
  const { success } = await new Deno.Command("mkfifo", {
    args: [join(home.path, "logs/fifo")],
  }).output();
  assert(success);
  const args = ["missing", "loop", "no*such", "", "logs", "logs/fifo"];
  const wanted = [
    ": No such file or directory",
    "logs/bad.gz: unexpected end of file",
    "logs/fifo: Not a regular file",
    "loop: Too many levels of symbolic links",
    "missing: No such file or directory",
    "no*such: No file matches",
  ];
  const good = `logs/good.txt: Found, line 1: ${ALERT}\n`;
  for (const more of [[], ["--compare"]]) {
    await t.step(
      ["found, but not all was searched", ...more].join(" "),
      async () => {
        home.copyProject();
        const { code, stdout, stderr } = await home.run(
          "logscan",
          ...args,
          ...more,
        );
        assertEquals(code, 2);
        assertEquals(stderr.trimEnd().split("\n").sort(), wanted);
        assert(stdout.startsWith(good), stdout);
        if (more.length === 0) assertEquals(stdout, good);
      },
    );
  }
  await t.step("a name with a newline is on one line", async () => {
    const { stderr } = await home.run("logscan", "no\nsuch");
    assertEquals(stderr, "no\\x0asuch: No such file or directory\n");
  });
  await t.step("--json", async () => {
    const { stdout } = await home.run("logscan", ...args, "--json", "--lines");
    const objects = stdout.trimEnd().split("\n").map((line) =>
      JSON.parse(line)
    );
    const problems = Object.fromEntries(
      objects.filter(({ error }) => error).map((
        { path, error },
      ) => [path, error]),
    );
    assertEquals(
      Object.entries(problems).map(([path, error]) => `${path}: ${error}`)
        .sort(),
      wanted,
    );
    assertEquals(objects.filter(({ error }) => !error), [{
      path: "logs/good.txt",
      line: 1,
      offset: 0,
      length: ALERT.length,
      keywords: ["unauthorized access"],
      text: ALERT,
    }]);
  });
  await t.step("no permission", async () => {
    if (Deno.uid() === 0) return skipped("unreadable files: root reads all");
    await home.write({ "locked.txt": ALERT, "closed/x.txt": ALERT });
    await Deno.chmod(join(home.path, "locked.txt"), 0);
    await Deno.chmod(join(home.path, "closed"), 0);
    const { code, stderr } = await home.run("logscan", "locked.txt", "closed");
    await Deno.chmod(join(home.path, "closed"), 0o700);
    assertEquals(code, 2);
    assertEquals(
      stderr.trimEnd().split("\n").sort(),
      ["closed: Permission denied", "locked.txt: Permission denied"],
    );
  });
});

function cutGzip(): Uint8Array {
  const noise = crypto.getRandomValues(new Uint8Array(9000));
  return new Uint8Array(gzipSync(noise).subarray(0, 5000));
}

Deno.test("logscan --quiet ends with the first hit, whatever else there is", async (t) => {
  await using home = new Home();
  await home.write({
    "hit": `${ALERT}\n`,
    "fine": "fine\n",
    "bad.gz": cutGzip(),
    "many/a": ALERT,
  });
  const cases: [args: string[], code: number][] = [
    [["hit", "missing"], 0],
    [["missing", "hit"], 0],
    [["bad.gz", "no*such", "hit"], 0],
    [["--json", "missing", "many"], 0],
    [["--workers=1", "missing", "many"], 0],
    [["missing", "fine"], 2],
    [["bad.gz"], 2],
  ];
  for (const [args, code] of cases) {
    await t.step(args.join(" "), async () => {
      const outcome = await home.run("logscan", "-q", ...args);
      assertEquals([outcome.code, outcome.stdout], [code, ""]);
    });
  }
  // It would wait for the end of its input, which does not come.
  for (const args of [["hit", "-"], ["-", "hit"], ["-"]]) {
    await t.step(`${args.join(" ")}, of what has no end`, async () => {
      const words = home.words("logscan", ["-q", ...args]);
      const child = home.start(words, { stdin: "piped" });
      const timer = setTimeout(() => child.kill(), 600_000);
      const input = child.stdin.getWriter();
      if (args[0] === "-") {
        await input.write(new TextEncoder().encode(`${ALERT}\n`));
      }
      assertEquals((await ended(child)).code, 0);
      clearTimeout(timer);
      await input.close().catch(() => {}); // nobody reads it any more
    });
  }
});

Deno.test("logscan passes over what is no file in a folder, and reports it where it is named", async () => {
  if (Deno.build.os === "windows") return skipped("FIFOs and sockets");
  await using home = new Home();
  await home.write({ "logs/sub/a": ALERT });
  for (const name of ["logs/fifo", "logs/sub/fifo"]) {
    const args = [join(home.path, name)];
    assert((await new Deno.Command("mkfifo", { args }).output()).success);
  }
  const bind = "import socket, sys; " +
    "socket.socket(socket.AF_UNIX).bind(sys.argv[1])";
  const named = ["logs/fifo"];
  if (await has("python3")) {
    const args = ["-c", bind, join(home.path, "logs/socket")];
    assert((await new Deno.Command("python3", { args }).output()).success);
    named.push("logs/socket");
  } else skipped("a socket, without python3");
  const found = `logs/sub/a: Found, line 1: ${ALERT}\n`;
  const folder = await home.run("logscan", "logs");
  assertEquals(folder, { code: 0, stdout: found, stderr: "" });
  const { code, stdout, stderr } = await home.run("logscan", "logs", ...named);
  assertEquals([code, stdout], [2, found]);
  const lines = named.map((name) => `${name}: Not a regular file\n`);
  assertEquals(stderr, lines.join(""));
});

Deno.test("what Deno keeps from tasks is reported without a flag that they do not have", async (t) => {
  if (Deno.build.os !== "linux") return skipped("/proc, /sys and /dev");
  await using home = new Home();
  await home.write({ "a.gif": GIF, "a.log": ALERT });
  await Deno.symlink("/proc/version", join(home.path, "link"));
  const problem = (place: string) =>
    `Deno does not let a program without all permissions read or write in ${place}`;
  const paths = ["/proc/version", "/proc", "/sys/kernel", "/dev", "/dev/shm"];
  for (const path of [...paths, "/proc/v*", "link"]) {
    await t.step(path, async () => {
      const place = path === "link" ? "/proc" : path.replace(/(.)\/.*/, "$1");
      const line = `${path === "/proc/v*" ? "/proc" : path}: ${problem(place)}`;
      const logs = await home.run("logscan", "--count", path, "a.log");
      assertEquals(logs, {
        code: 2,
        stdout: "a.log:1\n",
        stderr: `${line}: pipe it in\n`,
      });
      const images = await home.run("grayscale", path);
      assertEquals([images.code, images.stderr], [1, `${line}\n`]);
    });
  }
  await t.step("what is piped in is searched", async () => {
    const words = home.words("logscan", ["-q", "-k", "Linux"]);
    const script = '"$@" < /proc/version && cat /proc/version | "$@" -';
    const outcome = await ended(
      home.start(["sh", "-c", script, "sh", ...words]),
    );
    assertEquals(outcome, { code: 0, stdout: "", stderr: "" });
  });
  await t.step("--out", async () => {
    const out = "--out=/dev/shm/manyhands";
    const images = await home.run("grayscale", "a.gif", out);
    assertEquals(images.code, 2);
    const where = "grayscale: /dev/shm/manyhands";
    assertEquals(images.stderr, `${where}: ${problem("/dev")}\n`);
    const fixtures = await home.run("fixtures", "--images=1", "--logs=1", out);
    assertEquals([fixtures.code, fixtures.stdout], [2, ""]);
    const line = `fixtures: /dev/shm/manyhands/images: ${problem("/dev")}\n`;
    assertEquals(fixtures.stderr, line);
  });
});

Deno.test("a name that is not UTF-8 is reported, wherever it comes from", async (t) => {
  if (Deno.build.os !== "linux") return skipped("names that are not UTF-8");
  await using home = new Home();
  // `good` is spelt as Deno spells the others.
  const good = "logs/a\ufffd";
  await home.write({ [good]: ALERT, "logs/z": ALERT });
  const script = String.raw`cd "$0" && printf fine > logs/"$(printf 'a\377')" &&
    cp logs/z logs/"$(printf 'a\376')" && cp logs/z logs/"$(printf 'b\303(')" &&
    mkdir logs/"$(printf 'd\200')" && cp logs/z logs/"$(printf 'd\200')"/in &&
    mkfifo logs/"$(printf 'e\377')" && ln -s z logs/"$(printf 'f\377')" &&
    mkdir only && cp logs/z only/"$(printf 'g\377')"`;
  const made = await ended(home.start(["sh", "-c", script, home.path]));
  assertEquals([made.code, made.stderr], [0, ""]);
  const lines = (...names: string[]) =>
    names.map((name) =>
      `${name}: its name is not UTF-8, so Deno cannot open it\n`
    ).join("");
  const found = `${good}: Found, line 1: ${ALERT}\n` +
    `logs/z: Found, line 1: ${ALERT}\n`;
  const four = [good, good, "logs/b\ufffd(", "logs/d\ufffd"];
  const cases: [args: string[], stdout: string, stderr: string][] = [
    [["logs"], found, lines(...four)],
    [["logs", "logs/z"], found, lines(...four)],
    [["logs/b\ufffd("], "", lines("logs/b\ufffd(")],
    [["logs/d\ufffd/in"], "", lines("logs/d\ufffd/in")],
    [["only/*"], "", lines("only/g\ufffd")],
    [
      ["logs/x\ufffd"],
      "",
      "logs/x\ufffd: No such file or directory\n",
    ],
    [
      [`${good}/x`],
      "",
      `${good}/x: Not a directory\n`,
    ],
  ];
  for (const [args, stdout, stderr] of cases) {
    await t.step(args.join(" "), async () => {
      const outcome = await home.run("logscan", ...args);
      assertEquals(outcome, { code: 2, stdout, stderr });
    });
  }
  await t.step("images", async () => {
    const { code, stderr } = await home.run("grayscale", "only");
    assertEquals([code, stderr], [1, lines("only/g\ufffd")]);
  });
});

Deno.test("logscan agrees with grep and ripgrep on a generated tree", async (t) => {
  await using home = new Home();
  const words = ["error", "ERR", "a", "\t", "é", "\r", "x:y", "Disk Error "];
  let seed = 7;
  const random = (n: number) => (seed = seed * 48271 % 2147483647) % n;
  for (let i = 0; i < 40; i++) {
    let log = "";
    for (let k = random(300); k > 0; k--) {
      log += random(5) ? words[random(words.length)] : "\n";
    }
    await home.write({ [`t/${random(3)}/${random(2)}/f ${i}`]: log });
  }
  const sorted = (text: string) => text.split("\n").sort();
  const pieces = words.filter((word) => word !== "\r");
  const piece = () => pieces[random(pieces.length)];
  const list = Array.from({ length: 300 }, () => piece() + piece() + piece());
  const cases: [ours: string[], theirs: string[], keywords: string[]][] = [
    [["--lines"], ["-n"], ["error", "éa"]],
    [["--count"], ["-c"], ["error", "éa"]],
    [["--lines", "-i"], ["-n", "-i"], ["Error"]],
    [["--count", "--ignore-case"], ["-c", "-i"], ["Error", "aDISK", "RR"]],
    [["--lines", "--workers=1"], ["-n"], [..."xyzéAB", "err", "rror"]],
    [["--lines", "-w"], ["-n", "-w"], ["error", "x:y", "ERR"]],
    [["--count", "-w", "-i"], ["-c", "-w", "-i"], ["disk error ", "ÉA"]],
    [["--count"], ["-c"], list],
    [["--lines", "-i", "--workers=2"], ["-n", "-i"], list],
  ];
  const tools: Record<string, string[]> = {
    grep: ["-r", "-a"],
    rg: ["--no-config", "-uu", "-a", "--no-heading", "--include-zero"],
  };
  for (const [tool, flags] of Object.entries(tools)) {
    if (!await has(tool)) {
      skipped(`agreement with ${tool}: there is none`);
      continue;
    }
    for (const [ours, theirs, keywords] of cases) {
      const what = `${tool} ${theirs.join(" ")} ${keywords.slice(0, 5)}`;
      await t.step(what, async () => {
        const wanted = await new Deno.Command(tool, {
          args: [
            ...[...flags, "-F", ...theirs],
            ...keywords.flatMap((keyword) => ["-e", keyword]),
            "./t",
          ],
          cwd: home.path,
          env: { LC_ALL: "C.UTF-8" },
        }).output();
        const keys = keywords.flatMap((keyword) => ["-k", keyword]);
        const { code, stdout } = await home.run(
          "logscan",
          ...[...keys, ...ours, "./t"],
        );
        const theirOutput = new TextDecoder().decode(wanted.stdout);
        assertEquals(sorted(stdout), sorted(theirOutput));
        assertEquals(code, wanted.code);
      });
    }
  }
});

Deno.test("logscan reads standard input, plain or compressed", async () => {
  await using home = new Home();
  await home.write({
    "a.txt": `x\n${ALERT}\n`,
    "a.gz": new Uint8Array(gzipSync(`x\n${ALERT}\n`)),
    "a.zst": new Uint8Array(zstdCompressSync(`x\n${ALERT}\n`)),
  });
  for (const name of ["a.txt", "a.gz", "a.zst"]) {
    const words = home.words("logscan", [
      "--lines",
      "-",
      join(home.path, "a.gz"),
    ]);
    const script = 'cat "$0" | "$@"';
    const outcome = await ended(
      home.start(["sh", "-c", script, join(home.path, name), ...words]),
    );
    assertEquals(outcome, {
      code: 0,
      stdout: `-:2:${ALERT}\n${home.path}/a.gz:2:${ALERT}\n`,
      stderr: "",
    });
  }
  const { code, stdout } = await home.run("logscan", "-"); // empty standard input
  assertEquals([code, stdout], [1, "-: Not found\n"]);
});

Deno.test("logscan searches what tools have packed, and reports what others have", async (t) => {
  await using home = new Home();
  const line = "nothing to see here, move along\n";
  await home.write({ log: `${line.repeat(300_000)}${ALERT}\n` });
  const supported: [tool: string, flags: string][] = [
    ...["-1", "-9"].map((flags) => ["gzip", flags] as never),
    ...["-1", "-19", "--long", "--no-check", "--rsyncable", "--format=gzip"]
      .map((flags) => ["zstd", flags] as never),
    ["pzstd", "-p 2"],
    ...["bzip2", "xz", "lz4"].map((tool) => [tool, "-1"] as never),
  ];
  const unsupported: Record<string, string> = {
    lzma: "xz -0c --format=lzma log",
    "7z": "7z a -so -an -t7z log",
    "compress (.Z)": "compress -c log",
  };
  const make = (script: string, name: string) =>
    ended(
      home.start(["sh", "-c", `cd "$0" && ${script} > ${name}`, home.path]),
    );
  for (const [tool, flags] of supported) {
    await t.step(`${tool} ${flags}`, async () => {
      if (!await has(tool)) return skipped(`${tool}: there is none`);
      await make(`${tool} ${flags} -qc log`, "part");
      await make("cat part part", "packed");
      const { code, stdout, stderr } = await home.run(
        "logscan",
        ...["--lines", "packed"],
      );
      assertEquals([code, stderr], [0, ""]);
      const lines = [300_001, 600_002].map((i) => `packed:${i}:${ALERT}\n`);
      assertEquals(stdout, lines.join(""));
    });
  }
  for (const [name, script] of Object.entries(unsupported)) {
    const [tool] = script.split(" ");
    await t.step(script, async () => {
      if (!await has(tool)) return skipped(`${tool}: there is none`);
      await make(script, "packed");
      const { code, stdout, stderr } = await home.run("logscan", "packed");
      assertEquals([code, stdout], [2, ""]);
      const problem = `${name} is not supported: decompress it first`;
      assertEquals(stderr, `packed: ${problem}\n`);
    });
  }
});

Deno.test("logscan searches what is piped in where keywords have no path", async (t) => {
  await using home = new Home();
  await home.write({ "hit.log": "x\nout of memory\n", "empty.log": "" });
  const missing =
    "logscan: nothing to search: name a path, or pipe something in (see --help)\n";
  const words = home.words("logscan", ["-k", "out of memory"]);
  const run = (script: string, ...more: string[]) =>
    ended(home.start(["sh", "-c", script, home.path, ...words, ...more]));
  const cases: [script: string, code: number, stdout: string][] = [
    ['cat "$0/hit.log" | "$@"', 0, "-: Found, line 2: out of memory\n"],
    ['"$@" < "$0/hit.log"', 0, "-: Found, line 2: out of memory\n"],
    ['cat "$0/empty.log" | "$@"', 1, "-: Not found\n"],
    ['"$@" < "$0/empty.log"', 1, "-: Not found\n"],
    ['"$@" < /dev/null', 2, ""],
    ['"$@" <&-', 2, ""],
  ];
  for (const [script, code, stdout] of cases) {
    await t.step(script, async () => {
      const stderr = code === 2 ? missing : "";
      assertEquals(await run(script), { code, stdout, stderr });
    });
  }
  await t.step("a path that is named wins", async () => {
    const { stdout } = await run(cases[0][0], "empty.log");
    assertEquals(stdout, "empty.log: Not found\n");
  });
  await t.step("it cannot be read twice", async () => {
    const { code, stderr } = await run(cases[1][0], "--compare");
    assertEquals(code, 2);
    assertMatch(stderr, /^logscan: --compare .*\n$/);
  });
  await t.step("a terminal is nothing to search", async () => {
    if (!await has("script")) return skipped("a terminal, without `script`");
    const command = words.map((word) => `'${word}'`).join(" ");
    const { code, stdout } = await ended(
      home.start(["script", "-qec", command, "/dev/null"]),
    );
    assertEquals([code, stdout], [2, missing.replace("\n", "\r\n")]);
  });
  assertEquals(home.list(), ["empty.log", "hit.log"]);
});

Deno.test("logscan prints lines of standard input as they come", async () => {
  await using home = new Home();
  const words = home.words("logscan", ["--lines", "-k", "hit", "-"]);
  const child = home.start(words, { stdin: "piped" });
  const timer = setTimeout(() => child.kill(), 600_000); // ends a hang: it waits for more
  const input = child.stdin.getWriter(), output = child.stdout.getReader();
  // The first one is shorter than what tells of some encodings, and begins alike.
  for (const [line, log] of [[1, "PK "], [3, "x\n"], [5, "begun\n"]]) {
    await input.write(new TextEncoder().encode(`${log}hit\n`));
    const { value } = await output.read();
    const last = log === "PK " ? "PK hit" : "hit";
    assertEquals(new TextDecoder().decode(value), `-:${line}:${last}\n`);
  }
  await input.close();
  assert((await output.read()).done);
  await child.stderr.cancel();
  assertEquals((await child.status).code, 0);
  clearTimeout(timer);
});

Deno.test("logscan finds hits among many files, and starts workers for them", async () => {
  await using home = new Home();
  const filler = "nothing to see here, move along\n".repeat(60_000);
  await home.write({ "fine": filler, "hit": `${filler}${ALERT}` });
  await Deno.mkdir(join(home.path, "logs"));
  const wanted: string[] = [];
  for (let i = 0; i < 160; i++) {
    const name = `logs/${String(i).padStart(3, "0")}`;
    const content = i % 9 ? "fine" : "hit";
    Deno.linkSync(join(home.path, content), join(home.path, name));
    if (i % 9 === 0) wanted.push(`${name}:60001:${ALERT}`);
  }
  const { stdout, stderr } = await home.run("logscan", "--lines", "logs");
  assertEquals(stdout.trimEnd().split("\n"), wanted);
  assertEquals(stderr, "");
});

Deno.test("logscan ends quietly when nobody reads on, and says when it cannot write", async () => {
  await using home = new Home();
  await home.write({ "big.txt": `${ALERT}\n`.repeat(30_000) });
  for (const format of ["--lines", "--json"]) {
    const words = home.words("logscan", ["--lines", format, "big.txt"]);
    const script = '"$@" | head -c 60';
    const { stdout, stderr } = await ended(
      home.start(["sh", "-c", script, "sh", ...words]),
    );
    assertEquals([stdout.length, stderr], [60, ""], format);
  }
  // What it has to say of a file is no reason to leave out the others.
  const args = [
    "-l",
    ...["none", "no", "nil"].map((n) => `${n}.txt`),
    "big.txt",
  ];
  const unread = '{ { "$@"; echo "$?" >&3; } 2>&1 >&3 3>&3 | true; } 3>&1';
  const outcome = await ended(
    home.start(["sh", "-c", unread, "sh", ...home.words("logscan", args)]),
  );
  assertEquals(outcome.stdout, "big.txt\n2\n");
  if (Deno.build.os !== "linux") return skipped("a full disk: no /dev/full");
  const unsaid = await ended(
    home.start([
      "sh",
      "-c",
      '"$@" 2> /dev/full',
      "sh",
      ...home.words("logscan", args),
    ]),
  );
  assertEquals([unsaid.code, unsaid.stdout], [2, "big.txt\n"]);
  const words = home.words("logscan", ["--lines", "big.txt"]);
  const full = await ended(
    home.start(["sh", "-c", '"$@" > /dev/full', "sh", ...words]),
  );
  assertEquals(full.code, 2);
  assertMatch(full.stderr, /^logscan: No space left on device.*\n$/);
});

Deno.test("logscan without arguments does the exercise, and reports on it", async () => {
  await using home = new Home();
  home.copyProject();
  const first = await home.run("logscan");
  assertEquals([first.code, first.stderr], [0, ""]);
  const names = Array.from({ length: 10 }, (_, i) => `log_${i + 1}.txt`);
  const folder = "project/fixtures/logs";
  assertEquals(home.list(folder), names.toSorted());
  const before = readAll(home, folder);
  const wanted = names.map((name) => {
    const lines = before[name].split("\n");
    assertEquals(lines.length, 1001, name);
    assertEquals(lines.pop(), "");
    const usual = ["User login successful", "System error occurred"];
    const odd = lines.filter((line) => !usual.includes(line));
    assert(odd.length < 2 && lines.includes(usual[1]), name);
    if (odd.length === 0) return `${name}: Not found\n`;
    assertMatch(odd[0], /^Alert: unauthorized access .* IP 192\.168\.0\.\d+$/);
    return `${name}: Found, line ${lines.indexOf(odd[0]) + 1}: ${odd[0]}\n`;
  });
  assert(wanted.some((line) => line.includes("Not found")));
  assert(wanted.some((line) => line.includes("Found, line")));
  assert(first.stdout.startsWith(wanted.join("") + "\n|"), first.stdout);
  checkReport(home, "logscan", first.stdout, "deno task logscan\n");

  // It is the exercise, whatever is piped in.
  const words = home.words("logscan", ["--json", "--workers", "1"]);
  const second = await ended(
    home.start(["sh", "-c", 'echo x | "$@"', "sh", ...words]),
  );
  assertEquals(readAll(home, folder), before);
  assertEquals(second.stdout.trimEnd().split("\n").length, 10);
  const report = readReport(home, "logscan");
  assertStringIncludes(report, "deno task logscan --json --workers 1\n");
  assertMatch(
    report,
    /One worker only moves the work|On this machine .*the pool/,
  );
});

function readAll(home: Home, folder: string): Record<string, string> {
  const read = (name: string) => [
    name,
    Buffer.from(Deno.readFileSync(join(home.path, folder, name)))
      .toString("latin1"),
  ];
  return Object.fromEntries(home.list(folder).map(read));
}

function readReport(home: Home, task: string): string {
  return Deno.readTextFileSync(join(home.project, "reports", `${task}.md`));
}

/** What was printed after the results stands in the report, word for word. */
function checkReport(
  home: Home,
  task: string,
  stdout: string,
  command: string,
): void {
  const report = readReport(home, task);
  const printed = stdout.slice(stdout.indexOf("\n|") + 1);
  const [table, conclusion, where] = printed.split("\n\n");
  for (const row of ["sequential", "parallel", "workers", "speed-up"]) {
    assertMatch(table, new RegExp(`^\\| ${row} +\\| +[\\d.]+`, "m"));
  }
  assertStringIncludes(report, `## Result\n\n${table}\n`);
  assert(report.endsWith(`## Conclusion\n\n${conclusion}\n`), conclusion);
  assertEquals(where, `Report: project/reports/${task}.md\n`);
  assertStringIncludes(report, `Command:\n\n    ${command}`);
  assertMatch(report, /^- CPU: \S/m);
  assertMatch(report, /^- cores: \d/m);
  assertStringIncludes(report, `- Deno ${Deno.version.deno}, V8 `);
  assertMatch(report, /^- date: \d{4}-\d\d-\d\dT/m);
  assertStringIncludes(report, "```mermaid\nxychart-beta\n");
  assertStringIncludes(report, "```mermaid\ngantt\n");
  for (const section of ["sequential", "worker \\d+"]) {
    assertMatch(
      report,
      new RegExp(`section ${section}\n  \\d+ (\\w+.* )?: \\d+, \\d+`),
    );
  }
  // A job of the log scan covers several files.
  const isNamed = /^ {2}\d+ \w+.* : /m.test(report);
  assertEquals(isNamed, task === "grayscale");
  assertEquals(report.includes("\nA bar is a job: "), !isNamed);
  assert(!/NaN|Infinity|undefined/.test(report), report);
}

Deno.test("logscan says in one line when it can write no fixtures or report", async (t) => {
  await using home = new Home();
  await home.write({ "a.txt": ALERT });
  home.copyProject();
  for (const blocked of ["fixtures", "reports"]) {
    await t.step(blocked, async () => {
      await Deno.writeTextFile(join(home.project, blocked), "no folder");
      const args = blocked === "reports"
        ? ["a.txt", "--compare", "--json", "--workers=1"]
        : [];
      const { code, stdout, stderr } = await home.run("logscan", ...args);
      assertEquals(code, 2);
      assertMatch(stderr, new RegExp(`^logscan: .*${blocked}.*\n$`));
      if (args.length > 0) assertEquals(JSON.parse(stdout).path, "a.txt");
    });
  }
});

// grayscale

/** The GIF above, gray. */
const GRAY = GIF.map((byte, i) => i >= 13 && i < 16 ? 76 : byte);

Deno.test("grayscale keeps the layout of files, folders and globs", async (t) => {
  const cases: [args: string[], made: string[]][] = [
    [["a.gif"], ["gray/a.gif"]],
    [["p"], ["gray/b c.gif", "gray/q/.d.gif", "gray/q/e[1].gif"]],
    [["p/q", "--out", "x/y"], ["x/y/.d.gif", "x/y/e[1].gif"]],
    [["p/q/e[1].gif", "p/b c.gif"], ["gray/b c.gif", "gray/q/e[1].gif"]],
    [["p/*.gif", "a.gif", "--out", "."], []], // onto their inputs
    [["p/*.gif", "a.gif"], ["gray/a.gif", "gray/p/b c.gif"]],
    [["**/e*"], ["gray/p/q/e[1].gif"]],
    [["p", "--out=p/gray"], [
      ...["p/gray/b c.gif", "p/gray/q/.d.gif", "p/gray/q/e[1].gif"],
    ]],
  ];
  for (const [args, made] of cases) {
    await t.step(args.join(" "), async () => {
      await using home = new Home();
      const inputs = ["a.gif", "p/b c.gif", "p/q/.d.gif", "p/q/e[1].gif"];
      for (const name of inputs) await home.write({ [name]: GIF });
      const { code, stdout, stderr } = await home.run("grayscale", ...args);
      assertEquals(home.list(), [...inputs, ...made].sort());
      for (const name of inputs) assertEquals(readGif(home, name), GIF);
      for (const name of made) assertEquals(readGif(home, name), GRAY);
      if (made.length > 0) {
        const images = made.length === 1 ? "1 image" : `${made.length} images`;
        assertMatch(stdout, new RegExp(`^${images} converted into .* s\n$`));
        assertEquals([code, stderr], [0, ""]);
      } else {
        assertEquals(code, 1);
        assertEquals(
          stderr.match(/: the output would replace the input\n/g)?.length,
          2,
        );
      }
      // The second time, outputs of the first are not taken as inputs.
      await home.run("grayscale", ...args);
      assertEquals(home.list(), [...inputs, ...made].sort());
    });
  }
});

Deno.test("grayscale follows links that are named, on both sides", async () => {
  await using home = new Home();
  await home.write({ "else, here/a[1].gif": GIF, "photos/b.gif": GIF });
  await Deno.mkdir(join(home.path, "results"));
  const links = {
    "link.gif": "else, here/a[1].gif",
    "album": "photos",
    "photos/unnamed.gif": "../else, here/a[1].gif",
    "gray": "results",
  };
  for (const [name, target] of Object.entries(links)) {
    await Deno.symlink(target, join(home.path, name));
  }
  for (const args of [["--force"], ["--compare"]]) {
    const files = ["link.gif", "album", "./else, here/../else, here/a[1].gif"];
    const { stdout, stderr } = await home.run("grayscale", ...files, ...args);
    assertEquals(stderr, "");
    assertMatch(stdout, /^3 images converted into gray/);
    const made = ["album/b.gif", "else, here/a[1].gif", "link.gif"];
    assertEquals(home.list("results"), made);
    await Deno.remove(join(home.path, "results"), { recursive: true });
    await Deno.mkdir(join(home.path, "results"));
  }
});

function readGif(home: Home, name: string): Uint8Array<ArrayBuffer> {
  return Deno.readFileSync(join(home.path, name));
}

Deno.test("grayscale skips what is up to date, redoes what is not", async () => {
  await using home = new Home();
  await home.write({ "in/a.gif": GIF, "in/b.gif": GIF });
  const changed = async (name: string, hours: number) => {
    const time = new Date(Date.now() + 3_600_000 * hours);
    await Deno.utime(join(home.path, name), time, time);
  };
  for (const name of ["in/a.gif", "in/b.gif"]) await changed(name, -1);
  const done = async (...more: string[]) => {
    const { code, stdout } = await home.run(
      "grayscale",
      "in",
      "--json",
      ...more,
    );
    assertEquals(code, 0);
    const objects = linesOf<{ path: string; skipped?: true }>(stdout);
    return objects.filter((one) => !one.skipped).map(({ path }) => path).sort();
  };
  assertEquals(await done(), ["in/a.gif", "in/b.gif"]);
  assertEquals(await done(), []);
  assertEquals(await done("--force"), ["in/a.gif", "in/b.gif"]);
  await changed("in/b.gif", 24);
  assertEquals(await done(), ["in/b.gif"]);
  await Deno.remove(join(home.path, "gray/a.gif"));
  assertEquals(await done(), ["in/a.gif", "in/b.gif"]);
});

Deno.test("grayscale never writes over an input", async () => {
  await using home = new Home();
  await home.write({ "d/a.gif": GIF, "d/sub/a.gif": GIF });
  await Deno.symlink("d", join(home.path, "alias"));
  await Deno.symlink("d/sub", join(home.path, "inner"));
  const cases: [args: string[], cause: string, lines: number][] = [
    [["d", "--out", "d"], "the input", 2],
    [["d", "--out", "./alias"], "the input", 2],
    [["d/*", "--out", "d"], "the input", 2],
    [["d/a.gif", "d/sub/a.gif", "--out", "d/sub/.."], "the input", 2],
    // The gray d/a.gif would be d/sub/a.gif, which is to be converted as well.
    [["d", "d/sub", "--out", "d/sub"], "another input", 1],
    // The same through links; each time there is one more, a folder deeper.
    [["d", "--out", "inner"], "another input", 2],
    [["alias", "--out", "d/sub"], "another input", 3],
  ];
  for (const [args, cause, lines] of cases) {
    const { code, stderr } = await home.run("grayscale", ...args);
    assertEquals(code, 1, args.join(" "));
    const parts = stderr.split(`: the output would replace ${cause}\n`);
    assertEquals([parts.length - 1, parts.at(-1)], [lines, ""], stderr);
    for (const name of ["d/a.gif", "d/sub/a.gif"]) {
      assertEquals(readGif(home, name), GIF, args.join(" "));
    }
  }
});

Deno.test("grayscale names what it cannot convert, on a line each, and goes on", async () => {
  await using home = new Home();
  const image = { seed: 1, width: 40, height: 30 };
  const path = (name: string) => join(home.path, name);
  await home.write({
    "in/good.gif": GIF,
    "in/cut.gif": GIF.slice(0, 30),
    "in/empty.png": "",
    "in/text.jpg": "no image at all",
    "in/.left.gif.1-0a1b2c3d.manyhands": GIF, // of a killed run: no input
  });
  await makeImage({ ...image, path: path("in/big.png") });
  await makeImage({ ...image, path: path("in/good.jpg"), width: 30 });
  await makeImage({ ...image, path: path("in/cut.png"), width: 30 });
  await Deno.truncate(path("in/cut.png"), 900);
  const args = ["in", "nothing", "--max-pixels", "900"];
  const { code, stdout, stderr } = await home.run("grayscale", ...args);
  assertEquals(code, 1);
  assertEquals(home.list("gray"), ["good.gif", "good.jpg"]);
  assertMatch(stdout, /^2 images converted into gray, 6 failed in .* s\n$/);
  const causes: Record<string, RegExp> = {
    "in/big.png": /too large: 40x30 is more than 900 pixels/,
    "in/cut.gif": /truncated GIF/,
    "in/cut.png": /truncated PNG/,
    "in/empty.png": /empty file/,
    "in/text.jpg": /not an image/,
    "nothing": /No such file or directory/,
  };
  const lines = stderr.trimEnd().split("\n").sort();
  assertEquals(lines.map((line) => line.split(": ")[0]), Object.keys(causes));
  for (const line of lines) assertMatch(line, causes[line.split(": ")[0]]);
  const json = await home.run("grayscale", ...args, "--json", "--force");
  const objects = linesOf<Record<string, string>>(json.stdout);
  assertEquals(
    objects.map(({ path, error, out }) => error ? path : `${path} ${out}`)
      .sort(),
    [...Object.keys(causes), "in/good.gif gray/good.gif"]
      .concat("in/good.jpg gray/good.jpg").sort(),
  );
  const quiet = await home.run("grayscale", ...args, "--json", "--quiet");
  assertEquals([quiet.code, quiet.stdout], [1, ""]);
});

Deno.test("grayscale says what was wrong with an image that it converted", async () => {
  await using home = new Home();
  const path = join(home.path, "a.jpg");
  await makeImage({ seed: 1, width: 40, height: 30, path });
  const bytes = Buffer.from(await Deno.readFile(path));
  const frame = bytes.indexOf(Buffer.from([0xff, 0xc0]));
  const [head, rest] = [bytes.subarray(0, frame), bytes.subarray(frame)];
  await Deno.writeFile(path, Buffer.concat([head, Buffer.alloc(3), rest]));
  const { code, stdout, stderr } = await home.run("grayscale", "a.jpg");
  const warning = `3 stray bytes before a marker, at byte ${frame}`;
  assertEquals(stderr, `a.jpg: converted, but for ${warning}\n`);
  assertMatch(stdout, /^1 image converted into gray in .* s\n$/);
  assertEquals(code, 0);
  const json = await home.run("grayscale", "a.jpg", "--json", "--force");
  assertEquals(JSON.parse(json.stdout).warning, warning);
});

Deno.test("grayscale --compare says what the pool brought for one's own images", async () => {
  await using home = new Home();
  home.copyProject();
  await home.write({
    "in/2024-01-01 #1.gif": GIF,
    "in/b.gif": GIF,
    "in/c.gif": "",
    "in/left alone": "",
  });
  const args = ["in", "--compare", "--workers", "1"];
  for (let time = 1; time <= 2; time++) { // up to date or not
    const { code, stdout, stderr } = await home.run("grayscale", ...args);
    assertEquals([code, stderr], [1, "in/c.gif: empty file\n"]);
    const line = /^2 images .* gray, 1 failed; 1 other file left alone\n\n\|/;
    assertMatch(stdout, line);
    assertStringIncludes(stdout, " 2 images and 1 that failed (");
    checkReport(
      home,
      "grayscale",
      stdout,
      `deno task grayscale ${args.join(" ")}`,
    );
    assertStringIncludes(
      readReport(home, "grayscale"),
      "  1 2024-01-01 _1.gif :",
    );
  }
});

Deno.test("grayscale --compare compares nothing where all failed", async () => {
  await using home = new Home();
  home.copyProject();
  await home.write({ "in/a.gif": "", "in/b.gif": "" });
  for (const path of ["in", "missing"]) {
    const { code, stdout } = await home.run("grayscale", path, "--compare");
    const failed = path === "in" ? 2 : 1;
    const wanted =
      `0 images converted into gray, ${failed} failed: nothing to compare\n`;
    assertEquals([code, stdout], [1, wanted]);
  }
  assert(!home.list("project").some((name) => name.startsWith("reports")));
});

/** 1280 and 1920, as they stand in a JPEG's frame header. */
const HEIGHT_WIDTH = "\x05\0\x07\x80";

Deno.test("grayscale without arguments makes ten images, and compares", async () => {
  await using home = new Home();
  home.copyProject();
  const names = Array.from(
    { length: 10 },
    (_, i) => `image_${i + 1}.${i % 2 ? "png" : "jpg"}`,
  );
  const folder = "project/fixtures/images";
  // All but one are small: they are kept as if an earlier run had made them.
  await Deno.mkdir(join(home.path, folder), { recursive: true });
  for (const [seed, name] of names.slice(1).entries()) {
    const path = join(home.path, folder, name);
    await makeImage({ path, seed, width: 60, height: 40 });
  }
  const before = readAll(home, folder);
  const { code, stdout, stderr } = await home.run("grayscale");
  assertEquals([code, stderr], [0, ""]);
  const after = readAll(home, folder);
  assertEquals(Object.keys(after), names.toSorted());
  for (const name of Object.keys(before)) {
    assertEquals(after[name], before[name], `${name} is kept`);
  }
  assertStringIncludes(after["image_1.jpg"], HEIGHT_WIDTH);
  assertEquals(home.list("project/fixtures/gray"), names.toSorted());
  assert(
    stdout.startsWith("10 images converted into project/fixtures/gray\n\n"),
  );
  checkReport(home, "grayscale", stdout, "deno task grayscale\n");
});

// Ctrl-C

function pressCtrlC(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGINT");
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // it has ended already
  }
}

Deno.test("Ctrl-C leaves no temporary and no half file", async (t) => {
  await using home = new Home();
  const first = join(home.path, "in/0.png");
  await makeEndless(home, "in");
  assertEquals((await home.run("grayscale", first, "--out", "ref")).code, 0);
  const whole = readGif(home, "ref/0.png");
  /** Waits until that many are done, then interrupts, twice. */
  const interrupt = async (
    child: Deno.ChildProcess,
    many: number,
    kill: () => void,
    before = () => {},
  ) => {
    const outcome = ended(child);
    const done = () => outputs(home).filter((name) => /^\d/.test(name)).length;
    const hasBegun = () => exists(join(home.path, "gray"));
    // Before that it is still starting, and the outcome is the same.
    if (many < 0) await new Promise((go) => setTimeout(go, 99 * Math.random()));
    else if (many === 0) await waitUntil(hasBegun, child);
    else await waitUntil(() => done() >= many, child);
    before();
    kill();
    kill();
    return await outcome;
  };
  const check = async () => {
    for (const name of outputs(home)) {
      assertMatch(name, /^\d+\.png$/, "no temporary file");
      assertEquals(readGif(home, `gray/${name}`), whole, "no half file");
    }
    if (await exists(join(home.path, "gray"))) {
      Deno.removeSync(join(home.path, "gray"), { recursive: true });
    }
  };
  for (const many of [-1, 0, 1, 2, 5]) {
    await t.step(`after ${many} images`, async () => {
      const args = ["in", "--workers", "2"];
      const child = home.start(home.words("grayscale", args));
      const leave = () => {
        if (many < 0) return;
        Deno.writeFileSync(join(home.path, "gray", temporaryOf(child)), GIF);
      };
      const kill = () => pressCtrlC(child);
      const outcome = await interrupt(child, many, kill, leave);
      assertEquals(outcome, { code: 130, stdout: "", stderr: "" });
      await check();
    });
  }
  await t.step("through deno task", async () => {
    const args = ["task", "-q", "grayscale", "in", "--workers", "2"];
    const child = home.start([Deno.execPath(), ...args], {
      detached: true,
    });
    // As a terminal does: to all of the process group at once.
    const kill = () =>
      void new Deno.Command("sh", {
        args: ["-c", `kill -INT -${child.pid}`],
      }).outputSync();
    const { code, stdout } = await interrupt(child, 1, kill);
    assertEquals([code, stdout], [130, ""]);
    await check();
  });
  await t.step("what a killed run left is cleared by the next", async () => {
    const left = join(home.path, "gray/.x.png.1-0a1b2c3d.manyhands");
    await Deno.mkdir(join(home.path, "gray"));
    await Deno.writeFile(left, GIF);
    const old = new Date(Date.now() - 3_600_000);
    await Deno.utime(left, old, old);
    assertEquals((await home.run("grayscale", first)).code, 0);
    assertEquals(outputs(home), ["0.png"]);
    await check();
  });
});

function outputs(home: Home): string[] {
  try {
    return home.list("gray");
  } catch {
    return []; // not made yet
  }
}

/** A temporary file of a process, as if it were writing: it rarely has one. */
function temporaryOf({ pid }: Deno.ChildProcess): string {
  return `.x.png.${pid}-0a1b2c3d.manyhands`;
}

Deno.test("Ctrl-C ends the other tasks, too", async (t) => {
  await using home = new Home();
  home.copyProject();
  await makeEndless(home, "in");
  /** What shows that it has begun: a file or a line; and where it writes. */
  const cases: [
    task: string,
    args: string[],
    begun: string | RegExp,
    folder?: string,
  ][] = [
    [
      "fixtures",
      ["--images=999", "--out=f", "--workers=1"],
      "f/images/image_1.jpg",
      "f/images",
    ],
    ["logscan", ["--lines", "-khit", "-"], /^-:1:hit\n$/, "project/reports"],
    ["grayscale", ["--simulate", "--workers=1"], /^Sequentially:\n/],
    ["grayscale", ["in", "--compare", "--workers=1"], "gray/0.png", "gray"],
    [
      "bench",
      ["logscan", "--percent=1", "--runs=999"],
      "project/fixtures/bench/logscan/1/many/0.log",
    ],
  ];
  for (const [task, args, begun, folder] of cases) {
    await t.step([task, ...args].join(" "), async () => {
      // Standard input stays open: there could be more.
      const child = home.start(home.words(task, args), { stdin: "piped" });
      const input = child.stdin.getWriter();
      await input.write(new TextEncoder().encode("hit\n"));
      let said = "";
      const output = child.stdout.pipeThrough(new TextDecoderStream());
      const saying = (async () => {
        for await (const text of output) said += text;
      })();
      await waitUntil(
        () =>
          typeof begun === "string"
            ? exists(join(home.path, begun))
            : begun.test(said),
        child,
      );
      if (folder) await home.write({ [`${folder}/${temporaryOf(child)}`]: "" });
      pressCtrlC(child);
      pressCtrlC(child);
      const [stderr, status] = [await child.stderr.text(), await child.status];
      await saying;
      await input.close().catch(() => {}); // nobody reads any more
      assertEquals([status.code, stderr], [130, ""]);
      assertEquals(status.signal, null, "by itself, not by the signal");
      assertEquals(home.list().filter((name) => /manyhands$/.test(name)), []);
    });
  }
});

Deno.test("Ctrl-C is heard by a thread that is busy, within a few turns", async () => {
  await using home = new Home();
  await home.write({
    "busy.ts": `
      import { Yielder } from ${
      JSON.stringify(join(repo, "tasks/cli/program.ts"))
    };
      let isHeard = false, count = 0;
      Deno.addSignalListener("SIGINT", () => isHeard = true);
      const yielder = new Yielder();
      for (; !isHeard && count < 20; count++) {
        if (count === 3) Deno.kill(Deno.pid, "SIGINT");
        const start = performance.now();
        while (performance.now() < start + 250);
        await yielder.yield();
      }
      console.log(isHeard);
      Deno.exit();`,
  });
  const args = ["run", "--quiet", "--config", join(repo, "deno.json"), "-A"];
  const path = join(home.path, "busy.ts");
  const outcome = await ended(home.start([Deno.execPath(), ...args, path]));
  assertEquals(outcome, { code: 0, stdout: "true\n", stderr: "" });
});

Deno.test("grayscale --simulate does the exercise to the letter", async () => {
  await using home = new Home();
  // With one worker, twenty seconds are left when it is interrupted.
  const args = ["--simulate", "--workers=1"];
  const child = home.start(home.words("grayscale", args));
  const wanted = "Sequentially:\nProcessing image_1.jpg\n" +
    "image_1.jpg processed\nProcessing image_2.jpg\n";
  let said = "";
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) {
    said += decoder.decode(bytes);
    if (said.length >= wanted.length) pressCtrlC(child);
  }
  const { code } = await child.status;
  assertEquals(await child.stderr.text(), "");
  assertEquals([said.slice(0, wanted.length), code], [wanted, 130]);
});

// fixtures and bench

Deno.test("fixtures are the same for the same seed, and others for another", async () => {
  await using home = new Home();
  const make = async (out: string, images: string, ...args: string[]) => {
    const order = ["--images", images, "--logs", "4", "--lines", "50"];
    const { code, stderr } = await home.run(
      "fixtures",
      ...[...order, "--out", out, ...args],
    );
    assertEquals([code, stderr], [0, ""]);
    return readAll(home, out);
  };
  const first = await make("a", "2", "--seed", "5");
  assertEquals(Object.keys(first), [
    ...["images/image_1.jpg", "images/image_2.png"],
    ...[1, 2, 3, 4].map((i) => `logs/log_${i}.txt`),
  ]);
  assertStringIncludes(first["images/image_1.jpg"], HEIGHT_WIDTH);
  assertStringIncludes(first["images/image_2.png"], "\x07\x80\0\0\x05\0");
  const again = await make("b", "1", "--seed", "5", "--workers", "1");
  const { "images/image_2.png": _, ...rest } = first;
  assertEquals(again, rest);
  const other = await make("c", "1", "--seed", "9007199254740991");
  for (const name of Object.keys(other)) {
    assertNotEquals(other[name], first[name], name);
  }
  const alerts = Object.values(first).filter((s) => s.includes("unauthorized"));
  assert(alerts.length > 0 && alerts.length < 4);
  const none = await home.run(
    "fixtures",
    ...["--images", "0", "--logs", "1", "--lines", "1", "--out", "d"],
  );
  assertEquals(none, {
    code: 0,
    stdout: "0 images in d/images, 1 log in d/logs\n",
    stderr: "",
  });
  assertEquals(home.list("d"), ["logs/log_1.txt"]);
});

Deno.test("a log has the lines that its seed draws, one by one", async () => {
  await using home = new Home();
  const path = join(home.path, "a.txt");
  for (const [seed, lines, alert] of [[1, 1, true], [2, 999, true], [3, 7]]) {
    const order = { seed: Number(seed), lines: Number(lines), alert: !!alert };
    const random = randomFrom(order.seed);
    const log: string[] = Array.from(
      { length: order.lines },
      () => random() < 0.01 ? "System error occurred" : "User login successful",
    );
    if (alert) {
      const address = `192.168.0.${1 + Math.floor(254 * random())}`;
      log[Math.floor(order.lines * random())] =
        `Alert: unauthorized access detected from IP ${address}`;
    }
    makeLog({ path, ...order });
    assertEquals(Deno.readTextFileSync(path), log.join("\n") + "\n");
  }
});

Deno.test("fixtures names what it cannot write, in one line", async (t) => {
  await using home = new Home();
  await home.write({ "file": "" });
  await Deno.mkdir(join(home.path, "a/logs/log_1.txt"), { recursive: true });
  const log = join(home.path, "a/logs/log_1.txt");
  const cases: [out: string, lines: string, wanted: string][] = [
    ["file", "1", `${home.path}/file/logs: Not a directory`],
    ["a", "1", `Cannot write ${log}: Is a directory`],
    ["a", "100000000", `Cannot write ${log}: 100000000 lines are over 2 GB`],
  ];
  for (const [out, lines, wanted] of cases) {
    await t.step(wanted.slice(-30), async () => {
      const args = ["--images=0", "--logs=1", "--lines", lines, "--out", out];
      const { code, stderr } = await home.run("fixtures", ...args);
      assertEquals([code, stderr], [2, `fixtures: ${wanted}\n`]);
    });
  }
});

Deno.test("bench measures each subject beside who is there", async () => {
  await using home = new Home();
  home.copyProject();
  const args = [
    ...["logscan", "images", "--percent=1", "--runs=1", "--workers=1"],
    ...["--rows=files of 4.2 MiB, found"],
  ];
  const { code, stdout, stderr } = await home.run("bench", ...args);
  assertEquals([code, stderr], [0, ""]);
  const report = readReport(home, "bench");
  assertStringIncludes(
    report,
    `    deno task bench ${args.slice(0, -1).join(" ")}`,
  );
  assert(!/NaN|Infinity|undefined/.test(report), report);
  const [tables] = report.split("## All rounds");
  assertStringIncludes(stdout, tables);
  const row = (name: string) =>
    new RegExp(`^\\|.*\\| ${name} +\\| +[\\d.]+ ms \\|`, "m");
  for (const name of ["manyhands", "floor", "1 worker"]) {
    assertMatch(tables, row(name));
  }
  assertMatch(tables, /^## Gray images/m);
  for (const name of ["grep", "rg"]) {
    if (await has(name)) assertMatch(tables, row(name));
    else {
      assertMatch(tables, new RegExp(`^- ${name}: MISSING, `, "m"));
      skipped(`the log scan beside ${name}: there is none`);
    }
  }
  assertStringIncludes(tables, "- sharp: MISSING, it is not installed");
});

Deno.test("bench says who answers wrongly", async () => {
  await using home = new Home();
  home.copyProject();
  const floor = join(home.project, "tasks/bench/peers/floor.mjs");
  const text = Deno.readTextFileSync(floor);
  const broken = text.replace("bytes += n", "bytes = n");
  assertNotEquals(broken, text);
  Deno.writeTextFileSync(floor, broken);
  const rows = "--rows=files of 4.2 MiB, found";
  const args = ["logscan", "--percent=1", "--runs=1", rows];
  const { code, stdout } = await home.run("bench", ...args);
  assertEquals(code, 1);
  assertMatch(stdout, /^FAILED: .*, floor: it read \d+ of \d+$/m);
  assertMatch(stdout, /^\|.*\| floor +\| +failed \|/m);
  assertMatch(stdout, /^\|.*\| 1 worker +\| +[\d.]+ ms \|/m);
});
