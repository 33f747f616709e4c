import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path/from-file-url";
import { join } from "@std/path/join";

const root = fromFileUrl(new URL("../..", import.meta.url));

/** The files of the repo in a new folder, as a clone has them. */
async function clone(): Promise<string> {
  const folder = await Deno.makeTempDir();
  const copy = async (from: string, to: string) => {
    await Deno.mkdir(to, { recursive: true });
    for await (const { name, isDirectory } of Deno.readDir(from)) {
      const [source, target] = [join(from, name), join(to, name)];
      if (isDirectory) await copy(source, target);
      else await Deno.copyFile(source, target);
    }
  };
  for (const part of [".ci", "tasks", "workers"]) {
    await copy(join(root, part), join(folder, part));
  }
  for (const file of ["mod.ts", "deno.json"]) {
    await Deno.copyFile(join(root, file), join(folder, file));
  }
  return folder;
}

async function task(
  folder: string,
  args: string[],
  cwd = folder,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["task", "--cwd", folder, ...args],
    cwd,
    env: { NO_COLOR: "1", DENO_DIR: join(folder, ".deno"), INIT_CWD: cwd },
  }).output();
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code: output.code, stdout, stderr };
}

Deno.test("a task runs in a fresh clone with an empty DENO_DIR", async () => {
  const folder = await clone();
  const log = join(folder, "a.log");
  await Deno.writeTextFile(log, "unauthorized access\n");
  const first = await task(folder, ["logscan", "--lines", "a.log"]);
  assertEquals(first.stdout, "a.log:1:unauthorized access\n", first.stderr);
  assertEquals(first.code, 0);
  // Where jsr.io answers, nothing is said; where not, it is one line, once.
  const said = first.stderr.split("\n").filter((line) => /jsr\.io:/.test(line));
  const again = await task(folder, ["logscan", "--count", "a.log"]);
  assertEquals(again.stdout, "a.log:1\n");
  if (said.length > 0) {
    assertEquals(said.length, 1);
    assertMatch(said[0], /using the stand-ins/);
  }
  assertEquals(/stand-ins/.test(again.stderr), false, again.stderr);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("setup refuses a stand-in that does not match its checksum", async () => {
  const folder = await clone();
  const file = join(folder, ".ci/jsr/@std/path/1.1.999/join.ts");
  await Deno.writeTextFile(file, "\nexport const evil = 1;\n", {
    append: true,
  });
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--allow-read=.ci,vendor",
      "--allow-write=vendor",
      // No network: as if jsr.io were out of reach, also where it is not.
      ".ci/setup.ts",
    ],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 1);
  assertStringIncludes(new TextDecoder().decode(stderr), "join.ts");
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name);
  assertEquals(names.includes("vendor"), false);
  await Deno.remove(folder, { recursive: true });
});

/** What a task's command does before it starts the program. */
async function prefixOf(folder: string, name = "logscan"): Promise<string> {
  const { tasks } = JSON.parse(
    await Deno.readTextFile(join(folder, "deno.json")),
  );
  const [prefix] = tasks[name].command.split(" && deno run ");
  return prefix;
}

/** Adds a task that only sets up; the others load packages as well. */
async function addReadyTask(folder: string): Promise<void> {
  const path = join(folder, "deno.json");
  const config = JSON.parse(await Deno.readTextFile(path));
  config.tasks.ready = `${await prefixOf(folder)} && echo ready`;
  await Deno.writeTextFile(path, JSON.stringify(config));
}

const markersIn = (folder: string): string[] =>
  [...Deno.readDirSync(join(folder, "vendor"))].map(({ name }) => name)
    .filter((name) => name.startsWith("setup-"));

/** Replaces the program that sets up by one that fails. */
const breakSetup = (folder: string) =>
  Deno.writeTextFile(join(folder, ".ci/setup.ts"), "throw new Error('ran');");

