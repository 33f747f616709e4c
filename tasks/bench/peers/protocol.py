"""The Python side of protocol.mjs. Argument: how many workers to use."""

import json
import sys


def answer(version, jobs):
    def say(reply):
        print(json.dumps(reply), flush=True)

    say({"value": f"{version} on Python {sys.version.split()[0]}"})
    for line in sys.stdin:
        job, *args = json.loads(line)
        try:
            say(jobs[job](*args))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
