"""Actors, workers and nodes that die under a run: it goes on by itself, and the table is what it would have been."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from tests.crash.conftest import NODE, NewTrial
from tests.crash.harness import Table, assert_as_if_undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.s3]  # S3, as the cluster's workers can reach that, too


def _workers(node: Any) -> list[psutil.Process]:
    """Processes of a node that run tasks or actors, or ran some and wait for more."""
    (raylet,) = node.all_processes["raylet"]
    return [child for child in psutil.Process(raylet.process.pid).children(recursive=True) if _title(child)]


def _title(process: psutil.Process) -> str:
    """What Ray calls a worker: by what it does; "" for what is no worker, or gone."""
    try:
        title = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
    # a raylet ends with its agents; that is the death of a node, which has a test of its own
    return title if title.startswith("ray::") and "Agent" not in title else ""


def _encodes(process: psutil.Process) -> bool:
    return "EncodeStage" in _title(process)


@pytest.mark.timeout(900)
def test_workers(cluster: Any, new_trial: NewTrial, undisturbed: dict[int, Table]) -> None:
    trial = new_trial(window_s=0.2)
    with trial.started() as process:
        # the encoder, then everything that reads and writes, and both again
        for num_windows, encodes in ((3, True), (8, False), (16, True), (24, False)):

            def victims(least: int = num_windows, wanted: bool = encodes) -> list[psutil.Process]:
                if trial.num_windows() < least:
                    return []
                return [w for node in cluster.worker_nodes for w in _workers(node) if _encodes(w) == wanted]

            found = trial.await_in(process, victims)
            assert found, f"the run ended before {num_windows} windows were encoded{trial.tail()}"
            for victim in found:
                victim.kill()
            trial.num_kills += 1
        trial.report_of(process)
    assert_as_if_undisturbed(trial, undisturbed)


@pytest.mark.timeout(900)
def test_a_node(cluster: Any, new_trial: NewTrial, undisturbed: dict[int, Table]) -> None:
    trial = new_trial(window_s=0.2)
    with trial.started() as process:

        def encoding() -> list[Any]:
            if trial.num_windows() < 12:
                return []
            return [node for node in cluster.worker_nodes if any(map(_encodes, _workers(node)))]

        found = trial.await_in(process, encoding)
        assert found, f"the run ended before a node could be taken from it{trial.tail()}"
        cluster.remove_node(found[0], allow_graceful=False)
        cluster.add_node(**NODE)
        trial.num_kills += 1
        trial.report_of(process)
    assert_as_if_undisturbed(trial, undisturbed)
