/** Batches that several processes do together, through a Redis server. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { join } from "@std/path/join";
import { Root } from "../../tasks/cluster/roots.ts";
import { makeImage, makeLog } from "../../workers/fixtures.ts";
import { clusterTest, joined, Server, Task } from "./clusters.ts";
import { copy, namesIn, withFolder } from "./folders.ts";

/** Makes logs of different sizes; some have the keyword. */
function makeLogs(folder: string, count: number): void {
  Deno.mkdirSync(folder, { recursive: true });
  for (let i = 0; i < count; i++) {
    const path = join(folder, `${i}.log`);
    makeLog({ path, seed: i, lines: 1 + 100 * (i % 7), alert: i % 3 === 0 });
  }
}

/** Makes images of different sizes, and one that is none. */
async function makeImages(folder: string, count: number): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (let i = 0; i < count; i++) {
    const path = join(folder, `${i}.${["png", "gif"][i % 2]}`);
    const size = 10 + i;
    if (i % 2 === 0) {
      await makeImage({ path, seed: i, width: size, height: size });
    } else await Deno.writeTextFile(path, "no image");
  }
}

/** Runs a task to its end. */
async function run(name: string, ...args: string[]): Promise<Task> {
  await using task = new Task(name, args);
  await task.ended();
  return task;
}

