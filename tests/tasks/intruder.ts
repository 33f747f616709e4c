/** A job that tries what a worker of the grayscale task is not allowed. */
import { serve } from "../../mod.ts";

const attempts: Record<string, (path: string) => unknown> = {
  read: (path) => Deno.readFileSync(path),
  stat: (path) => Deno.statSync(path),
  list: (path) => [...Deno.readDirSync(path)],
  write: (path) => Deno.writeFileSync(path, new Uint8Array(1)),
  rename: (path) => Deno.renameSync(path, `${path}.moved`),
  remove: (path) => Deno.removeSync(path),
  link: (path) => Deno.symlinkSync(path, `${path}.link`),
  env: () => Deno.env.get("HOME"),
  sys: () => Deno.hostname(),
  run: () => new Deno.Command(Deno.execPath()).outputSync(),
  ffi: (path) => Deno.dlopen(path, {}),
  net: () => Deno.connect({ hostname: "127.0.0.1", port: 8017 }),
  fetch: () => fetch("http://127.0.0.1:8017/"),
  import: () => import(["http://127.0.0.1:8017", "a.ts"].join("/")),
  worker: () => {
    const url = import.meta.url, deno = { permissions: { net: true } };
    new Worker(url, { type: "module", deno } as WorkerOptions);
  },
};

/** All that can be tried. */
export const kinds = Object.keys(attempts);

/** Tries it, and says what it got. */
async function attempt(kind: string, path: string): Promise<string> {
  try {
    await attempts[kind](path);
    return "allowed";
  } catch (error) {
    return `${(error as Error).name}: ${(error as Error).message}`;
  }
}

export const service = serve(import.meta, { attempt });
