import { Pool, sequential } from "../../../mod.ts";
import { service } from "../../../workers/grayscale.ts";
import { answer, workers } from "./protocol.mjs";

const runner = workers > 0
  ? new Pool(service, { size: workers })
  : sequential(service);

await answer("this tree", {
  async convert(folder: string, out: string) {
    const begun = performance.now();
    const names = Array.from(Deno.readDirSync(folder), ({ name }) => name);
    await runner.map(
      "grayscaleFile",
      names.map((name) => ({
        path: `${folder}/${name}`,
        out: `${out}/${name}`,
      })),
    );
    return { ms: performance.now() - begun };
  },
});
