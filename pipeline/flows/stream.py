"""The Ray Data pipeline of an index run: shards in, accounts of written fragments out.

Bounded everywhere: a block is about a window, an encoder has at most two waiting, and Ray Data holds back the readers
when the encoders are slower.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from pipeline.flows.allowance import Allowance
from pipeline.flows.careful import start_log
from pipeline.flows.cluster import Pool
from pipeline.flows.shares import READ_CPUS, WRITE_CPUS
from pipeline.flows.stages import EncodeStage, ReadTask, read_and_tokenise
from pipeline.flows.write_stage import WriteStage

# Documents encoded together: enough to fill every lane several times, few enough that a kill loses little.
_CUDA_WINDOW_DOCUMENTS = 2_048
_CPU_WINDOW_DOCUMENTS_PER_THREAD = 32
# Without a model a window costs what Ray and a fragment cost, some 20 ms in all: thousands of documents share it.
_HASHING_WINDOW_DOCUMENTS = 4_096
# Of a document in a block: its text, half as much again of tokens, and what else is known of it.
_BYTES_A_TEXT_BYTE = 1.5
_BYTES_BESIDE_THE_TEXT = 256
_MIN_BLOCK_BYTES = 8 * 2**10
_MAX_BLOCK_BYTES = 16 * 2**20
_WINDOWS_IN_FLIGHT = 2
_WINDOWS_PER_COMMIT = 8
# One writes while the other's window comes.
_WRITERS_PER_ENCODER = 2
# Compiling takes about half a minute an encoder and wins back a fifth of the time (infra/bench/encode).
_COMPILE_FROM_DOCUMENTS = 50_000


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What the stages of a run need.

    Attributes:
        read: For the read tasks.
        pool: The encoders.
        batch_tokens: Tokens of one forward pass; chosen by device when None.
        compiles: Whether encoders on CUDA compile their layers first.
        run_id: Written into every row.
        uri: The documents table.
        text_bytes: Of a document of the corpus, about.
    """

    read: ReadTask
    pool: Pool
    batch_tokens: int | None
    compiles: bool
    run_id: str
    uri: str
    text_bytes: float

    @property
    def block_bytes(self) -> int:
        """Of a block of Ray Data at most: about a window of documents, for a task that dies is done again whole."""
        document = _BYTES_A_TEXT_BYTE * self.text_bytes + _BYTES_BESIDE_THE_TEXT
        return int(min(max(self.read.window_documents * document, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES))


def choose_window(pool: Pool, *, kind: str, commit_rows: int) -> int:
    """Documents that one call of an encoder gets, where the user names no number.

    Args:
        pool: The encoders.
        kind: As in `Checkpoint`.
        commit_rows: Rows that a kill may cost; several windows at least, or the encoder would wait for each commit.
    """
    return max(1, min(_window(pool, kind), commit_rows // _WINDOWS_PER_COMMIT))


def _window(pool: Pool, kind: str) -> int:
    if kind == "hashing":
        return _HASHING_WINDOW_DOCUMENTS
    if pool.device == "cuda":
        return _CUDA_WINDOW_DOCUMENTS
    return _CPU_WINDOW_DOCUMENTS_PER_THREAD * max(2, pool.threads or 1)


def is_worth_compiling(num_documents: int) -> bool:
    """Whether so many documents win back what compiling costs, where the user does not say."""
    return num_documents >= _COMPILE_FROM_DOCUMENTS


def stream(
    settings: StreamSettings, plan: Any, shards: Sequence[int], *, schema: pa.Schema, allowance: Allowance | None = None
) -> Iterator[dict[str, Any]]:
    """Reads, encodes and writes; yields what each batch of fragments says of itself, as it is written.

    Args:
        settings: Of the stages.
        plan: Reference to a `Plan`.
        shards: Positions of the shards to read.
        schema: Of the documents table.
        allowance: What encoders ask before each window.
    """
    pool, window = settings.pool, settings.read.window_documents
    configure_data(settings.block_bytes)
    encoder = {
        "encoder": settings.read.encoder,
        "device": pool.device,
        "threads": pool.threads,
        "batch_tokens": settings.batch_tokens,
        "compiles": settings.compiles,
        "run_id": settings.run_id,
        "log": start_log(),
        "allowance": allowance,
        "block_bytes": settings.block_bytes,
    }
    strategy = ray.data.ActorPoolStrategy(
        min_size=pool.min_size, max_size=pool.max_size, max_tasks_in_flight_per_actor=_WINDOWS_IN_FLIGHT
    )
    read = partial(read_and_tokenise, task=ray.put(settings.read), plan=plan)
    writers = ray.data.ActorPoolStrategy(min_size=1, max_size=_WRITERS_PER_ENCODER * pool.max_size)
    written = (
        ray.data.from_items([{"shard": i} for i in shards], override_num_blocks=len(shards))
        .map_batches(read, batch_size=1, num_cpus=READ_CPUS)
        .map_batches(
            EncodeStage, fn_constructor_kwargs=encoder, batch_size=window, batch_format="pyarrow",
            compute=strategy, num_cpus=pool.cpus, num_gpus=pool.gpus or None,
        )
        .map_batches(
            WriteStage, fn_constructor_kwargs={"uri": settings.uri, "schema": schema}, batch_size=None,
            batch_format="pyarrow", zero_copy_batch=True, compute=writers, num_cpus=WRITE_CPUS,
        )
    )  # fmt: skip
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for text in batch.column("result").to_pylist():
            yield json.loads(text)


def configure_data(block_bytes: int) -> None:
    """Ray Data's defaults that do not suit long runs on clusters that come and go.

    Args:
        block_bytes: Of a block at most, about.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = block_bytes
    context.execution_options.preserve_order = False
    context.actor_init_retry_on_errors = True
    context.max_errored_blocks = 0
    # a node that goes while its encoder loads the model is no reason to end the run; a model that never loads is
    context.max_consecutive_actor_init_deaths = 2
    # spot nodes may be hours away; Ray would give up after half an hour
    context.execution_no_progress_timeout_s = -1
    # it warns, with a traceback's worth of advice, of a corpus that has fewer windows than there are writers
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
    # Ray Data's own account of its stages goes to its log file; what the run says is ours to say
    logging.getLogger("ray.data").setLevel(logging.ERROR)
