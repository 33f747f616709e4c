import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path/from-file-url";
import { join } from "@std/path/join";

const root = fromFileUrl(new URL("../..", import.meta.url));

/** Serves the repo on loopback while the test runs, as a host would. */
async function served(test: (url: string) => Promise<void>): Promise<void> {
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      const path = join(root, new URL(request.url).pathname);
      const type = path.endsWith(".wasm") ? "wasm" : "typescript";
      try {
        return new Response(await Deno.readFile(path), {
          headers: { "content-type": `application/${type}` },
        });
      } catch {
        return new Response("not found", { status: 404 });
      }
    },
  );
  await test(`http://127.0.0.1:${server.addr.port}`);
}

/** Runs a script in a folder of its own, where this repo's imports are not. */
async function run(
  files: Record<string, string>,
  flags: string[],
  main = "main.ts",
): Promise<{ code: number; stdout: string; stderr: string }> {
  const folder = await Deno.makeTempDir();
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(join(folder, name), text);
  }
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--reload", ...flags, main],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  await Deno.remove(folder, { recursive: true });
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code: output.code, stdout, stderr };
}

Deno.test("by URL: a pool scans logs with read and import permission only", () =>
  served(async (url) => {
    const { code, stdout, stderr } = await run({
      "a.log": "x\nunauthorized access\n",
      "b.log": "nothing\n",
      "main.ts": `
        import { Pool } from "${url}/mod.ts";
        import { scanLogs, service } from "${url}/workers/logscan.ts";

        await using pool = new Pool(service, { size: 2 });
        const paths = ["a.log", "b.log", "c.log"];
        for await (const report of scanLogs(pool, paths)) {
          console.log(report.path, report.found, report.error);
        }
      `,
    }, [`--allow-import=${new URL(url).host}`, "--allow-read=."]);
    assertEquals(
      stdout,
      "a.log true undefined\nb.log false undefined\n" +
        "c.log false No such file or directory\n",
      stderr,
    );
    assertEquals(code, 0);
  }));

Deno.test("by URL: without the permission to read, the file's line says so", () =>
  served(async (url) => {
    const { stdout } = await run({
      "a.log": "x\n",
      "main.ts": `
        import { sequential } from "${url}/mod.ts";
        import { scanLogs, service } from "${url}/workers/logscan.ts";

        for await (const report of scanLogs(sequential(service), ["a.log"])) {
          console.log(report.error);
        }
      `,
    }, [`--allow-import=${new URL(url).host}`]);
    assertStringIncludes(stdout, "--allow-read");
  }));

Deno.test("by URL: a worker module that is not there is a clear error", () =>
  served(async (url) => {
    const { code, stdout } = await run({
      "main.ts": `
        import { Pool, WorkerStartError } from "${url}/mod.ts";

        const pool = new Pool("${url}/workers/none.ts", { size: 2 });
        const error = await pool.map("x" as never, [1]).catch((error) => error);
        console.log(error instanceof WorkerStartError, error.message);
        await pool.close();
      `,
    }, [`--allow-import=${new URL(url).host}`]);
    assertStringIncludes(stdout, "true Cannot start a worker");
    assertStringIncludes(stdout, "none.ts");
    assertEquals(code, 0);
  }));

Deno.test("by URL: the README's own programs run as they stand", () =>
  served(async (url) => {
    const readme = await Deno.readTextFile(join(root, "README.md"));
    const files: Record<string, string> = {};
    for (const [, block] of readme.matchAll(/^```ts\n(.*?)^```/gms)) {
      const [, ...parts] = block.split(/^\/\/ (\S+\.ts)\n/m);
      for (let i = 0; i < parts.length; i += 2) files[parts[i]] = parts[i + 1];
    }
    assertEquals(Object.keys(files), ["fib.ts", "main.ts", "one.ts"]);
    const lines = (files["fib.ts"] + files["main.ts"]).match(/^.+$/gm)!;
    assert(lines.length <= 10, `${lines.length} lines`);
    const imports = { "@manyhands/manyhands": `${url}/mod.ts` };
    files["deno.json"] = JSON.stringify({ imports });
    const flags = [`--allow-import=${new URL(url).host}`, "--allow-read"];
    const printed = "[ 832040, 1346269, 2178309 ]";
    assertStringIncludes(readme, printed);
    const expected = { "main.ts": printed, "one.ts": "[ 1, 4, 9 ]" };
    for (const [main, output] of Object.entries(expected)) {
      const { code, stdout, stderr } = await run(files, flags, main);
      assertEquals([code, stdout], [0, `${output}\n`], stderr);
    }
  }));

Deno.test("by URL: what needs a package from npm is searched in workers that may do little", () =>
  served(async (url) => {
    const line = "unauthorized access\n";
    const xz = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQATdW5hdXRob3JpemVk" +
      "IGFjY2VzcwoAJCdM4/WZym0AASwU+AptAx+2830BAAAAAARZWg==";
    const { code, stdout, stderr } = await run({
      "main.ts": `
        import { Pool } from "${url}/mod.ts";
        import { scanLogs, service } from "${url}/workers/logscan.ts";

        Deno.writeFileSync("a.xz", Uint8Array.fromBase64("${xz}"));
        const permissions = { read: ["a.xz"] };
        await using pool = new Pool(service, { size: 1, permissions });
        for await (const report of scanLogs(pool, ["a.xz"], { mode: "count" })) {
          console.log(report.count, report.bytes, report.error);
        }
      `,
    }, [
      `--allow-import=${new URL(url).host}`,
      "--allow-read=.",
      "--allow-write=.",
      "--unstable-worker-options",
    ]);
    assertEquals(stdout, `1 ${line.length} undefined\n`, stderr);
    assertEquals(code, 0);
  }));
