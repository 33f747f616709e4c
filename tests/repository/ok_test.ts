import { assert, assertEquals } from "@std/assert";
import { fromFileUrl } from "@std/path/from-file-url";
import { modulesIn } from "../../.ci/ok.ts";
import { withFolder } from "../tasks/folders.ts";

const root = fromFileUrl(new URL("../..", import.meta.url));

Deno.test("the gate finds modules in folders of any depth", () =>
  withFolder((folder) => {
    Deno.mkdirSync(`${folder}/a/b/c`, { recursive: true });
    const paths = ["a.ts", "a/b/c/d.ts", "a/b/e.ts", "f.ts"];
    for (const path of [...paths, "a/b/kernels.wasm", "a/notes.md"]) {
      Deno.writeTextFileSync(`${folder}/${path}`, "");
    }
    const expected = paths.map((path) => `${folder}/${path}`);
    assertEquals(modulesIn(folder), expected.sort());
  }));

Deno.test("the gate documents and runs all modules of workers/ but AssemblyScript", async () => {
  const code = `
    import { modulesIn } from "./.ci/ok.ts";
    console.log(JSON.stringify(modulesIn("workers")));
  `;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", code],
    cwd: root,
  }).output();
  const found: string[] = JSON.parse(new TextDecoder().decode(stdout));
  const has = (path: string) => found.includes(`workers/${path}`);
  for (const path of ["logscan.ts", "grayscale/jpeg.ts", "kernels/luma.ts"]) {
    assert(has(path), path);
  }
  for (const path of ["kernels/kernels.ts", "kernels/jpeg.ts"]) {
    assert(!has(path), path);
  }
});
