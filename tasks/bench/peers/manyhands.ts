import { Pool } from "../../../mod.ts";
import { service } from "./manyhands_jobs.ts";
import { answerFor } from "./pools.mjs";
import { workers } from "./protocol.mjs";

type Job = "same" | "length";
type Transfer = Transferable[] | undefined;

await answerFor("this tree", () => {
  const pool = new Pool<Record<Job, (item: unknown) => unknown>>(
    service.url,
    { size: workers },
  );
  return {
    run: (job: Job, item: unknown, transfer: Transfer) =>
      pool.apply(job, [item], transfer && { transfer: () => transfer }),
    map: pool.map.bind(pool),
    stream: pool.imapUnordered.bind(pool),
    end: () => pool.close(),
  };
});
