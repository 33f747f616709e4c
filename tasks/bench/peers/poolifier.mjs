import { load, workers } from "./protocol.mjs";
import { length, same } from "./jobs.mjs";

const isWorker = "WorkerGlobalScope" in globalThis;
const { FixedThreadPool, ThreadWorker, version } = await load(
  "poolifier-web-worker",
);

if (isWorker) new ThreadWorker({ same, length });
else await main();

async function main() {
  const { answerFor } = await import("./pools.mjs");
  await answerFor(version, () => {
    const pool = new FixedThreadPool(workers, new URL(import.meta.url));
    return {
      run: (name, item, moved) => pool.execute(item, name, undefined, moved),
      end: () => pool.destroy(),
    };
  });
}