/** Runs a program of `.ci`, perhaps after another module. */
async function run(folder: string, args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-read", "--allow-write", ...args],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Changes a stand-in, and the index files with it. */
async function changeStandIn(folder: string, text: string): Promise<void> {
  const file = join(folder, ".ci/jsr/@std/path/1.1.999/join.ts");
  const original = join(root, ".ci/jsr/@std/path/1.1.999/join.ts");
  await Deno.writeTextFile(file, await Deno.readTextFile(original) + text);
  await run(folder, [".ci/jsr.ts"]);
}

const vendored = (folder: string) =>
  Deno.readTextFile(join(folder, "vendor/jsr.io/@std/path/1.1.999/join.ts"));

Deno.test("every task that needs @std sets up in the same way", async () => {
  const { tasks } = JSON.parse(
    await Deno.readTextFile(join(root, "deno.json")),
  );
  const needed = Object.keys(tasks).filter((name) =>
    !["setup", "build"].includes(name)
  );
  const prefixes = await Promise.all(
    needed.map((name) => prefixOf(root, name)),
  );
  assertEquals(new Set(prefixes).size, 1, prefixes.join("\n"));
  assertMatch(prefixes[0], /^\(cat .* \|\| deno task setup\)$/);
});

Deno.test("once set up, a task starts nothing else and says one line", async () => {
  const folder = await clone();
  await addReadyTask(folder);
  assertEquals((await task(folder, ["ready"])).code, 0);
  await breakSetup(folder);
  const { code, stdout, stderr } = await task(folder, ["ready"]);
  assertEquals([code, stdout], [0, "ready\n"], stderr);
  assertMatch(stderr, /^Task ready [^\n]*\n$/);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("setup that fails keeps the task from being started", async () => {
  const folder = await clone();
  await addReadyTask(folder);
  await breakSetup(folder);
  const { code, stdout, stderr } = await task(folder, ["ready"]);
  assertEquals([code, stdout], [1, ""]);
  assertStringIncludes(stderr, "Error: ran");
  assertEquals(/cat:/.test(stderr), false, stderr);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a stand-in that was changed, or changed back, is noticed", async () => {
  const folder = await clone();
  await addReadyTask(folder);
  await changeStandIn(folder, "");
  assertEquals((await task(folder, ["ready"])).code, 0);
  const usesStandIns = [...Deno.readDirSync(join(folder, "vendor"))]
    .some(({ name }) => name === "jsr.io");
  const before = markersIn(folder);
  for (const text of ["// changed\n", ""]) {
    await changeStandIn(folder, text);
    assertEquals((await task(folder, ["ready"])).code, 0);
    // Where jsr.io answers, the real packages are used and stay.
    if (usesStandIns) {
      assertEquals(
        (await vendored(folder)).endsWith("// changed\n"),
        text !== "",
      );
      assertEquals(markersIn(folder).length, 1);
    }
  }
  if (usesStandIns) assertEquals(markersIn(folder), before);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("the gate notices a checksum that is not brought up to date", async () => {
  const folder = await clone();
  await Deno.writeTextFile(join(folder, ".ci/jsr/CHECKSUM"), "0\n");
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-read=.ci", ".ci/jsr.ts", "--check"],
    cwd: folder,
  }).output();
  assertEquals(code, 1);
  assertStringIncludes(new TextDecoder().decode(stderr), "CHECKSUM");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("where jsr.io answers it is asked once", async () => {
  const folder = await clone();
  await addReadyTask(folder);
  const answer = join(folder, "answer.ts");
  await Deno.writeTextFile(
    answer,
    `globalThis.fetch = (url) => {
      console.log("asked", String(url));
      return Promise.resolve(new Response("{}"));
    };`,
  );
  const said = await run(folder, ["--preload", answer, ".ci/setup.ts"]);
  assertMatch(said, /^asked https:\/\/jsr\.io\/\S+\n$/);
  assertEquals(markersIn(folder).length, 1);
  // Nothing was copied: Deno will fetch the real packages.
  assertEquals([...Deno.readDirSync(join(folder, "vendor"))].length, 1);
  await breakSetup(folder);
  const { code, stderr } = await task(folder, ["ready"]);
  assertEquals(code, 0, stderr);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("setup that was interrupted, or cannot leave its mark, is done again", async () => {
  const folder = await clone();
  await addReadyTask(folder);
  assertEquals((await task(folder, ["ready"])).code, 0);
  const [marker] = markersIn(folder);
  const path = join(folder, "vendor", marker);
  await Deno.remove(path);
  assertEquals((await task(folder, ["ready"])).stdout, "ready\n");
  assertEquals(markersIn(folder), [marker]);
  // A folder in its place can be neither read nor written by anybody.
  await Deno.remove(path);
  await Deno.mkdir(path);
  for (let n = 0; n < 2; n++) {
    const { code, stdout, stderr } = await task(folder, ["ready"]);
    assertEquals([code, stdout], [0, "ready\n"], stderr);
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("several tasks at once set up a fresh clone", async () => {
  const folder = await clone();
  await Deno.writeTextFile(join(folder, "a.log"), "unauthorized access\n");
  const all = await Promise.all(
    Array.from(
      { length: 4 },
      () => task(folder, ["logscan", "--count", "a.log"]),
    ),
  );
  for (const { code, stdout, stderr } of all) {
    assertEquals([code, stdout], [0, "a.log:1\n"], stderr);
  }
  assertEquals(markersIn(folder).length, 1);
  await Deno.remove(folder, { recursive: true });
});
