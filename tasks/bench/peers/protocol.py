"""The Python side of protocol.mjs, with the same arguments."""

import json
import sys


def say(reply):
    print(json.dumps(reply), flush=True)


def missing(why):
    say({"missing": why})
    sys.exit()


def answer(version, jobs):
    once = sys.argv[3:]
    if once:
        return jobs[once[0]](*once[1:])
    say({"value": f"{version} on Python {sys.version.split()[0]}"})
    for line in sys.stdin:
        job, *args = json.loads(line)
        try:
            say(jobs[job](*args))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
