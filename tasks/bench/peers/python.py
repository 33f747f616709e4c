"""Python's multiprocessing.Pool, for `deno task bench:pool`: see pool.ts."""

import json
import platform
import sys
from multiprocessing import Pool
from time import perf_counter


def same(n):
    return n


def start(workers):
    begun = perf_counter()
    with Pool(workers) as pool:
        pool.apply(same, (1,))
        return perf_counter() - begun


def round_of(pool, name, items):
    numbers = range(items)
    expected = list(numbers)
    buffers = []
    if name == "copy":
        buffers = [bytes(1 << 16) for _ in numbers]
        expected = [1 << 16] * items
    begun = perf_counter()
    if name == "one":
        results = [pool.apply(same, (n,)) for n in numbers]
    elif name == "many":
        calls = [pool.apply_async(same, (n,)) for n in numbers]
        results = [call.get() for call in calls]
    elif name == "map":
        results = pool.map(same, numbers)
    elif name == "stream":
        results = list(pool.imap_unordered(same, (n for n in numbers)))
    elif name == "copy":
        results = pool.map(len, buffers)
    else:
        return {"none": "moves nothing"}
    seconds = perf_counter() - begun
    if name == "stream":
        results.sort()
    if results != expected:
        return {"none": "failed, the answers are wrong"}
    return {"ms": 1000 * seconds, "items": items}


def main():
    workers = int(sys.argv[1])

    def say(answer):
        print(json.dumps(answer), flush=True)

    python = f"Python {platform.python_version()}"
    say({"name": f"multiprocessing.Pool of {python}"})
    with Pool(workers) as pool:
        for line in sys.stdin:
            name, items = line.split()
            if name == "start":
                say({"ms": 1000 * start(workers), "items": 1})
            else:
                say(round_of(pool, name, int(items)))


if __name__ == "__main__":
    main()
