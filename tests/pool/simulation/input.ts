/** An input of a call: it may be slow, may throw, and is watched. */
import { inputError } from "./invariants.ts";
import type { Call } from "./records.ts";
import type { Random, World } from "./world.ts";

export class Input {
  readonly [Symbol.iterator]?: () => unknown;
  readonly [Symbol.asyncIterator]?: () => unknown;
  readonly #call: Call;
  readonly #given: unknown[];
  readonly #random: Random;
  readonly #world: World;
  readonly #slowness: number;

  constructor(call: Call, given: unknown[], random: Random, world: World) {
    this.#call = call;
    this.#given = given;
    this.#random = random;
    this.#world = world;
    this.#slowness = random.pick([0, 0.1, 1]);
    if (call.input === "sync") this[Symbol.iterator] = () => this;
    else this[Symbol.asyncIterator] = () => this;
  }

  next(): unknown {
    return this.#call.input === "sync" ? this.#next() : this.#nextLater();
  }

  return(): unknown {
    const { exhaustedIn } = this.#call;
    this.#call.closed++;
    // What it has said in this task, the pool may not have heard.
    this.#call.closedLate = exhaustedIn! < this.#world.tasks;
    return { done: true, value: undefined };
  }

  async #nextLater(): Promise<unknown> {
    this.#call.asked = true;
    try {
      if (this.#random.chance(this.#slowness)) {
        await this.#world.sleep(this.#random.magnitude(0.01, 100));
      }
      return this.#next();
    } finally {
      this.#call.asked = false;
    }
  }

  #next(): unknown {
    const call = this.#call;
    const { aside, pulled } = call;
    if (aside?.at === pulled) {
      call.aside = undefined;
      aside.run();
    }
    const isOver = pulled === this.#given.length;
    if (isOver || pulled === call.throwsAt) {
      call.exhaustedIn = this.#world.tasks;
    }
    if (pulled === call.throwsAt) throw inputError;
    if (isOver) return { done: true, value: undefined };
    return { done: false, value: this.#given[call.pulled++] };
  }
}
