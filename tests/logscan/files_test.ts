import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { join } from "@std/path";
import { JobError } from "../../mod.ts";
import {
  causeOf,
  clearTemporary,
  folderOf,
  isTemporary,
  writeWhole,
} from "../../workers/shared/files.ts";
import { namesIn, withFolder } from "../tasks/folders.ts";

const text = (s: string) => new TextEncoder().encode(s);
const windows = Deno.build.os === "windows";

/** Names that a file system accepts, some of the greatest length. */
const NAMES = [
  "a",
  "a.txt",
  ".hidden",
  "two words.tar.gz",
  "n".repeat(255),
  "€".repeat(85), // 255 bytes
  "a" + "😀".repeat(63), // 253 bytes, with a surrogate pair where it is cut
  "e\u0301".repeat(85), // 255 bytes, decomposed
  ...windows ? [] : ["a\\b", "\\", "a\nb", "\x01", "*?", " "],
];

/** Calls `use` with a Deno that cannot rename; gives what was tried. */
function withoutRename(use: () => void): [from: string, to: string][] {
  const { renameSync } = Deno;
  const tried: [string, string][] = [];
  try {
    Deno.renameSync = (from, to) => {
      tried.push([String(from), String(to)]);
      throw new Deno.errors.PermissionDenied("cannot rename");
    };
    use();
  } finally {
    Deno.renameSync = renameSync;
  }
  return tried;
}

Deno.test("writeWhole: writes, replaces, and leaves nothing beside it", async () => {
  await withFolder((folder) => {
    for (const name of NAMES) {
      const path = join(folder, name);
      for (const content of ["first, and longer", "", "second"]) {
        writeWhole(path, text(content));
        assertEquals(Deno.readTextFileSync(path), content, name);
      }
    }
    assertEquals(namesIn(folder), [...NAMES].sort());
  });
});

Deno.test("writeWhole: takes a bare name for the current folder", async () => {
  await withFolder((folder) => {
    const cwd = Deno.cwd();
    try {
      Deno.chdir(folder);
      writeWhole("a", text("whole"));
    } finally {
      Deno.chdir(cwd);
    }
    assertEquals(namesIn(folder), ["a"]);
  });
});

Deno.test("writeWhole: the temporary name is one, and a neighbor", async () => {
  await withFolder((folder) => {
    const seen = new Set<string>();
    for (const name of [...NAMES, "a", "a"]) {
      const path = join(folder, name);
      const tried = withoutRename(() => {
        assertThrows(
          () => writeWhole(path, text("x")),
          Deno.errors.PermissionDenied,
          "cannot rename",
        );
      });
      const [[from, to]] = tried;
      assertEquals(to, path);
      assertEquals(folderOf(from), folderOf(path), name);
      const temporary = from.slice(folderOf(from).length);
      assert(isTemporary(temporary), temporary);
      assertStringIncludes(temporary, `.${Deno.pid}-`);
      assert(text(temporary).length < 256, temporary);
      seen.add(temporary);
    }
    assertEquals(seen.size, NAMES.length + 2, "no two attempts share a name");
    assertEquals(namesIn(folder), []);
  });
});

Deno.test("writeWhole: on failure nothing changes", async () => {
  await withFolder((folder) => {
    const path = join(folder, "old");
    Deno.writeTextFileSync(path, "as it was");
    Deno.mkdirSync(join(folder, "taken"));
    Deno.writeTextFileSync(join(folder, "taken/x"), "");
    const bytes = text("new");
    withoutRename(() => assertThrows(() => writeWhole(path, bytes)));
    const fails = (name: string, kind?: new () => Error) =>
      assertThrows(() => writeWhole(join(folder, name), bytes), kind ?? Error);
    fails("missing/a", Deno.errors.NotFound);
    fails("old/a", windows ? undefined : Deno.errors.NotADirectory);
    fails("taken");
    fails("n".repeat(256));
    fails("€".repeat(86));
    assertEquals(namesIn(folder), ["old", "taken"]);
    assertEquals(namesIn(join(folder, "taken")), ["x"]);
    assertEquals(Deno.readTextFileSync(path), "as it was");
    // Nor does it where the disk is full, in the middle of the write.
    const full = (written: number) => {
      if (written > 1) throw new Error("No space left on device");
    };
    withShortWrites(full, () => {
      assertThrows(() => writeWhole(path, bytes), Error, "No space left");
    });
    assertEquals(namesIn(folder), ["old", "taken"]);
    assertEquals(Deno.readTextFileSync(path), "as it was");
  });
});

/** Runs code while each write takes one byte; calls `before` before each. */
function withShortWrites(before: (writes: number) => void, run: () => void) {
  const { prototype } = Deno.FsFile, { writeSync } = prototype;
  let writes = 0;
  try {
    prototype.writeSync = function (bytes) {
      before(writes++);
      return writeSync.call(this, bytes.subarray(0, 1));
    };
    run();
  } finally {
    prototype.writeSync = writeSync;
  }
}

