/** What tests of the pool count: messages, and who listens to a signal. */

/** A message with items on its way to a worker. */
export interface Sent {
  /** The items' job. */
  job: string;
  /** How many items there were. */
  count: number;
}

/** Runs code, and gives what was sent to workers meanwhile. */
export async function sentBy(code: () => Promise<unknown>): Promise<Sent[]> {
  const sent: Sent[] = [];
  const { postMessage } = MessagePort.prototype;
  MessagePort.prototype.postMessage = function (...args: unknown[]) {
    const [message] = args as [{ job: string; items?: unknown[] }];
    Reflect.apply(postMessage, this, args);
    if (message.items) {
      sent.push({ job: message.job, count: message.items.length });
    }
  };
  try {
    await code();
  } finally {
    MessagePort.prototype.postMessage = postMessage;
  }
  return sent;
}

/** An object that counts how often it is sent, and throws if too often. */
export function counted<T extends object>(
  value: T,
  most = 2,
): { value: T; times: () => number } {
  let times = 0;
  Object.defineProperty(value, "sent", {
    enumerable: true,
    get: () => {
      if (++times > most) throw new Error(`sent ${times} times`);
      return times;
    },
  });
  return { value, times: () => times };
}

/** A signal that counts who listens to it. */
export function watched(): {
  abort: (reason?: unknown) => void;
  signal: AbortSignal;
  listeners: () => number;
} {
  const controller = new AbortController();
  const { signal } = controller;
  let count = 0;
  for (
    const [method, step] of [["addEventListener", 1], [
      "removeEventListener",
      -1,
    ]] as const
  ) {
    const original = signal[method];
    Object.defineProperty(signal, method, {
      value: (...args: unknown[]) => {
        count += step;
        Reflect.apply(original, signal, args);
      },
    });
  }
  return {
    abort: (reason) => controller.abort(reason),
    signal,
    listeners: () => count,
  };
}

/** Whether a promise has settled; its rejection counts as handled. */
export function settling<T>(
  promise: Promise<T>,
): { promise: Promise<T>; isSettled: boolean } {
  const state = { promise, isSettled: false };
  const settle = () => void (state.isSettled = true);
  promise.then(settle, settle);
  return state;
}
