import process from "node:process";
import { isMainThread } from "node:worker_threads";
import { load, workers } from "./protocol.mjs";
import { length, same } from "./jobs.mjs";

if (isMainThread) await main();
else (await load("workerpool")).worker({ same, length });

async function main() {
  const { answerFor } = await import("./pools.mjs");
  const { pool: makePool, version } = await load("workerpool");
  await answerFor(version, () => {
    const pool = makePool(import.meta.filename, {
      minWorkers: workers,
      maxWorkers: workers,
      workerType: "thread",
      // The worker reads the folder from its own arguments.
      workerThreadOpts: { argv: process.argv.slice(2) },
    });
    return {
      run: (name, item, transfer) => pool.exec(name, [item], { transfer }),
      end: () => pool.terminate(),
    };
  });
}
