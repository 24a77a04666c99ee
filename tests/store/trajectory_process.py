"""A writer of the cache in a process of its own, to be run beside others and killed; run as a script.

Its arguments are the database, the first key's number, how many there are and how many are added at a time. It says
"ready", waits for a line, and says after each batch how many rows it wrote.
"""

from __future__ import annotations

import sys

from pipeline.store.database import Database
from pipeline.store.trajectories import TrajectoryCache
from tests.store.trajectory_rows import cached


def main(uri: str, first: str, num: str, at_once: str) -> None:
    cache, start, step = TrajectoryCache(Database.at(uri)), int(first), int(at_once)
    print("ready", flush=True)
    sys.stdin.readline()
    for begin in range(start, start + int(num), step):
        print(cache.add([cached(number) for number in range(begin, min(begin + step, start + int(num)))]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
