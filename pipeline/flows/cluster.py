"""A Ray to run on, and a pool that it can schedule.

Ray waits for ever, silently, for resources that will never come; so what a run asks for is compared with what there is
before it starts, and sized down or refused with a word.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv

from pipeline.errors import ClusterError
from pipeline.flows.failures import root_cause
from pipeline.flows.shares import READ_CPUS, WRITE_CPUS
from pipeline.settings import PoolSettings

_log = logging.getLogger(__name__)
_NAMED_AFTER_ITS_ID = re.compile(r"node_[0-9a-f]{16,}")

_HEADROOM_CPUS = READ_CPUS + WRITE_CPUS


@dataclass(frozen=True, slots=True)
class Pool:
    """The encoders of a run, as Ray Data is told.

    Attributes:
        device: "cpu" or "cuda".
        min_size: Encoders that are there from the start.
        max_size: Encoders at most.
        cpus: CPUs that each reserves.
        gpus: GPUs, or a fraction of one, that each reserves.
        threads: Torch threads of each on CPU; None on CUDA.
    """

    device: str
    min_size: int
    max_size: int
    cpus: float
    gpus: float
    threads: int | None

    def describe(self) -> str:
        """For a person: "1 to 4 cuda encoders"."""
        size = f"{self.min_size} to {self.max_size}" if self.max_size > self.min_size else str(self.min_size)
        return f"{size} {self.device} encoder{'' if self.max_size == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cluster has now, and whether it can grow."""

    cpus: float
    gpus: float
    largest_node_cpus: float
    grows: bool


