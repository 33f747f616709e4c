import { load, workers } from "./protocol.mjs";
import { answerFor } from "./pools.mjs";

const { Tinypool, version } = await load("tinypool");
const filename = new URL("jobs.mjs", import.meta.url).href;

await answerFor(version, () => {
  const pool = new Tinypool({
    filename,
    minThreads: workers,
    maxThreads: workers,
  });
  return {
    run: (name, item, transferList) => pool.run(item, { name, transferList }),
    end: () => pool.destroy(),
  };
});
