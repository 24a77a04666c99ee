"""What the scale benchmark says of runs that it watched: times and rates, the driver's memory, commit times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.bench.scale_run import Watched


def facts(run: Watched) -> dict[str, Any]:
    """A run's times and rates."""
    seconds, read = run.report["seconds"], run.report["documents_read"]
    return {
        "seconds": seconds,
        "stream_seconds": run.report["stream_seconds"],
        "wall_seconds": round(run.wall_s, 2),
        "cpu_seconds": round(run.cpu_s, 2),
        "documents_per_s": read / seconds,
        "documents_per_cpu_s": read / run.cpu_s,
        "driver_peak_bytes": max((size for _, size in run.driver_bytes), default=0),
        "worker_peak_bytes": run.worker_bytes,
    }


def memory(run: Watched) -> dict[str, Any]:
    """The driver's memory from the first commit to the last, and at the end, where indexes are built and checked."""
    begin, end = run.commits[0][2], run.commits[-1][2]
    streaming = np.array([size for at, size in run.driver_bytes if begin <= at <= end] or [run.driver_bytes[0][1]])
    fifths = [float(np.median(part)) for part in np.array_split(streaming, 5) if len(part)]
    every = np.array([size for _, size in run.driver_bytes])
    return {
        "bytes_by_fifth": [int(size) for size in fifths],
        "growth": fifths[-1] / fifths[0] - 1,
        "peak_after_last_commit": max((size for at, size in run.driver_bytes if at > end), default=0),
        "samples": [int(size) for size in every[np.linspace(0, len(every) - 1, min(41, len(every))).astype(int)]],
    }


def commits(runs: list[Watched]) -> dict[str, Any]:
    """Commit times of runs alike, and whether they grow: by a line through all of them.

    Of one run it would say little: a hundred commits of some milliseconds, made while every core is busy; lines through
    single runs of the same code rose by -18 to +34 %. Tenths say less still: shuffled, the medians of two tenths of a
    run are 0.69 to 1.43 of each other nine times in ten.
    """
    each = [[seconds for _, seconds, _ in run.commits] for run in runs]
    # the first commit opens files and warms caches; the rest are what repeats
    steady = [seconds[1:] or seconds for seconds in each]
    numbers = np.concatenate([np.arange(len(seconds)) for seconds in steady])
    slope, begin = line(numbers, np.concatenate(steady))
    tenths = [np.array_split(seconds, 10) for seconds in steady if len(seconds) >= 10]
    return {
        "count": len(each[0]),
        "median_ms": float(np.median(np.concatenate(each)) * 1e3),
        "tenths_ms": [round(float(np.median(np.concatenate(parts))) * 1e3, 2) for parts in zip(*tenths, strict=True)],
        "each_ms": [[round(value * 1e3, 2) for value in seconds] for seconds in each],
        "slope_ms_per_commit": slope * 1e3,
        "growth": slope * float(numbers.max()) / begin,
        "merges": max(len(run.merges) for run in runs),
        "longest_merge_ms": max((took for run in runs for took in run.merges), default=0.0) * 1e3,
    }


def line(numbers: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and beginning of the line that Theil and Sen draw: by the median of what any two values say."""
    one, other = np.triu_indices(len(values), 1)
    apart = numbers[other] - numbers[one]
    one, other, apart = one[apart != 0], other[apart != 0], apart[apart != 0]
    slope = float(np.median((values[other] - values[one]) / apart)) if len(apart) else 0.0
    return slope, float(np.median(values - slope * numbers))