Deno.test("writeWhole: writes all parts to their ends", async () => {
  await withFolder((folder) => {
    const path = join(folder, "a"), none = text("");
    const parts = [none, text("all "), none, text("of "), text("it"), none];
    writeWhole(path, parts);
    assertEquals(Deno.readTextFileSync(path), "all of it");
    withShortWrites(() => {}, () => writeWhole(path, [...parts, text("!")]));
    assertEquals(Deno.readTextFileSync(path), "all of it!");
    writeWhole(path, []);
    assertEquals(Deno.readTextFileSync(path), "");
  });
});

Deno.test("writeWhole: a folder that is read-only is an error", async () => {
  if (windows || Deno.uid() === 0) {
    return console.warn(
      "SKIPPED: nothing is read-only for root, or on Windows",
    );
  }
  await withFolder((folder) => {
    const path = join(folder, "old");
    Deno.writeTextFileSync(path, "as it was");
    Deno.chmodSync(folder, 0o555);
    try {
      const kind = Deno.errors.PermissionDenied;
      assertThrows(() => writeWhole(path, text("new")), kind);
      assertThrows(() => writeWhole(path + "2", text("new")), kind);
    } finally {
      Deno.chmodSync(folder, 0o755);
    }
    assertEquals(namesIn(folder), ["old"]);
    assertEquals(Deno.readTextFileSync(path), "as it was");
  });
});

Deno.test("writeWhole: a link is replaced, what it points to is not", async () => {
  await withFolder((folder) => {
    const [target, link] = [join(folder, "target"), join(folder, "link")];
    Deno.writeTextFileSync(target, "as it was");
    Deno.symlinkSync(target, link);
    writeWhole(link, text("new"));
    assertEquals(Deno.readTextFileSync(target), "as it was");
    assertEquals(Deno.readTextFileSync(link), "new");
    assert(!Deno.lstatSync(link).isSymlink);
  });
});

// ---- What killed runs leave

/** Times long before and long after this process began. */
const OLD = new Date(2001, 1, 1), NEW = new Date(2100, 1, 1);
const OTHER = Deno.pid + 1;

const LEFT = [
  ".a.png.1-0a1b2c3d.manyhands",
  `.a.png.${OTHER}-0a1b2c3d.manyhands`,
  `.b.${OTHER}-00000000.manyhands`,
  `..hidden.${OTHER}-ffffffff.manyhands`,
  `.€😀 x.${OTHER}-12345678.manyhands`,
  ...windows ? [] : [
    `.a\nb.${OTHER}-0a1b2c3d.manyhands`,
    `.\n.${OTHER}-0a1b2c3d.manyhands`,
    `.a\\b.${OTHER}-0a1b2c3d.manyhands`,
  ],
];

const ALIKE = [
  "a.png",
  "a.png.1-0a1b2c3d.manyhands", // not hidden
  ".a.png.1-0a1b2c3d.manyhand",
  ".a.png.1-0a1b2c3d.manyhands.png",
  ".a.png.1-0a1b2c3d.manyhands ",
  ".a.png.1-0a1b2c3.manyhands",
  ".a.png.1-0a1b2c3d4.manyhands",
  ".a.png.1-0A1B2C3D.MANYHANDS",
  ".a.png.1-0a1b2c3g.manyhands",
  ".a.png.x-0a1b2c3d.manyhands",
  ".a.png.-0a1b2c3d.manyhands",
  ".a.png.10a1b2c3d.manyhands",
  ".a.png1-0a1b2c3d.manyhands",
  ".1-0a1b2c3d.manyhands", // without a name
  ".manyhands",
  ...windows ? [] : [".a.png.1-0a1b2c3d.manyhands\n"],
];

Deno.test("isTemporary: tells the names of writeWhole from similar ones", () => {
  for (const name of LEFT) assert(isTemporary(name), name);
  for (const name of ["", ...ALIKE]) assert(!isTemporary(name), name);
});

function fill(folder: string, names: string[], date: Date): void {
  for (const name of names) {
    Deno.writeTextFileSync(join(folder, name), "half");
    Deno.utimeSync(join(folder, name), date, date);
  }
}

Deno.test("clearTemporary: removes what earlier processes left, only that", async () => {
  await withFolder((folder) => {
    const young = [
      `.young.${OTHER}-0a1b2c3d.manyhands`,
      `.mine.${Deno.pid}-0a1b2c3d.manyhands`,
    ];
    const nested = join(folder, ".f.1-0a1b2c3d.manyhands");
    fill(folder, LEFT, OLD);
    fill(folder, ALIKE, OLD);
    fill(folder, young, NEW);
    // A folder or a link with such a name is not a left-over of a killed run.
    Deno.mkdirSync(nested);
    fill(nested, LEFT, OLD);
    Deno.utimeSync(nested, OLD, OLD);
    const links = [".l.1-0a1b2c3d.manyhands", ".m.1-0a1b2c3d.manyhands"];
    Deno.symlinkSync(join(folder, "a.png"), join(folder, links[0]));
    Deno.symlinkSync(join(folder, "nowhere"), join(folder, links[1]));
    const kept = [...ALIKE, ...links, ".f.1-0a1b2c3d.manyhands"];
    clearTemporary(folder);
    assertEquals(namesIn(folder), [...kept, ...young].sort());
    clearTemporary(folder, true);
    assertEquals(namesIn(folder), [...kept, young[0]].sort());
    assertEquals(namesIn(nested), [...LEFT].sort());
  });
});

