/** Batches that several processes do together, through a Redis server. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path/join";
import { makeLog } from "../../workers/fixtures.ts";
import { clusterTest, joined, Server, Task } from "./clusters.ts";
import { withFolder } from "./folders.ts";

/** Makes logs of different sizes; some have the keyword. */
async function makeLogs(folder: string, count: number): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (let i = 0; i < count; i++) {
    const path = join(folder, `${i}.log`);
    await makeLog({
      path,
      seed: i,
      lines: 1 + 100 * (i % 7),
      alert: i % 3 === 0,
    });
  }
}

for (const sizes of [[1], [2, 1], [1, 2, 1]]) {
  clusterTest(
    `${sizes.length} processes give what one gives`,
    () =>
      withFolder(async (root) => {
        await makeLogs(join(root, "logs"), 60);
        await using server = await Server.start();
        await using stack = new AsyncDisposableStack();
        for (const size of sizes) {
          stack.use(await joined(server, root, `--workers=${size}`));
        }
        for (const flags of [["--lines"], ["--count"], ["--json"]]) {
          const args = [
            ...flags,
            "-k",
            "unauthorized access",
            join(root, "logs"),
          ];
          const run = async (...more: string[]) => {
            await using task = new Task("logscan", [...args, ...more]);
            const code = await task.ended();
            return { code, stdout: task.stdout, stderr: task.stderr };
          };
          const alone = await run("--workers=1");
          const together = await run("--redis", server.url);
          assertEquals(together, alone);
        }
        assertEquals(await server.keys(), []);
      }),
  );
}

clusterTest(
  "a path that leaves the root is refused there, and the rest is done",
  () =>
    withFolder(async (root) => {
      await makeLogs(join(root, "in"), 1);
      await makeLogs(join(root, "out"), 1);
      await using server = await Server.start();
      await using machine = await joined(server, join(root, "in"));
      const paths = [join(root, "out", "0.log"), join(root, "in", "0.log")];
      await using task = new Task("logscan", [...paths, "--redis", server.url]);
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
    }),
);
