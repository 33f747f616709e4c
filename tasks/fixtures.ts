/**
 * `deno task fixtures`: images and logs to try the other tasks on.
 *
 * @module
 */

import { ensureDir } from "@std/fs/ensure-dir";
import { exists } from "@std/fs/exists";
import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { Pool } from "../mod.ts";
import {
  type ImageSpec,
  type LogSpec,
  randomFrom,
  service,
} from "../workers/fixtures.ts";
import { clearTemporary } from "../workers/shared/files.ts";
import { readFlags } from "./cli/flags.ts";
import { projectFolder, shownPath, userFolder } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { count, print, Progress } from "./cli/terminal.ts";

const HELP = `Makes images and logs to try the other tasks on.

Usage: deno task fixtures [FLAG]…

  --images N    how many images (default 10): image_1.jpg, image_2.png, …
  --logs N      how many logs (default 10): log_1.txt, log_2.txt, …
  --lines N     how many lines a log has (default 1000)
  --seed S      a whole number; the same one makes the same files (default 1)
  --out DIR     where they go: DIR/images and DIR/logs (default fixtures/)
  --workers N   how many workers make them (default: one per core)
  -q, --quiet   say nothing
  -h, --help    show this
`;

/** Which fixtures to make. */
export interface FixtureOptions {
  /** The folder for `images/` and `logs/`. Default: the project's fixtures. */
  out?: string;
  /** How many images. */
  images?: number;
  /** How many logs. */
  logs?: number;
  /** How many lines a log has. Default: 1000. */
  lines?: number;
  /** The seed; the same one makes the same files. Default: 1. */
  seed?: number;
  /** How many workers make them. Default: one per core. */
  workers?: number;
  /** Whether to keep files that exist already. */
  keep?: boolean;
  /** Whether to show no progress. */
  quiet?: boolean;
}

/** Where the fixtures are. */
export interface Fixtures {
  /** The images' paths, in their order. */
  images: string[];
  /** The logs' paths, in their order. */
  logs: string[];
  /** How many files were made by this call. */
  made: number;
}

/** Makes fixtures; returns where they are. */
export async function makeFixtures(options: FixtureOptions): Promise<Fixtures> {
  const { seed = 1, workers, keep = false, quiet = false } = options;
  const out = options.out ?? join(projectFolder, "fixtures");
  const images = imageSpecs(join(out, "images"), options.images ?? 0, seed);
  const logs = logSpecs(
    join(out, "logs"),
    options.logs ?? 0,
    seed,
    options.lines,
  );
  const missing = async ({ path }: { path: string }) =>
    !keep || !await exists(path);
  const newImages = await filter(images, missing);
  const newLogs = await filter(logs, missing);
  const made = newImages.length + newLogs.length;
  if (made > 0) {
    for (const folder of new Set([...newImages, ...newLogs].map(folderOf))) {
      await ensureDir(folder);
      clearTemporary(folder);
      onInterrupt(() => clearTemporary(folder, true));
    }
    await using pool = new Pool(service, { size: workers });
    using _ = onInterrupt(() => pool.terminate());
    const progress = new Progress("fixtures", quiet);
    progress.expect(made);
    for await (const _ of pool.imap("makeImage", newImages)) progress.step();
    for await (const _ of pool.imap("makeLog", newLogs)) progress.step();
    await progress.stop();
  }
  const paths = (specs: { path: string }[]) => specs.map(({ path }) => path);
  return { images: paths(images), logs: paths(logs), made };
}

function folderOf({ path }: { path: string }): string {
  return dirname(path);
}

async function filter<T>(
  items: T[],
  test: (item: T) => Promise<boolean>,
): Promise<T[]> {
  const passed = await Promise.all(items.map(test));
  return items.filter((_, i) => passed[i]);
}

function imageSpecs(
  folder: string,
  count: number,
  seed: number,
): ImageSpec[] {
  return Array.from({ length: count }, (_, i) => ({
    path: join(folder, `image_${i + 1}.${i % 2 === 0 ? "jpg" : "png"}`),
    seed: seedOf(seed, i),
    width: 1920,
    height: 1280,
  }));
}

/** `1000 * seed + i` in 32 bits, which is exact for the largest seeds, too. */
function seedOf(seed: number, i: number): number {
  return (Math.imul(1000, seed) + i) | 0;
}

/** Some logs have an alert, chosen at random, but never all or none of them. */
function logSpecs(
  folder: string,
  count: number,
  seed: number,
  lines = 1000,
): LogSpec[] {
  const random = randomFrom(seed);
  const alerts = Array.from({ length: count }, () => random() < 0.3);
  if (!alerts.includes(true)) alerts[Math.floor(count * random())] = true;
  if (!alerts.includes(false)) alerts[Math.floor(count * random())] = false;
  return alerts.slice(0, count).map((alert, i) => ({
    path: join(folder, `log_${i + 1}.txt`),
    seed: seedOf(seed, 500 + i),
    lines,
    alert,
  }));
}

async function main(args: string[]): Promise<number> {
  const { is, number, text } = readFlags(args, {
    text: ["out"],
    number: { images: 0, logs: 0, lines: 1, seed: 0 },
  });
  if (is.help) return print(HELP), 0;
  const out = text.out
    ? resolve(userFolder, text.out)
    : join(projectFolder, "fixtures");
  const { images = 10, logs = 10, lines, seed, workers } = number;
  const { quiet } = is;
  await makeFixtures({ out, images, logs, lines, seed, workers, quiet });
  if (!quiet) {
    const where = (folder: string) => shownPath(join(out, folder));
    print(`${count(images, "images")} in ${where("images")}, `);
    print(`${count(logs, "logs")} in ${where("logs")}\n`);
  }
  return 0;
}

if (import.meta.main) await runTask("fixtures", main);
