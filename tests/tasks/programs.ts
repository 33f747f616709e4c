import { assert } from "@std/assert";

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
