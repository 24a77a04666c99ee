"""A pool that fits: sized down with a word, or refused; never a wait for what will not come."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
import ray
from ray.autoscaler.v2 import utils as autoscaler_utils
from ray.exceptions import ActorDiedError, LocalRayletDiedError, ObjectLostError, RayError

from pipeline.errors import ClusterError, ClusterLost, CorpusChanged
from pipeline.flows import cluster
from pipeline.flows.cluster import Resources, advise_device, choose_device, size_pool
from pipeline.settings import PoolSettings


def _resources(*, cpus: float, gpus: float = 0.0, node: float | None = None, grows: bool = False) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, largest_node_cpus=node or cpus, grows=grows)


@pytest.mark.parametrize(
    ("settings", "resources", "device", "sizes"),
    [
        ({}, _resources(cpus=2), "cpu", (1, 1)),
        ({"encoders_min": 4}, _resources(cpus=2), "cpu", (1, 1)),
        ({"encoders_min": 4}, _resources(cpus=16), "cpu", (4, 4)),
        ({"encoders_min": 2, "encoders_max": 8}, _resources(cpus=6), "cpu", (2, 5)),
        ({"encoders_min": 3, "encoders_max": 2}, _resources(cpus=16), "cpu", (3, 3)),
        ({"encoders_min": 4}, _resources(cpus=16, gpus=2), "cuda", (2, 2)),
        ({"encoders_min": 8, "gpus_per_encoder": 0.5}, _resources(cpus=16, gpus=2), "cuda", (4, 4)),
        ({"encoders_min": 8, "gpus_per_encoder": 0.4}, _resources(cpus=16, gpus=2), "cuda", (4, 4)),
        ({"encoders_min": 8, "gpus_per_encoder": 2}, _resources(cpus=16, gpus=4), "cuda", (2, 2)),
        ({"encoders_min": 4}, _resources(cpus=2, grows=True), "cpu", (4, 4)),
    ],
)
def test_sizes(settings: dict[str, Any], resources: Resources, device: str, sizes: tuple[int, int]) -> None:
    pool = size_pool(PoolSettings(**settings), resources, device=device)
    assert (pool.min_size, pool.max_size) == sizes


def test_what_is_sized_down_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        size_pool(PoolSettings(encoders_min=4), _resources(cpus=2), device="cpu")
    assert caplog.messages == ["4 encoders do not fit beside reading and writing on 2 CPU and 0 GPU; using 1"]


@pytest.mark.parametrize(
    ("settings", "resources", "device"),
    [
        ({"cpus_per_encoder": 8.0}, _resources(cpus=2), "cpu"),
        ({}, _resources(cpus=1), "cpu"),
        ({}, _resources(cpus=16), "cuda"),
        ({"gpus_per_encoder": 2}, _resources(cpus=16, gpus=1), "cuda"),
        # sixteen CPUs in all, but no node that has eight
        ({"cpus_per_encoder": 8.0}, _resources(cpus=16, node=4), "cpu"),
    ],
)
def test_what_can_never_be_scheduled_is_refused(settings: dict[str, Any], resources: Resources, device: str) -> None:
    with pytest.raises(ClusterError, match="one encoder needs"):
        size_pool(PoolSettings(**settings), resources, device=device)


def test_threads_share_a_node() -> None:
    assert size_pool(PoolSettings(), _resources(cpus=8), device="cpu").threads == 8
    assert size_pool(PoolSettings(encoders_min=4), _resources(cpus=8), device="cpu").threads == 2
    assert size_pool(PoolSettings(encoders_min=4), _resources(cpus=16, node=8), device="cpu").threads == 4
    assert size_pool(PoolSettings(threads=3), _resources(cpus=8), device="cpu").threads == 3
    assert size_pool(PoolSettings(), _resources(cpus=8, gpus=1), device="cuda").threads is None


def test_the_device_is_what_there_is_unless_told() -> None:
    assert choose_device("auto", _resources(cpus=2)) == "cpu"
    assert choose_device("auto", _resources(cpus=2, gpus=1)) == "cuda"
    assert choose_device("cpu", _resources(cpus=2, gpus=1)) == "cpu"


def test_a_cluster_that_may_grow_gpus_is_not_left_to_cpus_without_a_word() -> None:
    grows = _resources(cpus=2, grows=True)
    assert "--device cuda asks its autoscaler" in str(advise_device("auto", grows))
    for wanted in ("cpu", "cuda"):
        assert advise_device(wanted, grows) is None
    assert advise_device("auto", _resources(cpus=2)) is None
    assert advise_device("auto", _resources(cpus=2, gpus=1, grows=True)) is None


@pytest.mark.parametrize(
    ("status", "grows"),
    [
        (None, False),
        (b"{}", False),
        ({"autoscaler_report": None}, False),
        ({"autoscaler_report": {"active_nodes": {"node_" + "0123456789abcdef" * 3: 1}}}, False),
        ({"autoscaler_report": {"active_nodes": {"headgroup": 1}}}, True),
    ],
)
def test_a_cluster_grows_when_an_autoscaler_names_kinds_of_node(
    monkeypatch: pytest.MonkeyPatch, status: Any, grows: bool
) -> None:
    raw = json.dumps(status).encode() if isinstance(status, dict) else status
    monkeypatch.setattr(autoscaler_utils, "is_autoscaler_v2", lambda **_: False)
    monkeypatch.setattr(cluster.internal_kv, "_internal_kv_get", lambda _: raw)
    assert cluster._autoscales() is grows


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_ray_of_ones_own_does_not_grow() -> None:
    with cluster.connected(None) as resources:
        assert (resources.cpus, resources.gpus, resources.grows) == (2.0, 0.0, False)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("lost", [LocalRayletDiedError(), ActorDiedError(), ObjectLostError("ab", "", "")])
def test_what_ray_lost_for_good_is_said(lost: RayError) -> None:
    with pytest.raises(ClusterLost) as caught, cluster.connected(None):
        raise lost
    assert re.fullmatch(r"Ray lost a part of the cluster: [^\n]*[^.]; what was [^\n]+", str(caught.value))
    assert caught.value.__cause__ is lost
    assert caught.value.exit_code == 1


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_cannot_be_made_is_not_lost() -> None:
    class Bad:
        def __init__(self) -> None:
            raise ValueError("a fault of ours")

        def work(self) -> None:
            """Never comes to it."""

    with pytest.raises(ActorDiedError, match="a fault of ours"), cluster.connected(None):
        ray.get(ray.remote(Bad).remote().work.remote())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("raised", [ValueError("a fault of ours"), CorpusChanged("said already")])
def test_what_a_task_raises_stays_what_it_is(raised: Exception) -> None:
    def fail() -> None:
        raise raised

    with pytest.raises(type(raised), match=str(raised)), cluster.connected(None):
        cluster.call_remotely(fail)
