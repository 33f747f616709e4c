/**
 * The floor of the log scan: reads all files of a folder with as many threads as
 * are asked for, and does nothing with them. The threads claim file after file
 * by one atomic counter. It has all permissions, as to check them is a cost that
 * reading has not. Arguments: how many threads, and a file or folder.
 */

/** Smaller and larger ones took up to a quarter longer. */
const BLOCK = 1 << 18;

if ("WorkerGlobalScope" in globalThis) {
  self.onmessage = ({ data }) => self.postMessage(read(data));
} else await main(Deno.args);

async function main([threads, path]) {
  // First of all: the worker starts while this thread lists the files.
  const workers = Array.from(
    { length: threads - 1 },
    () => new Worker(import.meta.url, { type: "module" }),
  );
  const counter = new Int32Array(new SharedArrayBuffer(4));
  const share = { paths: list(path), counter };
  const theirs = workers.map((worker) => {
    worker.postMessage(share);
    return new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
    });
  });
  const all = [read(share), ...await Promise.all(theirs)];
  console.log(all.reduce((sum, bytes) => sum + bytes, 0));
  Deno.exit();
}

function list(path) {
  if (Deno.statSync(path).isFile) return [path];
  return [...Deno.readDirSync(path)].flatMap(({ name, isDirectory }) =>
    isDirectory ? list(`${path}/${name}`) : `${path}/${name}`
  );
}

/** Reads what nobody else has claimed, and says how many bytes that is. */
function read({ paths, counter }) {
  const block = new Uint8Array(BLOCK);
  let bytes = 0;
  for (let i; (i = Atomics.add(counter, 0, 1)) < paths.length;) {
    const file = Deno.openSync(paths[i]);
    for (let n; (n = file.readSync(block));) bytes += n;
    file.close();
  }
  return bytes;
}
