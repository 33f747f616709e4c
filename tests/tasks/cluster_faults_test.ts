/** Machines and servers that go, and what does not belong into the queue. */
import { assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { Queue } from "bullmq";
import { serialize } from "node:v8";
import { gzipSync } from "node:zlib";
import { makeImage } from "../../workers/fixtures.ts";
import { until } from "../pool/gates.ts";
import { clusterTest, joined, Server, Task } from "./clusters.ts";
import { copy, namesIn, withFolder } from "./folders.ts";

const project = resolve(import.meta.dirname!, "../..");

/** Makes images that are all alike; an image takes some ms. */
async function makeImages(folder: string, count: number): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const first = join(folder, "0.png");
  await makeImage({ path: first, seed: 1, width: 500, height: 400 });
  for (let i = 1; i < count; i++) {
    Deno.linkSync(first, join(folder, `${i}.png`));
  }
}

/** Freezes a machine that has a chunk in hand; the others have one at most. */
async function freezeInChunk(
  machine: Task,
  server: Server,
  others: number,
): Promise<void> {
  await until(async () => {
    machine.kill("SIGSTOP");
    const chunks = await server.ask(async (redis) => {
      const [active] = await redis.keys("manyhands:*:active");
      return active ? await redis.llen(active) : 0;
    });
    if (chunks > others) return true;
    machine.kill("SIGCONT");
  });
}

/** Checks that each image was converted once and whole. */
function checkImages(out: string, count: number, task: Task): void {
  const images = namesIn(out).filter((name) => !name.startsWith("."));
  assertEquals(images.length, count);
  const expected = Deno.readFileSync(join(out, "0.png"));
  for (const name of images) {
    assertEquals(Deno.readFileSync(join(out, name)), expected, name);
  }
  assertMatch(task.stdout, new RegExp(`^${count} images converted into `));
}

clusterTest(
  "what a killed machine and a frozen one had in hand is done elsewhere, once",
  () =>
    withFolder(async (root) => {
      const COUNT = 150;
      await makeImages(join(root, "in"), COUNT);
      await using server = await Server.start();
      await using killed = await joined(server, root, "--workers=1");
      await using frozen = await joined(server, root, "--workers=1");
      await using third = await joined(server, root, "--workers=1");
      const out = join(root, "out");
      const args = [join(root, "in"), "--out", out, "--redis", server.url];
      await using task = new Task("grayscale", args);
      await until(() => exists(join(out, "20.png")));
      await freezeInChunk(frozen, server, 2);
      await freezeInChunk(killed, server, 2);
      killed.kill("SIGKILL");
      assertEquals([await task.ended(), task.stderr], [0, ""]);
      checkImages(out, COUNT, task);
      // It finishes a chunk that is not its own any more.
      frozen.kill("SIGCONT");
      await frozen.says(/grayscale: /);
      checkImages(out, COUNT, task);
      assertEquals(frozen.stderr, "");
      await until(async () => (await server.keys()).length === 0);
      assertEquals(third.stderr, "");
    }),
);

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

clusterTest(
  "Redis started again is waited for; a process that joins then takes part",
  () =>
    withFolder(async (root) => {
      const COUNT = 150;
      await makeImages(join(root, "in"), COUNT);
      await using server = await Server.start("--appendonly", "yes");
      await using early = await joined(server, root, "--workers=1");
      const out = join(root, "out");
      const args = [join(root, "in"), "--out", out, "--redis", server.url];
      await using task = new Task("grayscale", args);
      await until(() => exists(join(out, "2.png")));
      await server.end();
      // As long as it is said that there is no answer.
      await Promise.all([
        task.says(/trying again/),
        early.says(/trying again/),
      ]);
      await server.start();
      await using late = await joined(server, root, "--workers=1");
      assertEquals(await task.ended(), 0);
      checkImages(out, COUNT, task);
      for (const { stderr } of [task, early]) {
        assertMatch(
          stderr,
          /^.*trying again for up to 60 s\n.* it answers again\n$/,
        );
        assertEquals(late.stderr, "");
      }
      await late.says(/grayscale: [1-9]\d* files? in /);
      assertEquals(await server.keys(), []);
    }),
);

