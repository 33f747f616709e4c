/** The tests of all runners, on a cluster of one machine. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  JobError,
  type Jobs,
  type Runner,
  type Service,
  WorkerLostError,
} from "../../mod.ts";
import { addressOf } from "../../tasks/cluster/address.ts";
import { Cluster } from "../../tasks/cluster/cluster.ts";
import { service as jobs } from "../pool/jobs.ts";
import { furtherRunners, numbers } from "../pool/runners.ts";
import { offerTestJobs } from "./cluster_member.ts";
import { hasRedis, Server } from "./clusters.ts";

const KIND = "cluster";

if (hasRedis) {
  const server = await Server.start();
  const member = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-check", "--no-prompt", "-A", "--quiet"],
      ...[import.meta.resolve("./cluster_member.ts"), server.url],
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const { value } = await member.stdout[Symbol.asyncIterator]().next();
  console.log(new TextDecoder().decode(value));
  globalThis.addEventListener("unload", () => {
    member.kill("SIGKILL");
    server.kill("SIGKILL");
    Deno.removeSync(server.folder, { recursive: true });
  });
  offerTestJobs();
  furtherRunners.set(
    KIND,
    async <J extends Jobs>(service: Service<J>): Promise<Runner<J>> => {
      const name = service.url.endsWith("/setups.ts") ? "setups" : "jobs";
      const address = addressOf(server.url);
      return await Cluster.start(service, {
        address,
        name,
        wait: 60,
        say: console.error,
      });
    },
  );
  // Only those of this kind: the others are run where they belong.
  const register = Deno.test;
  Object.assign(Deno, {
    test: (...args: unknown[]) => {
      const { name = "" } = args[0] as { name?: string };
      if (!name.startsWith(`${KIND}: `)) return;
      Reflect.apply(register, Deno, args);
    },
  });
  for (const file of ["pool", "pool_faults", "calls", "cancel_faults"]) {
    await import(`../pool/${file}_test.ts`);
  }
  Object.assign(Deno, { test: register });

  const start = () => furtherRunners.get(KIND)!(jobs);

  Deno.test("cluster: an item that ends its worker is lost, the others are not", async () => {
    await using cluster = await start();
    const items = numbers(20).map((n): [number, number] => [n, 7]);
    const outcomes = await cluster.starmap("exitOn", items, { settle: true });
    for (const [n, outcome] of outcomes.entries()) {
      if (n !== 7) assertEquals(outcome, { status: "fulfilled", value: n });
      else {
        assert(outcome.status === "rejected");
        assertInstanceOf(outcome.reason, WorkerLostError);
        assertEquals([outcome.reason.job, outcome.reason.index], ["exitOn", 7]);
      }
    }
  });

  Deno.test("cluster: an abort ends what runs, and its machine goes on", async () => {
    await using cluster = await start();
    const controller = new AbortController();
    const { signal } = controller;
    const lists = numbers(50).map((n): [number, number] => [n, 3]);
    const call = cluster.starmap("spinAt", lists, { signal });
    const before = cluster.starmap("spinAt", lists.slice(0, 3), { signal });
    assertEquals(await before, [0, 1, 2]);
    controller.abort("enough");
    assertEquals(await call.catch((reason) => reason), "enough");
    // Both of its workers are there for others.
    assertEquals(
      await cluster.map("double", numbers(9)),
      numbers(9).map((n) => 2 * n),
    );
  });

  Deno.test("cluster: what is too large or cannot be cloned fails alone", async () => {
    await using cluster = await start();
    const items = [1, new SharedArrayBuffer(1), 2, () => {}, 3];
    const outcomes = await cluster.map("same", items, { settle: true });
    for (const [i, outcome] of outcomes.entries()) {
      if (i % 2 === 0) assertEquals(outcome.status, "fulfilled");
      else {
        assert(outcome.status === "rejected");
        assertInstanceOf(outcome.reason, JobError);
        assertEquals(outcome.reason.index, i);
        assertStringIncludes(outcome.reason.message, "could not be cloned");
      }
    }
    const large = await assertRejects(
      () => cluster.apply("fill", [64 << 20]),
      JobError,
    );
    assertStringIncludes(large.message, "its result is too large");
    const { length } = await cluster.apply("fill", [2 << 20]) as Uint8Array;
    assertEquals(length, 2 << 20);
  });
} else console.warn("NOT TESTED: calls on a cluster: there is no redis-server");
