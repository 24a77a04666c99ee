"""A few documents, encoded and written by tasks: where that takes less time than a pool of actors takes to start.

The same stages as `stream` joins, one after the other, in processes of Ray's that are likely warm from the scan. Called
by the index flow, which commits what comes back; whatever ends the task's process is left to `stream`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from pipeline.corpus.sizes import is_small
from pipeline.flows.stages import EncodeStage, read_and_tokenise
from pipeline.flows.stream import StreamSettings
from pipeline.flows.write_stage import write_fragments
from pipeline.model.checkpoint import HASHING_SCHEME
from pipeline.settings import ModelSettings

_log = logging.getLogger(__name__)

# Starting a pool takes about seven seconds. A model encodes some hundred documents in that time even on CPU; without
# one, what tokenising alone does in a few seconds.
_DOCUMENTS = 128
_HASHING_DOCUMENTS = 20_000
# And so much text, for documents may be books: a task says nothing until it ends, and one that dies loses all of it.
# A quarter of a million tokens take a CPU some five minutes.
_TEXT_BYTES = 2**20
_HASHING_TEXT_BYTES = 64 * 2**20
# Without a model, reading and tokenising are all the work, and cores share it; a model would be loaded in each process.
_HASHING_TASKS = 4
# As long as a process takes to start on a slow machine.
_READY_S = 3.0

Results = list[dict[str, Any]]


def suits_one_task(num_documents: int, *, kind: str, commit_rows: int, most: int | None) -> bool:
    """Whether so little is to be encoded that a pool is not worth starting.

    Args:
        num_documents: To be encoded.
        kind: As in `Checkpoint`.
        commit_rows: Rows of one commit, which is what a task that dies loses.
        most: Documents that the user named as the most; by kind when None, 0 for never.
    """
    if most is None:
        most = _HASHING_DOCUMENTS if kind == "hashing" else _DOCUMENTS
    return 0 < num_documents <= min(most, commit_rows)


def encode_directly(
    settings: StreamSettings, plan: Any, shards: Sequence[int], *, schema: pa.Schema, ready: Any = None
) -> Results | None:
    """What each window of fragments says of itself, as `stream` yields it; None where it is left to the pool.

    That is where the shards hold too much, or a task's process died.

    Args:
        settings: Of the stages.
        plan: Reference to a `Plan`.
        shards: Positions of the shards to read.
        schema: Of the documents table.
        ready: Reference to what has a process get ready for one of several tasks.

    Raises:
        T1Error: what a task raises, once all have ended.
    """
    hashing = settings.read.encoder.model.startswith(HASHING_SCHEME)
    most_bytes = _HASHING_TEXT_BYTES if hashing else _TEXT_BYTES
    if not is_small([settings.read.shards[position] for position in shards], most_bytes=most_bytes):
        return None
    pool = settings.pool
    num_tasks = min(len(shards), _HASHING_TASKS, max(1, int(ray.cluster_resources().get("CPU", 1)))) if hashing else 1
    task = _encode.options(num_cpus=pool.cpus, num_gpus=pool.gpus or None)
    inputs = [ray.put(settings.read), plan]
    parts = []
    for number in range(num_tasks):
        parts.append(task.remote(settings, inputs, list(shards[number::num_tasks]), schema))
        if number == 0 and num_tasks > 1 and ready is not None:
            # the first goes to a process that has compared; with this one still busy, Ray would start a third
            ray.wait([ready], timeout=_READY_S)
    try:
        return list(chain.from_iterable(ray.get(parts)))
    except Exception as error:
        # What the others write is nobody's, and none writes when this returns. They end by themselves, soon, for they
        # hold little: cancelling a task in the moment in which it ends has Ray end this process, with no word.
        ray.wait(parts, num_returns=num_tasks)
        if not isinstance(error, (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)):
            raise
        # perhaps one of the documents did it: the pool finds out which
        _log.warning("a process died while it encoded; going on with a pool: %s", str(error).partition("\n")[0])
        return None


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _encode(settings: StreamSettings, inputs: list[Any], shards: Sequence[int], schema: pa.Schema) -> Results:
    pool = settings.pool
    # in a list, or Ray would hand over what they stand for: the reader takes references, as Ray Data gives it
    read, plan = inputs
    stage = _stage(settings.read.encoder, pool.device, pool.threads, settings.batch_tokens)
    stage.run_id = settings.run_id
    results: Results = []
    for window in read_and_tokenise({"shard": np.asarray(shards)}, task=read, plan=plan):
        written = write_fragments(stage.encode(window), uri=settings.uri, schema=schema)
        results += [json.loads(text) for text in written.column("result").to_pylist()]
    return results


@lru_cache(maxsize=1)
def _stage(encoder: ModelSettings, device: str, threads: int | None, batch_tokens: int | None) -> EncodeStage:
    """Loaded once a process, which may encode for several runs."""
    return EncodeStage(encoder, device, "", threads=threads, batch_tokens=batch_tokens)
