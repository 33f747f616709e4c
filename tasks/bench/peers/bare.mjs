/**
 * The floor: workers without a pool, which are sent items by hand over ports of
 * their own, as many in a message as suits, and send the results back.
 */
import * as jobs from "./jobs.mjs";

/** Items in a message: of numbers more bring nothing. */
const NUMBERS = 4096, BUFFERS = 16;

if ("WorkerGlobalScope" in globalThis) {
  self.onmessage = ({ data: port }) => {
    port.onmessage = ({ data: [job, items] }) =>
      port.postMessage(items.map(jobs[job]));
  };
} else await main();

async function main() {
  const { workers } = await import("./protocol.mjs");
  const { answerFor } = await import("./pools.mjs");
  await answerFor("bare ports", () => {
    const hands = Array.from({ length: workers }, start);
    let turn = 0;
    return {
      async run(job, item, transfer) {
        const [result] = await hands[turn++ % workers](job, [item], transfer);
        return result;
      },
      async map(job, items, { transfer } = {}) {
        const size = typeof items[0] === "number" ? NUMBERS : BUFFERS;
        const parts = [];
        for (let at = 0; at < items.length; at += size) {
          const part = items.slice(at, at + size);
          const moved = transfer && part.flatMap(transfer);
          parts.push(hands[turn++ % workers](job, part, moved));
        }
        return (await Promise.all(parts)).flat();
      },
      end: () => hands.forEach(({ worker }) => worker.terminate()),
    };
  });
}

/** A worker, as a function that sends it items and gives their results. */
function start() {
  const worker = new Worker(import.meta.url, { type: "module" });
  const { port1, port2 } = new MessageChannel();
  const waiting = [];
  worker.postMessage(port2, [port2]);
  // Answers come in the order of the questions.
  port1.onmessage = ({ data }) => waiting.shift()(data);
  const send = (job, items, transfer) => {
    port1.postMessage([job, items], transfer ?? []);
    return new Promise((resolve) => waiting.push(resolve));
  };
  return Object.assign(send, { worker });
}
