/**
 * `deno task join`: does what was started with `--redis`, on this machine.
 *
 * @module
 */

import { addressOf } from "./cluster/address.ts";
import { withVariable } from "./cluster/flags.ts";
import { Member } from "./cluster/member.ts";
import { rootOf } from "./cluster/start.ts";
import { readFlags, UsageError } from "./cli/flags.ts";
import { runTask } from "./cli/program.ts";
import { count, flush, print, warn } from "./cli/terminal.ts";

const HELP =
  `Takes part in what is started with --redis, on this machine or another one.

Usage: deno task join --root DIR [FLAG]…

      --root DIR      the folder that it reads and writes in: paths that leave
                      it, by .., links or otherwise, are refused
      --redis URL     where Redis is: redis://HOST:6379, or rediss:// with TLS
                      (default: the variable REDIS_URL, which no list of
                      processes shows, so a password belongs there)
      --workers N     how many workers it has (default: one per core)
      --wait SECONDS  how long Redis may be gone (default 60)
  -q, --quiet         print errors only
  -h, --help          show this

Ctrl-C ends it after the work in hand; a second one at once, and what it had in
hand is done by others.

Exit status: 0 when it was told to leave, 2 on wrong usage and when Redis is
gone, 130 when it was told twice.
`;

/** A second signal within this time is the same one, in ms. */
const SAME_MS = 500;

async function main(args: string[]): Promise<number> {
  const { is, text, number } = readFlags(withVariable(args), {
    text: ["redis", "root"],
    number: { wait: 1 },
  });
  if (is.help) return print(HELP), 0;
  const address = addressOf(text.redis ?? "");
  if (text.root === undefined) throw new UsageError("--root DIR is needed");
  const root = rootOf(text.root);
  const workers = number.workers ?? navigator.hardwareConcurrency;
  const say = (line: string) => is.quiet || (print(`${line}\n`), flush());
  const wait = number.wait ?? 60;
  const member = await Member.join({ address, root, workers, wait, say, warn });
  leaveOnSignal(member, say);
  say(
    `${member.name}: ready with ${count(workers, "workers")} for ` +
      `${root.folder}, at ${address.shown}`,
  );
  await member.ended;
  return 0;
}

/** Through `deno task` a terminal delivers Ctrl-C twice, at the same time. */
function leaveOnSignal(member: Member, say: (line: string) => void): void {
  let first = 0;
  const onSignal = () => {
    if (first === 0) {
      first = performance.now();
      say("leaving after the work in hand; once more to end now");
      member.leave();
    } else if (performance.now() > first + SAME_MS) {
      member.drop();
      Deno.exit(130);
    }
  };
  Deno.addSignalListener("SIGINT", onSignal);
  Deno.addSignalListener("SIGTERM", onSignal);
}

if (import.meta.main) await runTask("join", main);
