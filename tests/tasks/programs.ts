import { assert } from "@std/assert";

/**
 * Waits until a program is so far, as something shows that it does; it must not
 * have ended before. For that it needs work that does not end.
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
