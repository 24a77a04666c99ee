"""One run of the scale benchmark: `t1 index` in a process of its own, watched from outside.

    python -m infra.bench.scale_run SETTINGS.toml CORES     what `watched_run` starts; prints one JSON object

The watcher samples the driver's memory and the processor time of the driver and everything below it, Ray included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

_SAMPLE_S = 0.25


@dataclass(slots=True)
class Watched:
    """What one run did and used.

    Attributes:
        report: The run's own account, as `t1 index` prints it.
        commits: For each commit: the version it made, its seconds, and when it ended (seconds since the start).
        merges: For each merge of fragments that was committed meanwhile: the driver's seconds.
        wall_s: From starting the process to its end, Ray's start and end included.
        cpu_s: Processor seconds of the driver and all processes below it.
        driver_bytes: For each sample: seconds since the start, and bytes of memory that only the driver has (its
            resident set without what it shares with the object store and other processes).
        worker_bytes: Most that any other process had.
    """

    report: dict[str, Any]
    commits: list[tuple[int, float, float]] = field(default_factory=list)
    merges: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    driver_bytes: list[tuple[float, int]] = field(default_factory=list)
    worker_bytes: int = 0


def watched_run(settings: Path, *, cores: int) -> Watched:
    """Runs the settings in a new process and watches it.

    Raises:
        RuntimeError: the run failed; its last lines are in the message.
    """
    begin = time.monotonic()
    command = [sys.executable, "-m", "infra.bench.scale_run", str(settings), str(cores)]
    log = settings.with_suffix(".log")
    result = Watched({})
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        _watch(process, result, begin)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    result.wall_s = time.monotonic() - begin
    if process.returncode or not lines:
        raise RuntimeError(f"the run ended with {process.returncode}: {log.read_text()[-2_000:]}")
    found = json.loads(lines[-1])
    # both processes read the same monotonic clock
    result.report = found["report"]
    result.commits = [(version, seconds, at - begin) for version, seconds, at in found["commits"]]
    result.merges = found["merges"]
    return result


def _watch(process: subprocess.Popen[str], result: Watched, begin: float) -> None:
    driver = psutil.Process(process.pid)
    spent: dict[int, float] = {}
    while process.poll() is None:
        try:
            memory = driver.memory_info()
            result.driver_bytes.append((time.monotonic() - begin, memory.rss - memory.shared))
            family = [driver, *driver.children(recursive=True)]
        except psutil.Error:
            break
        for member in family:
            try:
                times, memory = member.cpu_times(), member.memory_info()
            except psutil.Error:
                continue
            spent[member.pid] = times.user + times.system
            if member.pid != driver.pid:
                result.worker_bytes = max(result.worker_bytes, memory.rss - memory.shared)
        time.sleep(_SAMPLE_S)
    process.wait()
    result.cpu_s = sum(spent.values())


def _timed_commits() -> list[tuple[int, float, float]]:
    """From now on, every commit leaves its time here."""
    from pipeline.store.commit import Committer

    commits: list[tuple[int, float, float]] = []
    flush = Committer.flush

    def timed(self: Committer) -> bool:
        begin = time.perf_counter()
        done = flush(self)
        if done:
            commits.append((self.version, time.perf_counter() - begin, time.monotonic()))
        return done

    Committer.flush = timed  # type: ignore[method-assign]
    return commits


def _timed_merges() -> list[float]:
    """From now on, every merge that this process commits leaves its time here."""
    compaction: Any = import_module("pipeline.flows.compaction")
    merges: list[float] = []
    commit = compaction.commit_rewrites

    def timed(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        made = commit(*arguments, **named)
        merges.append(time.perf_counter() - begin)
        return made

    compaction.commit_rewrites = timed
    return merges


def _drive(settings_file: str, cores: int) -> None:
    import ray

    from pipeline.flows.cluster import connected
    from pipeline.flows.index import index
    from pipeline.settings import load_settings

    commits, merges = _timed_commits(), _timed_merges()
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        with connected(None):
            report = index(load_settings(settings_file, {}))
    finally:
        ray.shutdown()
    print(json.dumps({"report": report.as_json(), "commits": commits, "merges": merges}))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
    _drive(sys.argv[1], int(sys.argv[2]))
