/** What the workers may do that open images of unknown origin. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { Pool } from "../../mod.ts";
import type { GrayscaleFileOptions } from "../../workers/grayscale.ts";
import { permissionsFor } from "../../tasks/grayscale/plan.ts";
import { makeImage } from "../../workers/fixtures.ts";
import { service as images } from "../../workers/grayscale.ts";
import { copy, namesIn, withFolder } from "./folders.ts";
import { kinds, service } from "./intruder.ts";
import { numbers } from "../pool/runners.ts";

const GIF = Uint8Array.fromBase64(
  "R0lGODdhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs=",
);

/** A folder with an image, and with a file that no worker may read. */
function withImage(
  use: (order: GrayscaleFileOptions, secret: string) => Promise<void>,
): Promise<void> {
  return withFolder(async (folder) => {
    const path = join(folder, "in, here", "a*.gif");
    const secret = join(folder, "in, here", "secret.gif");
    await Deno.mkdir(join(folder, "in, here"));
    for (const file of [path, secret]) await Deno.writeFile(file, GIF);
    await use({ path, out: join(folder, "gray", "deep", "a*.gif") }, secret);
  });
}

const alone = (order: GrayscaleFileOptions) => ({
  images: [order],
  folders: [dirname(order.path)],
  out: dirname(dirname(order.out)),
});

Deno.test("sandbox: a worker reads its images, writes beside the gray ones, and that is all", () =>
  withImage(async (order, secret) => {
    const permissions = permissionsFor(alone(order));
    await using pool = new Pool(service, { size: 1, permissions });
    const attempt = (kind: string, path: string) =>
      pool.apply("attempt", [kind, path]);
    for (const kind of kinds) {
      const refusal = kind === "worker"
        ? /^NotCapable: .*escalate parent thread permissions/
        : /^\w+: (Requires \w+ access|.* requires unscoped )/;
      assertMatch(await attempt(kind, secret), refusal, kind);
    }
    for (const kind of ["write", "remove", "rename"]) {
      assertMatch(await attempt(kind, order.path), /^NotCapable: /, kind);
    }
    assertEquals(await attempt("read", order.path), "allowed");
    await Deno.mkdir(join(order.out, ".."), { recursive: true });
    for (const kind of ["write", "read", "rename"]) {
      assertEquals(await attempt(kind, order.out), "allowed", kind);
    }
    assertEquals(namesIn(join(secret, "..")), ["a*.gif", "secret.gif"]);
  }));

Deno.test("sandbox: a job for other files is a line, and the next one works", () =>
  withImage(async (order, secret) => {
    const permissions = permissionsFor(alone(order));
    await using pool = new Pool(images, { size: 1, permissions });
    const outcomes = await pool.map("grayscaleFile", [
      { ...order, path: secret },
      { ...order, path: join(order.path, "..", "secret.gif") },
      { ...order, out: `${secret}.gray.gif` },
      { ...order, out: secret },
      order,
    ], { settle: true });
    const last = outcomes.pop()!;
    assertEquals(last.status, "fulfilled");
    for (const outcome of outcomes) {
      assert(outcome.status === "rejected");
      const { message } = outcome.reason.cause as Error;
      assertMatch(message, /^Requires (read|write) access to "[^\n]*$/);
    }
    assertEquals(namesIn(join(secret, "..")), ["a*.gif", "secret.gif"]);
    assertEquals(await Deno.readFile(secret), GIF);
  }));

Deno.test("sandbox: many images are granted by the folders that were named", () => {
  const out = "/out";
  const batch = (folders: string[], count: number) => ({
    out,
    images: numbers(count).map((i) => ({
      path: join(folders[i % folders.length], `${i}.jpg`),
      out: join(out, `${i}.jpg`),
    })),
    folders,
  });
  const granted = (folders: string[], count: number) => {
    const { read, write } = permissionsFor(batch(folders, count));
    assertEquals(write, [out]);
    assertEquals(read.pop(), out);
    return read;
  };
  assertEquals(granted(["/in", "/a"], 3), [
    "/in/0.jpg",
    "/a/1.jpg",
    "/in/2.jpg",
  ]);
  assertEquals(granted(["/in", "/a"], 1000), ["/in", "/a"]);
  const many = numbers(100).map((i) => `/in/these/${i}`);
  assertEquals(granted(many, 1000), ["/in/these"]);
});

Deno.test("sandbox: the task's own workers are in it", async () => {
  // Without this line in deno.json Deno starts no worker with fewer permissions.
  const project = join(import.meta.dirname!, "../..");
  const config = JSON.parse(await Deno.readTextFile(`${project}/deno.json`));
  assertEquals(config.unstable, ["worker-options"]);
  await withFolder(async (folder) => {
    await Deno.writeFile(join(folder, "a.gif"), GIF);
    for (const name of ["mod.ts", "workers", "tasks", "vendor"]) {
      copy(join(project, name), join(folder, "project", name));
    }
    delete config.unstable;
    const changed = join(folder, "project", "deno.json");
    await Deno.writeTextFile(changed, JSON.stringify(config));
    const { command } = config.tasks.grayscale;
    const program = command.split(" && ").at(-1)!; // behind setup
    for (const flag of ["--force", "--compare"]) {
      const { stderr, code } = await new Deno.Command(Deno.execPath(), {
        args: [...program.split(" ").slice(1), "a.gif", flag],
        cwd: join(folder, "project"),
        env: { INIT_CWD: folder },
      }).output();
      const line = new TextDecoder().decode(stderr);
      assertStringIncludes(line, "--unstable-worker-options");
      assertEquals(code, 70); // Deno's own
    }
    // One JPEG needs no worker, unless the codec is needed.
    const path = join(folder, "a.jpg");
    await makeImage({ seed: 1, width: 40, height: 30, path });
    for (const [more, wanted] of [[[], 0], [["--to=png"], 70]] as const) {
      const { code } = await new Deno.Command(Deno.execPath(), {
        args: [...program.split(" ").slice(1), "a.jpg", "--force", ...more],
        cwd: join(folder, "project"),
        env: { INIT_CWD: folder },
      }).output();
      assertEquals(code, wanted);
    }
  });
});
