// Stands in for jsr:@std/fs/exists.

/** Options for {@linkcode exists}. */
export interface ExistsOptions {
  /** It must be readable, too. @default {false} */
  isReadable?: boolean;
  /** It must be a directory, or a link to one. @default {false} */
  isDirectory?: boolean;
  /** It must be a file, or a link to one. @default {false} */
  isFile?: boolean;
}

/** Whether the path exists and is as the options want it. */
export async function exists(
  path: string | URL,
  options: ExistsOptions = {},
): Promise<boolean> {
  const { isReadable = false, isDirectory = false, isFile = false } = options;
  try {
    const info = await Deno.stat(path);
    if (isDirectory && isFile) {
      throw new TypeError(
        "ExistsOptions.options.isDirectory and " +
          "ExistsOptions.options.isFile must not be true together",
      );
    }
    if (isDirectory && !info.isDirectory) return false;
    if (isFile && !info.isFile) return false;
    return !isReadable || mayRead(info);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    // The system refuses, not Deno: there is something that cannot be read.
    if (error instanceof Deno.errors.PermissionDenied) return !isReadable;
    throw error;
  }
}

/** What the mode says about this user; needs `--allow-sys=uid,gid`. */
function mayRead({ mode, uid, gid }: Deno.FileInfo): boolean {
  if (mode === null) return true; // Windows
  const bits = Deno.uid() === uid ? 0o400 : Deno.gid() === gid ? 0o040 : 0o004;
  return (mode & bits) !== 0;
}