Deno.test("clearTemporary: with own, what earlier processes left goes as well", async () => {
  await withFolder((folder) => {
    fill(folder, LEFT, OLD);
    fill(folder, [`.mine.${Deno.pid}-0a1b2c3d.manyhands`], NEW);
    clearTemporary(folder, true);
    assertEquals(namesIn(folder), []);
  });
});

Deno.test("clearTemporary: one that cannot be removed does not keep the rest", async () => {
  await withFolder((folder) => {
    fill(folder, LEFT, OLD);
    const { removeSync, statSync } = Deno;
    const [locked, gone] = namesIn(folder);
    try {
      Deno.removeSync = (path, options) => {
        if (path === `${folder}/${locked}`) throw new Error("locked");
        removeSync(path, options);
      };
      Deno.statSync = (path) => {
        if (path === `${folder}/${gone}`) throw new Deno.errors.NotFound();
        return statSync(path);
      };
      clearTemporary(folder);
    } finally {
      Object.assign(Deno, { removeSync, statSync });
    }
    assertEquals(namesIn(folder), [locked, gone]);
  });
});

Deno.test("clearTemporary: a missing folder, or a file, is no error", async () => {
  await withFolder((folder) => {
    clearTemporary(join(folder, "missing"));
    clearTemporary(join(folder, "missing"), true);
    Deno.writeTextFileSync(join(folder, "file"), "");
    clearTemporary(join(folder, "file"));
    clearTemporary("");
    assertEquals(namesIn(folder), ["file"]);
  });
});

Deno.test("folderOf: ends with the last separator", () => {
  const cases = {
    "": "",
    "a.png": "",
    "/a.png": "/",
    "a/b.png": "a/",
    "a//b.png": "a//",
    "./a.png": "./",
    "a/": "a/",
    "a\nb/c\nd": "a\nb/",
    "a/b\\c.png": windows ? "a/b\\" : "a/",
    "b\\c.png": windows ? "b\\" : "",
  };
  for (const [path, folder] of Object.entries(cases)) {
    assertEquals(folderOf(path), folder, path);
  }
});

// ---- Causes

Deno.test("causeOf: says why, on one line, without the path", async () => {
  await withFolder(async (folder) => {
    const odd = join(folder, "a\n(os error 7): b");
    const missing = await assertRejects(() => Deno.open(odd));
    assertMatch(causeOf(missing), /^[\w ,.()]+$/);
    assert(!causeOf(missing).includes("os error"), causeOf(missing));
    const kept = await assertRejects(() => Deno.readTextFile(folder));
    assert(!causeOf(kept).includes(folder), causeOf(kept));
    if (Deno.build.os === "linux") {
      assertEquals(causeOf(missing), "No such file or directory");
      assertEquals(causeOf(kept), "Is a directory");
      const path = join(folder, "n".repeat(256));
      const long = assertThrows(() => writeWhole(path, text("")));
      assertEquals(causeOf(long), "File name too long");
    }
  });
});

Deno.test("causeOf: takes whatever was thrown", () => {
  const cases: [unknown, string][] = [
    [new Error("a cause"), "a cause"],
    [new Error("two\n  lines\r\n\tand more"), "two lines and more"],
    [new Error(""), "Error"],
    [new TypeError(), "TypeError"],
    [new DOMException("Timed out", "TimeoutError"), "Timed out"],
    ["text", "text"],
    ["two\nlines", "two lines"],
    [null, "null"],
    [undefined, "undefined"],
    [0, "0"],
    [{ toString: () => "an object" }, "an object"],
    [new Error("out of room (os error 28)"), "out of room"],
    [new Error("x (os error 2): open '/a\n/b'"), "x"],
    [
      new Deno.errors.NotCapable(
        'Requires all access to "/dev/shm/a\nb", run again with the --allow-all flag',
      ),
      "Deno does not let a program without all permissions read or write in /dev",
    ],
    [new Error("(os error) is not a number"), "(os error) is not a number"],
  ];
  for (const [thrown, cause] of cases) {
    assertEquals(causeOf(thrown), cause);
    // The cause of a job's error is what was thrown, without the job's name.
    const error = new JobError("job", 3, thrown);
    assertEquals(causeOf(error), cause);
    assertEquals(causeOf(new JobError("outer", 0, error)), cause);
  }
});