clusterTest(
  "Redis gone for good is one more line, and the end",
  () =>
    withFolder(async (root) => {
      await makeImages(join(root, "in"), 150);
      for (const how of ["SIGKILL", "SIGSTOP"] as const) {
        await using server = await Server.start();
        await using machine = await joined(
          server,
          root,
          "--workers=1",
          "--wait=2",
        );
        const out = join(root, "out", how);
        const args = [join(root, "in"), "--out", out, "--redis", server.url];
        await using task = new Task("grayscale", [...args, "--wait=2"]);
        await until(() => exists(join(out, "2.png")));
        server.kill(how);
        for (
          const [name, each] of Object.entries({
            grayscale: task,
            join: machine,
          })
        ) {
          assertEquals(await each.ended(), 2);
          const [first, last, ...rest] = each.stderr.trimEnd().split("\n");
          assertMatch(first, /; trying again for up to 2 s$/);
          assertMatch(
            last,
            new RegExp(`^${name}: redis://127.0.0.1:\\d+: .* for 2 s$`),
          );
          assertEquals(rest, []);
        }
      }
      // One that is not there at the beginning is not waited for.
      const url = "redis://127.0.0.1:1";
      for (
        const [name, ...args] of [["join", "--root", root], ["logscan", root]]
      ) {
        await using task = new Task(name, [...args, "--redis", url]);
        assertEquals(await task.ended(), 2);
        assertMatch(
          task.stderr,
          new RegExp(`^${name}: ${url}: connection refused\n$`),
        );
      }
    }),
);

clusterTest(
  "a starter that was killed and is started again goes on, and cleans up",
  () =>
    withFolder(async (root) => {
      const COUNT = 150;
      await makeImages(join(root, "in"), COUNT);
      await using server = await Server.start();
      await using machine = await joined(server, root, "--workers=1");
      const out = join(root, "out");
      const args = [join(root, "in"), "--out", out, "--redis", server.url];
      {
        await using _ = new Task("grayscale", args);
        await until(() => exists(join(out, "20.png")));
      }
      const times = () => {
        const images = namesIn(out).filter((name) => !name.startsWith("."));
        return new Map(images.map((name) => {
          const { mtime } = Deno.statSync(join(out, name));
          return [name, mtime!.getTime()];
        }));
      };
      const before = times();
      // A process of its own would remove the keys: here only the successor does.
      machine.kill("SIGKILL");
      await using other = await joined(server, root, "--workers=1");
      other.kill("SIGSTOP");
      await using task = new Task("grayscale", args);
      await task.says(/waiting/);
      other.kill("SIGCONT");
      assertEquals(await task.ended(), 0);
      const after = times();
      assertEquals(after.size, COUNT);
      for (const [name, time] of before) {
        assertEquals(after.get(name), time, name);
      }
      assertMatch(task.stdout, /converted into .*, [2-9]\d up to date in /);
      // The machine may have been in the interrupted run, too, and leaves it.
      await until(async () => (await server.keys()).length === 0);
    }),
);

clusterTest(
  "a process with other jobs is refused with a line, by both",
  () =>
    withFolder(async (root) => {
      const home = join(root, "project");
      for (
        const part of ["deno.json", "mod.ts", "workers", "tasks", "vendor"]
      ) {
        copy(join(project, part), join(home, part));
      }
      const file = join(home, "workers", "logscan.ts");
      await Deno.writeTextFile(file, "// other\n", { append: true });
      await Deno.writeTextFile(join(root, "a.log"), "unauthorized access\n");
      await using server = await Server.start();
      const words = ["--redis", server.url, "--root", root];
      await using machine = new Task("join", words, { home });
      await machine.says(/ ready /);
      const args = [join(root, "a.log"), "--redis", server.url];
      await using task = new Task("logscan", args);
      await machine.says(
        /^a batch of logscan was refused: its jobs are \S+, those/m,
      );
      await task.says(/ does not take part: its jobs are \S+, not the same$/m);
      await using right = await joined(server, root);
      assertEquals(await task.ended(), 0);
      await right.says(/logscan: 1 file in/);
      assertEquals(machine.stderr.split("\n").length, 2);
      assertEquals(await server.keys(), []);
    }),
);

