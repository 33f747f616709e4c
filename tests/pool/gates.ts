/**
 * How tests wait: for a condition, never for a time. A job that is to be running
 * at some moment waits at a {@linkcode Gate}, which counts those that have come.
 */

/** After this long, in ms, a test that still waits is taken to hang. */
export const HANGS = 120_000;

/** Numbers that all threads share. */
export type Memory = Int32Array<SharedArrayBuffer>;

/** Makes such memory, with numbers in it. */
export function shared(...values: number[]): Memory {
  const memory = new Int32Array(new SharedArrayBuffer(4 * values.length));
  memory.set(values);
  return memory;
}

/** Lets the event loop take a turn. */
export const turn = (): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, 1));

/** Waits until a condition holds. */
export async function until(
  condition: () => unknown,
): Promise<void> {
  const end = performance.now() + HANGS;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Never: ${condition}`);
    await turn();
  }
}

/** Indices into a gate's memory: how many came, may pass, and left. */
const [ARRIVED, ADMITTED, LEFT] = [0, 1, 2];

/** Holds up jobs on any thread until a test lets them pass. */
export class Gate {
  /** What the jobs are given. */
  readonly memory = shared(0, 0, 0);

  /** How many have come. */
  get arrived(): number {
    return Atomics.load(this.memory, ARRIVED);
  }

  /** How many have left, admitted or cancelled. */
  get left(): number {
    return Atomics.load(this.memory, LEFT);
  }

  /** Lets the first `count` pass; without a number, all. */
  open(count = 2 ** 30): void {
    Atomics.store(this.memory, ADMITTED, count);
  }

  /** Blocks the calling thread until somebody has left. */
  blockUntilLeft(): void {
    Atomics.wait(this.memory, LEFT, 0, HANGS);
  }
}

/** In a job: comes to a gate; the result tells whether it may pass yet. */
export function arrive(memory: Memory): () => boolean {
  const place = Atomics.add(memory, ARRIVED, 1);
  return () => Atomics.load(memory, ADMITTED) > place;
}

/** In a job: leaves a gate. */
export function leave(memory: Memory): void {
  Atomics.add(memory, LEFT, 1);
  Atomics.notify(memory, LEFT);
}
