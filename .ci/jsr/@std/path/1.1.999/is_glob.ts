// Stands in for jsr:@std/path/is-glob.

// `*`, `?`, `[…]`, `{…}`, `(…|…)` and `@(…)`, where they stand.
const FEATURE =
  /[*?]|\[[^[\\\]]+\]|\{[^{\\}]+\}|\([^(|]+\|[^\\)]+\)|@\([^)]+\)/y;
const CLOSING = new Map([["[", "]"], ["{", "}"], ["(", ")"]]);

/** Whether the text has something in it that a glob treats specially. */
export function isGlob(str: string): boolean {
  // "!" counts at the start only, which is also where an escape ended.
  let start = 0;
  for (let i = 0; i < str.length; i++) {
    if (str[i] === "\\" && /./.test(str[i + 1] ?? "")) {
      // An escaped bracket takes the whole bracket out.
      const closing = CLOSING.get(str[i + 1]);
      const end = closing ? str.indexOf(closing, i + 2) : -1;
      i = end < 0 ? i + 1 : end;
      start = i + 1;
      continue;
    }
    FEATURE.lastIndex = i;
    if ((str[i] === "!" && i === start) || FEATURE.test(str)) return true;
  }
  return false;
}
