import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path/from-file-url";
import { join } from "@std/path/join";

const root = fromFileUrl(new URL("..", import.meta.url));

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
