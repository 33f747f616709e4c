/**
 * What is measured as a whole process, from its start to its end, and the files
 * that are made for it.
 *
 * @module
 */

import { join } from "@std/path/join";
import { projectFolder } from "../cli/paths.ts";
import { type Answer, inPeers } from "./peer.ts";
import type { Contestant, Options, Result } from "./rows.ts";

/** A program that may be there. */
export interface Program extends Contestant {
  command: string;
}

/**
 * Runs a program to its end.
 *
 * @param words The program and its arguments
 * @param most The highest exit status that is no failure
 * @returns How long it took, and what it printed; or what is wrong
 */
export async function run(
  [command, ...args]: string[],
  most = 0,
): Promise<Answer> {
  const begun = performance.now();
  const program = new Deno.Command(command, {
    args,
    cwd: projectFolder,
    stdin: "null",
  });
  const { code, stdout, stderr } = await program.output();
  const ms = performance.now() - begun;
  const decoder = new TextDecoder();
  if (code <= most) return { ms, value: decoder.decode(stdout) };
  return { error: decoder.decode(stderr).trim() || `exit status ${code}` };
}

/** A task as deno.json has it: with its permissions, without its setup. */
export function taskOf(name: string): string[] {
  const path = join(projectFolder, "deno.json");
  const { command } = JSON.parse(Deno.readTextFileSync(path)).tasks[name];
  const [, ...words] = command.split(" && ").at(-1).split(" ");
  return [Deno.execPath(), ...words];
}

/** A program that does nothing: what Deno alone takes. */
export const EMPTY = [
  ...[Deno.execPath(), "run", "--no-prompt"],
  inPeers("empty.ts"),
];

/** Looks for a program under one path or another, and asks for its version. */
export async function find(
  name: string,
  flag: string,
  hint: string,
  ...paths: string[]
): Promise<Program> {
  for (const command of [...paths, name]) {
    try {
      const program = new Deno.Command(command, {
        args: [flag],
        stdin: "null",
      });
      const { stdout, stderr } = await program.output();
      const text = new TextDecoder().decode(
        stdout.length > 0 ? stdout : stderr,
      );
      return { name, command, version: text.split("\n")[0] };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  const missing = `there is no program ${name}; to get it: ${hint}`;
  return { name, command: name, version: "", missing };
}

/**
 * How much memory a program takes at its peak, beside what it may take. Python
 * tells, as Deno does not.
 */
export async function measurePeak(
  what: string,
  words: string[],
  most: number,
  { say }: Options,
  status = 0,
): Promise<Result> {
  say(`${what} …`);
  const python = ["python3", inPeers("peak.py")];
  const { value, error } = await run([...python, ...words], status);
  const measured = { name: "manyhands", times: [Number(value)], error };
  if (error) say(`FAILED: ${what}: ${error}`);
  else say(`  ${Number(value).toFixed(1)} MB`);
  const limit = { name: "the limit", times: [most], aim: 1, isFloor: true };
  return { what, unit: "MB", measured: [measured, limit] };
}

/** Which files there are for a subject, and which there cannot be. */
export class Files {
  /** The folder in which they are. */
  readonly folder: string;
  /** What is missing, and why. */
  readonly notes: string[] = [];
  readonly #say: (text: string) => void;

  constructor(subject: string, { percent, say }: Options) {
    const all = join(projectFolder, "fixtures", "bench");
    this.folder = join(all, subject, `${percent}`);
    this.#say = say;
    Deno.mkdirSync(this.folder, { recursive: true });
  }

  /** The path of what has a name. */
  at(name: string): string {
    return join(this.folder, name);
  }

  /** Says something loudly that also belongs into the report. */
  note(text: string): void {
    if (this.notes.includes(text)) return;
    this.notes.push(text);
    this.#say(`NOTE: ${text}`);
  }

  /**
   * Makes a file or folder that is not there yet.
   *
   * @param name Its name
   * @param bytes How large it will be
   * @param make Makes it at the path that it is given
   * @returns Whether it is there: not where the disk has no room for it
   */
  async make(
    name: string,
    bytes: number,
    make: (path: string) => unknown,
  ): Promise<boolean> {
    const path = this.at(name);
    if (exists(path)) return true;
    const room = await roomIn(this.folder);
    if (room < bytes + SPARE) {
      const gb = (value: number) => `${(value / 1e9).toFixed(1)} GB`;
      const wants = `it takes ${gb(bytes)}, and ${gb(room)} are free`;
      this.note(`LEFT OUT: ${name}: ${wants} in ${this.folder}`);
      return false;
    }
    this.#say(`Making ${name} …`);
    // Made under another name, so that half of it is not taken for all.
    if (exists(`${path}~`)) Deno.removeSync(`${path}~`, { recursive: true });
    await make(`${path}~`);
    Deno.renameSync(`${path}~`, path);
    return true;
  }
}

/** What stays free on the disk, in bytes. */
const SPARE = 2e9;

/** What is free on the disk of a folder, in bytes, as `df` has it. */
async function roomIn(folder: string): Promise<number> {
  const { value } = await run(["df", "-Pk", folder]);
  return 1024 * Number(`${value}`.trim().split("\n").at(-1)!.split(/\s+/)[3]);
}

/** Whether there is a file or folder. */
export function exists(path: string): boolean {
  try {
    return Deno.statSync(path) !== undefined;
  } catch {
    return false;
  }
}
