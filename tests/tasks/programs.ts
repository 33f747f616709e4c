import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { copy } from "./folders.ts";

/**
 * Waits until a program has got to a certain point. It must not end before that,
 * so it needs work that does not end.
 */
export async function waitUntil(
  isSo: () => boolean | Promise<boolean>,
  { status }: Deno.ChildProcess,
): Promise<void> {
  let hasEnded = false;
  status.then(() => hasEnded = true);
  while (!await isSo()) {
    assert(!hasEnded, "the program ended before");
    await new Promise((go) => setTimeout(go, 5));
  }
}

/** The project's folder. */
export const repo = resolve(import.meta.dirname!, "../..");
/** The tasks of deno.json. */
export const tasks: Record<string, { command: string }> =
  JSON.parse(Deno.readTextFileSync(join(repo, "deno.json"))).tasks;
/** What a program did. */
export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** A folder for a user to stand in. */
export class Home implements AsyncDisposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "manyhands " });
  /** Where the project is. */
  project = repo;

  /** Writes files: texts, or bytes. */
  async write(files: Record<string, string | Uint8Array>): Promise<void> {
    for (const [name, content] of Object.entries(files)) {
      const path = join(this.path, name);
      await Deno.mkdir(join(path, ".."), { recursive: true });
      if (typeof content === "string") await Deno.writeTextFile(path, content);
      else await Deno.writeFile(path, content);
    }
  }

  /** The command of a task, as `deno task` runs it. */
  words(task: string, args: string[]): string[] {
    const program = tasks[task].command.split(" && ").at(-1)!; // behind setup
    const [deno, ...words] = program.split(" ");
    assertEquals(deno, "deno");
    return [Deno.execPath(), ...words, ...args];
  }

  start(
    [file, ...args]: string[],
    { detached = false, stdin = "null" as "null" | "piped" } = {},
  ): Deno.ChildProcess {
    return new Deno.Command(file, {
      args,
      detached,
      cwd: this.project,
      env: { INIT_CWD: this.path, NO_COLOR: "1" },
      stdin,
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  /** Runs a task to its end. */
  run(task: string, ...args: string[]): Promise<Outcome> {
    return ended(this.start(this.words(task, args)));
  }

  /** Copies what belongs to the project, for tasks that write into it. */
  copyProject(): void {
    this.project = join(this.path, "project");
    const parts = ["deno.json", "mod.ts", "workers", "tasks", "vendor"];
    for (const { name } of Deno.readDirSync(repo)) {
      if (!parts.includes(name)) continue;
      copy(join(repo, name), join(this.project, name));
    }
  }

  /** All files below a folder, by their relative names, sorted. */
  list(folder = "."): string[] {
    const names: string[] = [];
    const walk = (below: string) => {
      for (const entry of Deno.readDirSync(join(this.path, folder, below))) {
        const name = join(below, entry.name);
        if (entry.isDirectory) walk(name);
        else names.push(name);
      }
    };
    walk("");
    return names.sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** Waits for the end of a program. */
export async function ended(child: Deno.ChildProcess): Promise<Outcome> {
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

/** The objects of JSON Lines. */
export const linesOf = <T>(text: string): T[] =>
  text.split("\n").slice(0, -1).map((line) => JSON.parse(line));

/** Warns that something cannot be tested here. */
export function skipped(what: string): void {
  console.warn(`NOT TESTED: ${what}`);
}
