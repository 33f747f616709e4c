"""Python's multiprocessing.Pool: the rounds of pools.mjs that it has."""

import sys
from multiprocessing import Pool
from time import perf_counter

from protocol import answer


def same(value):
    return value


def make_items(kind, count):
    if kind == "copy":
        return [b"\1" * (1 << 16) for _ in range(count)]
    if kind == "big":
        return [b"\1" * 50_000_000 for _ in range(count)]
    return list(range(count))


KINDS = {
    "one": lambda pool, items: [pool.apply(same, (item,)) for item in items],
    "many": lambda pool, items: [
        call.get() for call in [pool.apply_async(same, (i,)) for i in items]
    ],
    "map": lambda pool, items: pool.map(same, items),
    "stream": lambda pool, items: list(
        pool.imap_unordered(same, (item for item in items))
    ),
    "copy": lambda pool, items: pool.map(len, items),
    "big": lambda pool, items: [pool.apply(same, (item,)) for item in items],
}


def start(workers):
    begun = perf_counter()
    with Pool(workers) as pool:
        calls = [pool.apply_async(same, (i,)) for i in range(workers)]
        calls[0].get()
        seconds = perf_counter() - begun
        return {"ms": 1000 * seconds, "value": [call.get() for call in calls]}


def shown(result):
    if isinstance(result, int):
        return result
    return [len(result), result[0], result[-1]]


def main():
    workers = int(sys.argv[2])
    with Pool(workers) as pool:

        def round_of(kind, count, is_check):
            if kind == "start":
                return start(workers)
            if kind not in KINDS:
                return {"lacks": kind}
            items = make_items(kind, count)
            begun = perf_counter()
            results = KINDS[kind](pool, items)
            ms = 1000 * (perf_counter() - begun)
            return {"ms": ms, "value": [shown(r) for r in results] if is_check else None}

        answer("multiprocessing", {"round": round_of})


if __name__ == "__main__":
    main()
