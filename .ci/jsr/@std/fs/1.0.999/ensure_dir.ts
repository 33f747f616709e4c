// Stands in for jsr:@std/fs/ensure-dir.

/** Whether the directory exists. */
async function isThere(dir: string | URL): Promise<boolean> {
  try {
    const info = await Deno.stat(dir);
    if (info.isDirectory) return true;
    throw new Error(
      `Failed to ensure directory exists: expected 'dir', got '${
        info.isFile ? "file" : undefined
      }'`,
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Makes the directory, and those above it, unless it exists.
 *
 * @throws {Error} If something else has that name.
 */
export async function ensureDir(dir: string | URL): Promise<void> {
  if (await isThere(dir)) return;
  try {
    await Deno.mkdir(dir, { recursive: true });
  } catch (error) {
    // Something was made there meanwhile, perhaps the directory.
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    await isThere(dir);
  }
}