clusterTest(
  "1, 2 and 3 processes give what one thread gives",
  () =>
    withFolder(async (root) => {
      makeLogs(join(root, "logs"), 60);
      await makeImages(join(root, "images"), 12);
      await using server = await Server.start();
      await using machines = new AsyncDisposableStack();
      const redis = ["--redis", server.url];
      for (
        const [size, flag] of [[2, "--lines"], [1, "--json"], [3, "--count"]]
      ) {
        machines.use(await joined(server, root, `--workers=${size}`));
        const args = ["logscan", `${flag}`, join(root, "logs")] as const;
        const alone = await run(...args, "--workers=1");
        const together = await run(...args, ...redis);
        const work = /^\{"machines":.*\n/m;
        assertEquals(together.stdout.replace(work, ""), alone.stdout);
        assertEquals(await together.ended(), await alone.ended());
        // Who did how much: on stdout only for who reads JSON.
        if (flag === "--json") assertMatch(together.stdout, work);
        else assertMatch(together.stderr, /^(\S+\/\d+: \d+ files?, \d .*\n)+$/);
      }
      const convert = async (out: string, ...more: string[]) => {
        const args = [join(root, "images"), "--out", join(root, out)];
        const task = await run("grayscale", ...args, ...more);
        const names = namesIn(join(root, out));
        const images = names.map((name) =>
          Deno.readFileSync(join(root, out, name))
        );
        return { code: await task.ended(), stderr: task.stderr, names, images };
      };
      const alone = await convert("alone", "--workers=1");
      assertEquals([alone.code, alone.names.length], [1, 6]);
      assertEquals(await convert("together", ...redis), alone);
      assertEquals(await server.keys(), []);
    }),
);

clusterTest(
  "a comparison names the machines, in the timeline and in its conclusion",
  () =>
    withFolder(async (root) => {
      const home = join(root, "project");
      const project = join(import.meta.dirname!, "../..");
      for (
        const part of ["deno.json", "mod.ts", "workers", "tasks", "vendor"]
      ) {
        copy(join(project, part), join(home, part));
      }
      makeLogs(join(root, "logs"), 20);
      await using server = await Server.start();
      await using _ = await joined(server, root, "--workers=1");
      const args = [join(root, "logs"), "--compare", "--redis", server.url];
      await using task = new Task("logscan", args, { home });
      assertEquals([await task.ended(), task.stderr], [0, ""]);
      const report = await Deno.readTextFile(
        join(home, "reports", "logscan.md"),
      );
      assertMatch(report, /^ {2}section \S+ worker 1$/m);
      assertMatch(report, /1 worker on 1 machine (did|took) /);
      assertMatch(report, /^Of the work the machines did: \S+\/\d+ 100 %\.$/m);
    }),
);

clusterTest(
  "keywords by the thousand travel once, and find the same",
  () =>
    withFolder(async (root) => {
      makeLogs(join(root, "logs"), 40);
      const words = Array.from({ length: 5000 }, (_, i) => `indicator ${i}`);
      const file = join(root, "words.txt");
      await Deno.writeTextFile(file, [...words, "unauthorized"].join("\n"));
      await using server = await Server.start();
      await using machine = await joined(server, root, "--workers=2");
      const args = ["--lines", "-m", "2", "-f", file, join(root, "logs")];
      const alone = await run("logscan", ...args, "--workers=1");
      const input = () =>
        server.ask(async (redis) => {
          const stats = await redis.info("stats");
          return Number(/total_net_input_bytes:(\d+)/.exec(stats)![1]);
        });
      const before = await input();
      const together = await run("logscan", ...args, "--redis", server.url);
      const bytes = await input() - before;
      assertEquals(together.stdout, alone.stdout);
      assertEquals([await server.keys(), machine.stderr], [[], ""]);
      assert(bytes < 5 * Deno.statSync(file).size, `${bytes} bytes`);
    }),
);

clusterTest(
  "two batches at once do not see each other's jobs",
  () =>
    withFolder(async (root) => {
      makeLogs(join(root, "logs"), 30);
      await makeImages(join(root, "images"), 1);
      await using server = await Server.start();
      await using machine = await joined(server, root, "--workers=2");
      const redis = ["--redis", server.url];
      const outcomes = await Promise.all([
        ...["-i", "-q", "--count"].map((flag) =>
          run("logscan", flag, join(root, "logs"), ...redis)
        ),
        run(
          "grayscale",
          join(root, "images"),
          "--out",
          join(root, "out"),
          ...redis,
        ),
      ]);
      for (const outcome of outcomes) assertEquals(await outcome.ended(), 0);
      const sole = await run("logscan", "--count", join(root, "logs"));
      assertEquals(outcomes[2].stdout, sole.stdout);
      assertEquals(namesIn(join(root, "out")).length, 1);
      assertEquals([await server.keys(), machine.stderr], [[], ""]);
    }),
);

clusterTest(
  "where a folder is elsewhere on the machines, paths travel relative to it",
  () =>
    withFolder(async (root) => {
      const [here, there] = [join(root, "here"), join(root, "else", "there")];
      makeLogs(join(here, "logs"), 3);
      await makeImages(join(here, "images"), 1);
      copy(here, there);
      await Deno.remove(join(here, "logs", "1.log")); // and yet it is named below
      await using server = await Server.start();
      await using machine = await joined(server, there);
      const redis = ["--redis", server.url, "--root", here];
      await Deno.writeTextFile(join(here, "logs", "1.log"), "");
      const scan = await run("logscan", join(here, "logs"), ...redis);
      assertMatch(scan.stdout, /here\/logs\/0.log: Found/);
      const out = join(here, "out");
      const gray = await run(
        "grayscale",
        join(here, "images"),
        "--out",
        out,
        ...redis,
      );
      assertStringIncludes(gray.stdout, `1 image converted into ${out} in`);
      assertEquals(namesIn(join(there, "out")), ["0.png"]);
      assertEquals(machine.stderr, "");
      // What is not below it is refused by the machine.
      makeLogs(join(root, "other"), 1);
      const other = await run("logscan", join(root, "other"), ...redis);
      assertMatch(
        other.stderr,
        /other\/0.log: it is outside of the --root \S+there\n/,
      );
      assertEquals(await other.ended(), 2);
    }),
);

clusterTest(
  "a path that leaves the root is refused there, and the rest is done",
  () =>
    withFolder(async (root) => {
      makeLogs(join(root, "in"), 1);
      makeLogs(join(root, "out"), 1);
      await using server = await Server.start();
      await using machine = await joined(server, join(root, "in"));
      const paths = [join(root, "out", "0.log"), join(root, "in", "0.log")];
      const task = await run("logscan", ...paths, "--redis", server.url);
      assertEquals(await task.ended(), 2);
      assertStringIncludes(
        task.stderr,
        `${paths[0]}: it is outside of the --root`,
      );
      assertStringIncludes(task.stdout, `${paths[1]}: Found`);
      assertStringIncludes(
        machine.stderr,
        `refused: ${paths[0]}: it is outside`,
      );
      const args = [join(root, "in"), "--out", join(root, "gray")];
      await Deno.rename(paths[1], join(root, "in", "0.gif"));
      const gray = await run("grayscale", ...args, "--redis", server.url);
      assertMatch(gray.stderr, /0.gif: it is outside of the --root/);
    }),
);

Deno.test("cluster: nothing leaves a root", () =>
  withFolder((folder) => {
    const root = join(folder, "root"), out = join(folder, "outside");
    for (const each of [root, out, join(root, "sub")]) Deno.mkdirSync(each);
    for (const each of [root, out]) Deno.writeTextFileSync(join(each, "a"), "");
    const link = (to: string, name: string) =>
      Deno.symlinkSync(to, join(root, name));
    link("../outside", "folder");
    link("../outside/a", "file");
    link("a", "inside");
    link("sub", "insideFolder");
    link("../missing", "nowhere");
    link("../outside/new", "new");
    link("loop", "loop");
    Deno.symlinkSync(root, join(folder, "other name"));
    const absolute = new Root(root).gate(false);
    const relative = new Root(join(folder, "other name")).gate(true);
    for (const access of ["read", "write"] as const) {
      const refused = (path: unknown, why = /outside of the --root/) => {
        for (const gate of [absolute, relative]) {
          const given = gate === relative || typeof path !== "string"
            ? path
            : `${root}/${path}`;
          const { message } = assertThrows(
            () => gate.pass(given, access),
            Error,
            undefined,
            `${access} ${given}`,
          );
          assertMatch(message, why);
        }
      };
      for (
        const path of [
          ...["..", "../outside/a", "sub/../../outside/a", "./../outside/new"],
          ...[
            "folder/a",
            "folder/new",
            "folder/deep/new",
            "folder/../a/../../x",
          ],
          ...["nowhere/x", "nowhere/x/y", "loop/x", "../root2/a", "../rootx"],
        ]
      ) refused(path);
      if (access === "read") {
        for (const path of ["folder", "file"]) refused(path);
        for (const path of ["nowhere", "new", "loop"]) {
          refused(path, /No such file/);
        }
      }
      for (const odd of [undefined, null, 1, {}, [root], ["a"]]) {
        refused(odd, /not a path/);
      }
      refused("a\0b", /not a path/);
      for (
        const path of ["a", "sub/../a", "./a", "inside", "sub/new", "x/y/z"]
      ) {
        const real = absolute.pass(`${root}/${path}`, access);
        assert(real.startsWith(Deno.realPathSync(root)), real);
        assertEquals(relative.pass(path, access), real);
      }
      // Absolute where they are to be relative, and the other way round.
      assertThrows(
        () => relative.pass(join(root, "a"), access),
        Error,
        "outside",
      );
      assertThrows(() => absolute.pass("a", access), Error, "outside");
    }
    // Of many files in a folder the folder is looked at, not each of them.
    for (let i = 0; i < 100; i++) {
      Deno.writeTextFileSync(join(root, `${i}`), "");
    }
    const many = new Root(root).gate(false);
    for (let i = 0; i < 100; i++) many.pass(join(root, `${i}`), "read");
    assertThrows(() => many.pass(join(root, "file"), "read"), Error, "outside");
    many.pass(join(root, "inside"), "read");
    // Each way to the folder counts as the folder.
    const real = absolute.pass(join(root, "a"), "read");
    const linked = new Root(join(folder, "other name")).gate(false);
    assertEquals(linked.pass(join(folder, "other name", "a"), "read"), real);
    assertEquals(linked.pass(join(root, "a"), "read"), real);
  }));

clusterTest(
  "passwords are neither printed nor in a list of processes",
  () =>
    withFolder(async (root) => {
      makeLogs(join(root, "logs"), 1);
      await using server = await Server.start("--requirepass", "s3cret");
      const url = server.url.replace("//", "//default:s3cret@");
      const env = { REDIS_URL: url };
      await using machine = new Task("join", ["--root", root], { env });
      await machine.says(/ ready .* at redis:\/\/127/);
      const tasks = [
        new Task("logscan", ["--redis", join(root, "logs")], { env }),
        new Task("logscan", [join(root, "logs"), "--redis", url]),
        // What goes wrong does not tell it either.
        new Task("logscan", ["x", "--redis"], {
          env: { REDIS_URL: url.replace("s3cret", "wr0ng") },
        }),
        new Task("logscan", ["x", "--redis", server.url]),
        new Task("logscan", [url]),
        new Task("join", [url, "--root", root]),
        new Task("join", [
          "--redis",
          url.replace("127", "999/"),
          "--root",
          root,
        ]),
        new Task("join", [
          "--redis",
          url.replace("redis:", "http:"),
          "--root",
          root,
        ]),
        new Task("join", ["--root", root], { env: { REDIS_URL: "s3cret" } }),
        new Task("join", ["--root", root], { env: { REDIS_URL: "" } }),
      ];
      const codes = await Promise.all(tasks.map((task) => task.ended()));
      assertEquals(codes, [0, 0, ...Array(8).fill(2)]);
      for (const { stdout, stderr } of [machine, ...tasks]) {
        assertNotMatch(stdout + stderr, /s3cret|wr0ng/);
        assertMatch(stderr, /^([^\n]+\n)?$/);
      }
      assertMatch(tasks[2].stderr, /^logscan: redis:\S+: WRONGPASS /);
      assertMatch(tasks[3].stderr, /^logscan: redis:\S+: NOAUTH /);
      const { stdout } = await new Deno.Command("ps", {
        args: ["-o", "args=", "-p", `${machine.process.pid}`],
      }).output();
      const words = new TextDecoder().decode(stdout);
      assertMatch(words, /join\.ts/);
      assertNotMatch(words, /s3cret/);
    }),
);
