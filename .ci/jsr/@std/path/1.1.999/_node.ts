/** What the path functions use of node:path. */
interface Node {
  sep: string;
  isAbsolute(path: string): boolean;
  normalize(path: string): string;
  join(...paths: string[]): string;
  resolve(...paths: string[]): string;
  relative(from: string, to: string): string;
  dirname(path: string): string;
  basename(path: string): string;
  extname(path: string): string;
  parse(path: string): { root: string };
}

/**
 * The same for POSIX: to load the first `node:` module takes 25 ms, which is
 * longer than a small task.
 */
export const posix: Node = {
  sep: "/",
  isAbsolute: (path) => path.startsWith("/"),
  normalize(path) {
    const isAbsolute = path.startsWith("/");
    const whole = (isAbsolute ? "/" : "") + parts(path, isAbsolute).join("/");
    if (whole === "" || whole === "/") {
      return whole || (path.endsWith("/") ? "./" : ".");
    }
    return path.endsWith("/") ? `${whole}/` : whole;
  },
  join(...paths) {
    const joined = paths.filter((path) => path !== "").join("/");
    return joined === "" ? "." : posix.normalize(joined);
  },
  resolve(...paths) {
    let whole = "";
    for (const path of paths.toReversed()) {
      if (path !== "") whole = `${path}/${whole}`;
      if (path.startsWith("/")) break;
    }
    if (!whole.startsWith("/")) whole = `${Deno.cwd()}/${whole}`;
    return `/${parts(whole, true).join("/")}`;
  },
  relative(from, to) {
    const there = parts(posix.resolve(to), true);
    const here = parts(posix.resolve(from), true);
    let same = 0;
    while (same < here.length && here[same] === there[same]) same++;
    const up = here.slice(same).map(() => "..");
    return [...up, ...there.slice(same)].join("/");
  },
  dirname(path) {
    const [, parent] = /^(.*?)\/*[^/]+\/*$/s.exec(path) ?? [, ""];
    if (parent !== "") return parent;
    return !path.startsWith("/") ? "." : /^\/\/[^/]/.test(path) ? "//" : "/";
  },
  basename: (path) => /([^/]*)\/*$/.exec(path)![1],
  extname: (path) =>
    /(?:^|\/)\.\.\/*$/.test(path)
      ? ""
      : /[^/](\.[^./]*)\/*$/.exec(path)?.[1] ?? "",
  parse: (path) => ({ root: path.startsWith("/") ? "/" : "" }),
};

/** The parts of a path, without `.` and what `..` takes back. */
function parts(path: string, isAbsolute: boolean): string[] {
  const kept: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") kept.push(part);
    else if (kept.length > 0 && kept.at(-1) !== "..") kept.pop();
    else if (!isAbsolute) kept.push("..");
  }
  return kept;
}

export const node: Node = Deno.build.os === "windows"
  ? await import("node:path")
  : posix;
export const sep: string = node.sep;
