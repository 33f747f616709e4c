/** Which files are found by names, globs, lists, and `include` and `exclude`. */

import { assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path/join";
import { toFileUrl } from "@std/path/to-file-url";
import { readFlags } from "../../tasks/cli/flags.ts";
import { findFiles, type FindOptions } from "../../tasks/cli/paths.ts";
import { Listing } from "../../tasks/logscan/listing.ts";
import { withFolder } from "./folders.ts";

const PATHS = [
  ...["a.log", "b.txt", "c[1].log", ".hidden.log"],
  ...["old/a.log", "old/sub/b.log", "new/a.log", "new/old/c.log"],
  ...["new/b.log.gz", "new/old.log", "x?/q.log", "xy/q.log"],
];

function makeTree(folder: string, paths: string[]): void {
  for (const path of paths) {
    Deno.mkdirSync(join(folder, path, ".."), { recursive: true });
    Deno.writeTextFileSync(join(folder, path), "");
  }
}

/** What is found, without the folder that all is in. */
async function found(
  folder: string,
  args: string[],
  options?: FindOptions,
): Promise<string[]> {
  const names: string[] = [];
  const all = findFiles(args.map((arg) => `${folder}/${arg}`), options);
  for await (const { name, error } of all) {
    const own = name.startsWith(`${folder}/`)
      ? name.slice(folder.length + 1)
      : name;
    names.push(error === undefined ? own : `${own}: ${error}`);
  }
  return names.sort();
}

Deno.test("include and exclude mean names, paths below what was named, and folders", () =>
  withFolder(async (folder) => {
    makeTree(folder, PATHS);
    const isBelow = (path: string, names: string[]) =>
      path.split("/").some((part) => names.includes(part));
    const last = (path: string) => path.split("/").at(-1)!;
    // The glob is followed by the same in JavaScript.
    const globs: [glob: string, matches: (path: string) => boolean][] = [
      ["*.log", (path) => path.endsWith(".log")],
      ["*.{gz,txt}", (path) => /\.(gz|txt)$/.test(path)],
      ["a.log", (path) => last(path) === "a.log"],
      ["old", (path) => isBelow(path, ["old"])],
      ["old/", (path) => isBelow(path, ["old"])],
      ["/old", (path) => path.startsWith("old/")],
      ["./old", (path) => path.startsWith("old/")],
      ["old/*", (path) => path.startsWith("old/")],
      ["*/a.log", (path) => /^[^/]+\/a\.log$/.test(path)],
      ["**/old/*.log", (path) => /(^|\/)old\/([^/]+\.log$)/.test(path)],
      ["new/**", (path) => path.startsWith("new/")],
      ["[!a]*", (path) => path.split("/").some((part) => part[0] !== "a")],
      ["c\\[1].log", (path) => path === "c[1].log"],
      ["[", () => false],
      ["a.log/", () => false],
    ];
    for (const [glob, matches] of globs) {
      const included = PATHS.filter(matches).sort();
      const excluded = PATHS.filter((path) => !matches(path)).sort();
      for (const root of [".", "./**", "*"]) {
        const shown = (paths: string[]) =>
          paths.map((path) => root === "*" ? path : `./${path}`).sort();
        assertEquals(
          [
            await found(folder, [root], { include: [glob] }),
            await found(folder, [root], { exclude: [glob] }),
            await found(folder, [root], { include: ["*"], exclude: [glob] }),
          ],
          [shown(included), shown(excluded), shown(excluded)],
          `${root} ${glob}`,
        );
      }
    }
    const several = { include: ["*.log", "*.gz"], exclude: ["old", "[.c]*"] };
    assertEquals(
      await found(folder, ["."], several),
      ["./a.log", "./new/a.log", "./new/b.log.gz", "./new/old.log"].concat([
        "./x?/q.log",
        "./xy/q.log",
      ]),
    );
  }));

Deno.test("include and exclude mean what a shell has made of a glob as well", () =>
  withFolder(async (folder) => {
    makeTree(folder, PATHS);
    const all = [...Deno.readDirSync(folder)].map(({ name }) => name);
    const options = { include: ["*.log"], exclude: ["old", "c*"] };
    const expected = await found(folder, ["*"], options);
    assertEquals(await found(folder, all, options), expected);
    assertEquals(expected.length, 6, expected.join());
    // The folder that is named by a dot is searched, whatever it is called.
    const own = folder.split("/").at(-1)!;
    const inside = await found(folder, ["."], { exclude: [own] });
    assertEquals(inside.length, PATHS.length);
  }));

Deno.test("a glob finds what its parts match, each file once", () =>
  withFolder(async (folder) => {
    makeTree(folder, PATHS);
    const expected: [glob: string, RegExp][] = [
      ["*.log", /^[^/]+\.log$/],
      ["**/*.log", /\.log$/],
      ["**", /./],
      ["**/**", /./],
      ["**/old", /(^|\/)old\//],
      ["*/", /\//],
      ["*/old/../*.log", /^new\/[^/]+\.log$/],
      ["{old,new}/*.log", /^(old|new)\/[^/]+\.log$/],
      ["**/old/**", /(^|\/)old\//],
      ["c\\[1].*", /^c/],
      ["c[1].log", /^c/], // the file of that name, before what it would match
      ["x?/q.log", /^x\?/],
      ["x[?y]/*.log", /^x/],
    ];
    for (const [glob, pattern] of expected) {
      const names = await found(folder, [glob]);
      assertEquals(
        names.map((name) => name.replace("old/../", "")),
        PATHS.filter((path) => pattern.test(path)).sort(),
        glob,
      );
    }
    for (const glob of ["no*", "no/*.log", "a.log/*", "*/no"]) {
      assertEquals(await found(folder, [glob]), [`${glob}: No file matches`]);
    }
  }));

Deno.test("names of a list are no globs, and none of them is standard input", () =>
  withFolder(async (folder) => {
    makeTree(folder, PATHS);
    const names = ["c[1].log", "new", "*.log", "none"];
    const list = ReadableStream.from(names.map((name) => `${folder}/${name}`));
    assertEquals(
      await found(folder, ["a.log"], { list, exclude: ["old"], stdin: true }),
      [
        "*.log: No such file or directory",
        ...["a.log", "c[1].log", "new/a.log", "new/b.log.gz", "new/old.log"],
        "none: No such file or directory",
      ],
    );
    const [dash] = await Array.fromAsync(
      findFiles([], { list: ReadableStream.from(["-"]), stdin: true }),
    );
    assertMatch(dash.path, /.\/-$/);
  }));

Deno.test("a folder that cannot be listed has a line, and the rest is found", () =>
  withFolder(async (folder) => {
    makeTree(folder, PATHS);
    const module = toFileUrl(
      join(import.meta.dirname!, "../../tasks/cli/paths.ts"),
    );
    const config = join(import.meta.dirname!, "../../deno.json");
    const script = `
      import { findFiles } from ${JSON.stringify(module)};
      for (const glob of ["**/*.log", "*/*.log", "old/*", ".", "old/sub/../*"]) {
        for await (const { name, error } of findFiles([glob])) {
          console.log(glob, name, error === undefined);
        }
      }`;
    await Deno.writeTextFile(join(folder, "script.ts"), script);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      // Root may list every folder, but not what Deno denies.
      args: ["run", "--no-prompt", `--config=${config}`, "--allow-env"].concat([
        "--allow-read",
        `--deny-read=${folder}/old`,
        "script.ts",
      ]),
      cwd: folder,
      env: { NO_COLOR: "1", INIT_CWD: folder },
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const lines = decode(stdout).trimEnd().split("\n");
    const files = ["new/a.log", "new/old.log", "x?/q.log", "xy/q.log"];
    const top = [".hidden.log", "a.log", "c[1].log"];
    const all = [...files, ...top, "new/old/c.log"];
    const names = [...all, "b.txt", "new/b.log.gz", "script.ts"];
    assertEquals(
      lines.sort(),
      [
        ...all.map((name) => `**/*.log ${name} true`),
        "**/*.log old false",
        ...files.map((name) => `*/*.log ${name} true`),
        "*/*.log old false",
        "old/* old false",
        ...names.map((name) => `. ./${name} true`),
        ". ./old false",
        "old/sub/../* old/sub/.. false",
      ].sort(),
      decode(stderr),
    );
  }));

Deno.test("a scan lists 500 files ahead, however many there are, and more only where that is shown", () =>
  withFolder(async (folder) => {
    const names = Array.from({ length: 700 }, (_, i) => `${i >> 8}/${i}.log`);
    makeTree(folder, names);
    const list = ["include", "exclude"];
    const flags = readFlags([folder], { list, paths: true });
    for (const isCounted of [false, true]) {
      const listing = new Listing(flags, (name) => {
        throw new Error(`not found: ${name}`);
      });
      const paths = new Set<string>();
      let ahead = 0;
      for await (const some of listing.paths(isCounted)) {
        ahead = Math.max(ahead, listing.count - paths.size);
        for (const path of some) paths.add(path);
      }
      assertEquals(paths, new Set(names.map((name) => join(folder, name))));
      assertEquals(ahead > 500, isCounted);
    }
  }));