clusterTest(
  "what is hostile in the queue is a line each, and the next chunk is done",
  () =>
    withFolder(async (root) => {
      await Deno.mkdir(join(root, "in"));
      for (const name of ["in/a.log", "b.log"]) {
        await Deno.writeTextFile(join(root, name), "unauthorized access\n");
      }
      await using server = await Server.start();
      const args = [join(root, "in", "a.log"), "--redis", server.url];
      await using task = new Task("logscan", args);
      let id = "";
      await until(() =>
        server.ask(async (redis) => {
          id = (await redis.smembers("manyhands:runs"))[0];
          return id && await redis.exists(`manyhands:${id}:c1`);
        })
      );
      const chunk = (job: string, items: unknown[]) =>
        new Uint8Array(serialize({ job, spread: false, items })).toBase64();
      const request = (path: string) => ({
        spans: [{ path, start: 0 }],
        query: { keywords: ["x"], ignoreCase: false, mode: "found" },
      });
      const outside = request(join(root, "b.log"));
      await server.ask(async (redis) => {
        const queue = new Queue(id, { connection: redis, prefix: "manyhands" });
        const lifo = { lifo: true, removeOnComplete: true, removeOnFail: true };
        for (
          const data of [
            ...["x", 1, null, {}, chunk("constructor", []), chunk("a\nb", [])],
            chunk("scanSpans", Array(1000).fill(outside)),
            chunk("scanSpans", [outside, 1, {}, { spans: [1] }]),
            "x".repeat(100 << 20),
          ]
        ) await queue.add("chunk", data, lifo);
        await queue.add("chunk", "", { ...lifo, jobId: "bad" });
        await redis.hset(`manyhands:${id}:bad`, "data", "{not JSON");
        // An answer to the starter's own chunk that is none, and one of 100 MB.
        const answer = ["event", "completed", "jobId", "c1", "returnvalue"];
        const events = `manyhands:${id}:events`;
        await redis.xadd(events, "*", ...answer, `"${"x".repeat(100 << 20)}"`);
        await task.says(/an answer was refused: it is too large/);
        await redis.xadd(events, "*", ...answer.with(3, "c2"), "{not JSON");
        await task.says(/an answer was refused: it is not a text/);
        await queue.close();
      });
      await using machine = await joined(
        server,
        join(root, "in"),
        "--workers=1",
      );
      assertEquals(await task.ended(), 0);
      assertMatch(task.stdout, /in\/a\.log: Found, line 1/);
      await machine.says(/logscan: /);
      const lines = machine.stderr.trimEnd().split("\n").sort();
      assertEquals(lines.length, new Set(lines).size);
      for (
        const line of [
          /^a chunk was refused: it is not JSON$/m,
          /^a chunk was refused: it is not a text$/m,
          /^a chunk was refused: there is no job "constructor"$/m,
          /^a chunk was refused: it has 1000 items: 256 may be$/m,
          /^a chunk was refused: it is too large: \d+ characters$/m,
          /^refused: .*b\.log: it is outside of the --root/m,
        ]
      ) assertMatch(machine.stderr, line);
      assertEquals(await server.keys(), []);
    }),
);

clusterTest(
  "a process leaves after the chunk in hand",
  () =>
    withFolder(async (root) => {
      const COUNT = 150;
      await makeImages(join(root, "in"), COUNT);
      await using server = await Server.start();
      await using first = await joined(server, root, "--workers=1");
      await using second = await joined(server, root, "--workers=1");
      const out = join(root, "out");
      const args = [join(root, "in"), "--out", out, "--redis", server.url];
      await using task = new Task("grayscale", args);
      await until(() => exists(join(out, "20.png")));
      await freezeInChunk(first, server, 1);
      first.kill("SIGTERM");
      first.kill("SIGCONT");
      assertEquals([await first.ended(), first.stderr], [0, ""]);
      assertMatch(
        first.stdout,
        /leaving after .*\ngrayscale: [1-9]\d* files? in /,
      );
      assertEquals([await task.ended(), task.stderr], [0, ""]);
      checkImages(out, COUNT, task);
      await second.says(/grayscale: [1-9]/);
      assertEquals(await server.keys(), []);
    }),
);

clusterTest(
  "a process that is told twice ends at once, and others do its chunk",
  () =>
    withFolder(async (root) => {
      // It takes longer than this test: 64 GiB, once it is decompressed.
      const member = gzipSync(new Uint8Array(64 << 20));
      const path = join(root, "bomb.gz");
      for (let i = 0; i < 1024; i++) {
        await Deno.writeFile(path, member, { append: true });
      }
      await using server = await Server.start();
      await using first = await joined(server, root, "--workers=1");
      const args = [path, "--redis", server.url];
      await using task = new Task("logscan", args);
      const active = () =>
        server.ask(async (redis) => {
          const [key] = await redis.keys("manyhands:*:active");
          return key ? await redis.lrange(key, 0, -1) : [];
        });
      await until(async () => (await active()).length === 1);
      first.kill("SIGINT");
      await first.says(/leaving/);
      // The same signal, delivered twice, does not count.
      await until(() => {
        try {
          first.kill("SIGINT");
        } catch {
          // It ends in this very moment.
        }
        return first.hasEnded;
      });
      assertEquals([await first.ended(), first.stderr], [130, ""]);
      await using second = await joined(server, root, "--workers=1");
      await until(async () => (await active())[0] === "c2");
      task.kill("SIGINT");
      assertEquals([await task.ended(), task.stdout], [130, ""]);
      await second.says(/logscan: 0 files in/);
      assertEquals([await server.keys(), second.stderr], [[], ""]);
    }),
);

clusterTest(
  "where no process joins, the wait is bounded",
  () =>
    withFolder(async (root) => {
      await Deno.writeTextFile(join(root, "a.log"), "x\n");
      await using server = await Server.start();
      const args = [root, "--redis", server.url, "--wait", "2"];
      await using task = new Task("logscan", args);
      assertEquals([await task.ended(), task.stdout], [2, ""]);
      assertMatch(
        task.stderr,
        /^logscan: waiting up to 2 s for a machine to join: [^\n]*\nlogscan: no machine joined within 2 s\n$/,
      );
      assertEquals(await server.keys(), []);
    }),
);
