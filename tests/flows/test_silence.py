"""A run that waits says so, and for what."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from pipeline.flows.cluster import Pool, describe_room
from pipeline.flows.progress import Reporter

_PATIENCE_S = 30


def _reporter() -> tuple[Reporter, io.StringIO]:
    said = io.StringIO()
    return Reporter(Console(file=said, width=200), None), said


def test_silence_is_broken() -> None:
    reporter, said = _reporter()
    described = threading.Event()

    def describe() -> str:
        if described.is_set():  # the second time, so the first is printed
            again.set()
        described.set()
        return "no node"

    again = threading.Event()
    reporter.start(10)
    with reporter.watching(describe, silence_s=0.01):
        assert again.wait(_PATIENCE_S)
    assert said.getvalue().startswith("nothing was finished for 0 s: no node\n")


def test_work_is_not_interrupted() -> None:
    reporter, said = _reporter()
    with reporter.watching(lambda: "never", silence_s=3_600):
        reporter.advance(1, num_tokens=1, num_slots=1, num_quarantined=0)
    assert said.getvalue() == ""


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("cpus", "gpus", "says"), [(1.0, 8.0, "when a node comes"), (0.25, 0.0, "encoders load, or are slow")]
)
def test_what_is_lacking_is_named(cpus: float, gpus: float, says: str) -> None:
    described = describe_room(Pool("cuda", 1, 1, cpus, gpus, None))
    assert says in described
    assert f"{gpus:g} GPU" in described