@contextmanager
def connected(address: str | None) -> Iterator[Resources]:
    """Joins a cluster, or starts a local Ray that ends with the block; a Ray that is already joined is used as it is.

    Within the block stdout is stderr, unless Ray was joined before: Ray prints what its processes print, from a thread.

    Raises:
        ClusterError: the cluster cannot be reached.
        T1Error: what the block raised, where that was one of ours wrapped by Ray; `ClusterLost` for what Ray lost.
    """
    if ray.is_initialized():
        with _said_plainly():
            yield _resources()
        return
    # a job submitted to a cluster finds its address in the environment
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address, "logging_level": logging.ERROR, "log_to_driver": True}
    if address is None:
        # "local", or Ray would join whatever other Ray happens to run on this machine
        options |= {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts its processes by fork and, at once, exec: nothing of Lance runs in between
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    # what a process of Ray prints, and what Ray says of one that died, would land between the lines of data
    with redirect_stdout(sys.stderr):
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"the Ray cluster at {address}" if address else "a local Ray"
            raise ClusterError(
                f"cannot reach {where}: {str(error).splitlines()[0]}; check --address, and RAY_AUTH_MODE and "
                "RAY_AUTH_TOKEN_PATH if it asks for a token"
            ) from error
        try:
            with _said_plainly():
                yield _resources()
        finally:
            ray.shutdown()


@contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        cause = root_cause(error)
        if cause is error:
            raise
        raise cause from error


def _resources() -> Resources:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(
        cpus=sum(node.get("CPU", 0.0) for node in alive),
        gpus=sum(node.get("GPU", 0.0) for node in alive),
        largest_node_cpus=max((node.get("CPU", 0.0) for node in alive), default=0.0),
        grows=_autoscales(),
    )


def _autoscales() -> bool:
    """Whether an autoscaler reports to this cluster, so that more than there is now may be asked for."""
    # a fortieth of a second, which the processes of tasks have no use for
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    # Every Ray reports a status, also one that only mirrors the nodes it has. Those it names after their ids; an
    # autoscaler names them after the kinds of node that it can add.
    try:
        if is_autoscaler_v2(fetch_from_server=True):
            cluster = get_cluster_status(ray.get_runtime_context().gcs_address)
            kinds = {node.ray_node_type_name for node in [*cluster.active_nodes, *cluster.idle_nodes]}
        else:
            status = json.loads(internal_kv._internal_kv_get(b"__autoscaling_status") or "{}")
            kinds = set((status.get("autoscaler_report") or {}).get("active_nodes") or ())
    except (RuntimeError, AttributeError, ValueError):
        return False
    return any(not _NAMED_AFTER_ITS_ID.fullmatch(kind) for kind in kinds)


def choose_device(wanted: str, resources: Resources) -> str:
    """What encoders run on: as told, else "cuda" where the cluster has GPUs now, and "cpu" where it has none."""
    if wanted != "auto":
        return wanted
    return "cuda" if resources.gpus > 0 else "cpu"


def advise_device(wanted: str, resources: Resources) -> str | None:
    """One sentence where "auto" finds no GPU in a cluster that may yet grow some, else None."""
    if wanted != "auto" or resources.gpus > 0 or not resources.grows:
        return None
    return (
        "the cluster has no GPU now, so encoders run on CPU; if it can grow nodes with GPUs, --device cuda asks its "
        "autoscaler for them"
    )


def size_pool(settings: PoolSettings, resources: Resources, *, device: str) -> Pool:
    """A pool that the cluster can schedule.

    Raises:
        ClusterError: not even one encoder fits, and the cluster does not grow.
    """
    gpus = settings.gpus_per_encoder if settings.gpus_per_encoder is not None else (1.0 if device == "cuda" else 0.0)
    cpus = settings.cpus_per_encoder
    low = settings.encoders_min
    high = max(settings.encoders_max or low, low)
    if not resources.grows:
        fitting = _fitting(resources, cpus=cpus, gpus=gpus)
        if fitting < 1:
            raise ClusterError(
                f"one encoder needs {gpus:g} GPU and {cpus:g} CPU beside {_HEADROOM_CPUS:g} CPU for reading and "
                "writing, but the cluster has "
                f"{resources.gpus:g} GPU and {resources.cpus:g} CPU, at most {resources.largest_node_cpus:g} CPU on a "
                "node, and does not grow; ask for less with "
                "--gpus-per-encoder or --cpus-per-encoder"
            )
        if high > fitting:
            _log.warning(
                "%d encoders do not fit beside reading and writing on %g CPU and %g GPU; using %d",
                high,
                resources.cpus,
                resources.gpus,
                fitting,
            )
        low, high = min(low, fitting), min(high, fitting)
    threads = settings.threads
    if device == "cpu" and threads is None:
        threads = max(1, int(resources.largest_node_cpus or 1) // max(1, math.ceil(high / _num_nodes(resources))))
    return Pool(device, low, high, cpus, gpus, threads)


def _num_nodes(resources: Resources) -> int:
    return max(1, round(resources.cpus / resources.largest_node_cpus)) if resources.largest_node_cpus else 1


def _fitting(resources: Resources, *, cpus: float, gpus: float) -> int:
    on_a_node = math.floor(resources.largest_node_cpus / cpus + 1e-9)
    by_cpu = min(math.floor((resources.cpus - _HEADROOM_CPUS) / cpus + 1e-9), on_a_node * _num_nodes(resources))
    if gpus == 0:
        return by_cpu
    # one encoder cannot use GPUs of two nodes, nor two fractions of different GPUs
    per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
    return min(by_cpu, math.floor(resources.gpus * per_gpu + 1e-9))


def describe_room(pool: Pool) -> str:
    """What the cluster has for a pool at this moment, for a person who wonders why nothing happens."""
    try:
        now, nodes = _resources(), sum(bool(node["Alive"]) for node in ray.nodes())
    except (RuntimeError, ConnectionError, RayError) as error:
        return f"the cluster does not answer: {str(error).partition(chr(10))[0]}"
    have = f"the cluster has {nodes} nodes with {now.cpus:g} CPU and {now.gpus:g} GPU"
    need = f"an encoder needs {pool.cpus:g} CPU and {pool.gpus:g} GPU"
    if _fitting(now, cpus=pool.cpus, gpus=pool.gpus) >= 1:
        return f"{have}, enough for {need.removeprefix('an encoder needs ')} an encoder; encoders load, or are slow"
    return f"{have}, and {need}: it goes on by itself when a node comes, or, ended, with the same command"


def call_remotely(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls a function in a task of the cluster, so that what it reads is not in the driver's memory.

    Raises:
        BaseException: what the function raises, as Ray hands it on: an instance of its class.
    """
    return ray.get(start_remotely(function, *arguments, **named))


def start_remotely(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Begins what `call_remotely` does; returns a reference to what the function will return."""
    return ray.remote(num_cpus=1, max_retries=2)(function).remote(*arguments, **named)
