"""The stages of an index run as Ray Data sees them: thin shells that hand blocks to plain classes.

read and tokenise (tasks) -> encode (actors) -> write fragments (`write_stage`). A row of a block is one document with
all its chunks, or one window of them, so that a document is encoded and written whole or not at all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline.corpus.read import read_shard
from pipeline.errors import ClusterError, CorpusChanged
from pipeline.flows.allowance import Allowance
from pipeline.flows.careful import encode_carefully
from pipeline.flows.packing import pack
from pipeline.flows.shares import READ_CPUS
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.model.encoder import Encoded
from pipeline.model.load import load_encoder
from pipeline.records import Document, FieldMap, Rejected, Shard, content_hash, id_hash
from pipeline.settings import ModelSettings
from pipeline.storage import redact
from pipeline.store.diff import Plan
from pipeline.store.hashes import ShardScan, as_hashes
from pipeline.text.tokenise import chunk_documents


@dataclass(frozen=True, slots=True)
class ReadTask:
    """What every read task needs; put into the object store once."""

    shards: tuple[Shard, ...]
    fields: FieldMap
    max_text_chars: int
    encoder: ModelSettings
    device: str
    window_documents: int


@lru_cache(maxsize=2)
def _bundle(settings: ModelSettings, device: str) -> ModelBundle:
    return open_bundle(settings, device=device)


@ray.remote(num_cpus=READ_CPUS, max_retries=0)  # type: ignore[untyped-decorator]
def _get_ready(settings: ModelSettings, device: str) -> None:
    with suppress(Exception):  # whoever reads first says it
        _bundle(settings, device)


def get_ready(settings: ModelSettings, *, device: str) -> Any:
    """Has a process of Ray's load what reading and tokenising need, while others do something else; a reference."""
    return _get_ready.remote(settings, device)


def read_and_tokenise(batch: dict[str, Any], *, task: Any, plan: Any) -> Iterator[pa.Table]:
    """Reads the selected documents of shards, chunks and tokenises them.

    Args:
        batch: {"shard": positions in `task.shards`}.
        task: Reference to a `ReadTask`.
        plan: Reference to a `Plan`.

    Yields:
        Tables of at most `window_documents` documents; columns as `_documents_table` makes them.
    """
    what: ReadTask = ray.get(task)
    chosen: Plan = ray.get(plan)
    bundle = _bundle(what.encoder, what.device)
    for position in batch["shard"].tolist():
        for window in _read_ahead(_selected(what, chosen, position), what.window_documents):
            yield _documents_table(window, bundle)


def _read_ahead(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    """Lists of so many documents; while one is tokenised, which may leave Python free, the next is read."""
    with ThreadPoolExecutor(1, "t1-reading") as reader:
        coming = reader.submit(lambda: list(islice(documents, size)))
        while window := coming.result():
            coming = reader.submit(lambda: list(islice(documents, size)))
            yield window


def _selected(task: ReadTask, plan: Plan, position: int) -> Iterator[Document]:
    shard, mask = task.shards[position], plan.selected[position]
    if not mask.any():
        raise ClusterError(
            f"a node went, and with it what was to be read of {redact(shard.uri)}; nothing was published: run the same "
            "command again, which goes on from here"
        )
    only = None
    if (offsets := plan.offsets.get(position)) is not None:
        only, mask = frozenset(offsets.tolist()), np.ones(len(offsets), np.bool_)
    ids, contents = bytearray(), bytearray()
    seen = 0
    for row in read_shard(shard, task.fields, max_text_chars=task.max_text_chars, only=only):
        if isinstance(row, Rejected):
            continue
        ids += id_hash(row.id)
        contents += content_hash(row.title, row.text, row.metadata)
        if mask[seen]:
            yield row
        seen += 1
        if seen == len(mask):
            break  # --limit ends inside this shard, or no other document of it is wanted
    if ShardScan(as_hashes(bytes(ids)), as_hashes(bytes(contents))).digest() != plan.digests[position]:
        now = f"{seen} of {len(mask)} documents are" if seen < len(mask) else "other documents stand"
        raise CorpusChanged(
            f"{redact(shard.uri)} was rewritten after it was scanned ({now} where they were); "
            "run the same command again"
        )


def _documents_table(documents: list[Document], bundle: ModelBundle) -> pa.Table:
    settings = bundle.settings
    chunks = chunk_documents(
        [d.title for d in documents], [d.text for d in documents], bundle.tokenizer,
        max_tokens=bundle.chunk_tokens, overlap_tokens=settings.overlap_tokens,
    )  # fmt: skip
    flat = [chunk for of_document in chunks for chunk in of_document]
    tokens = np.concatenate([chunk.token_ids for chunk in flat])
    of_chunk = pa.LargeListArray.from_arrays(_bounds([len(chunk.token_ids) for chunk in flat], np.int64), tokens)
    of_document = _bounds([len(of_document) for of_document in chunks], np.int32)
    return pa.table(
        {
            "id": pa.array([d.id for d in documents], pa.string()),
            "title": pa.array([d.title for d in documents], pa.string()),
            "metadata": pa.array([d.metadata for d in documents], pa.string()),
            "shard": pa.array([d.shard for d in documents], pa.string()),
            "offset": pa.array([d.offset for d in documents], pa.int64()),
            "content_hash": pa.array([content_hash(d.title, d.text, d.metadata) for d in documents], pa.binary(16)),
            "texts": pa.ListArray.from_arrays(of_document, pa.array([c.text for c in flat], pa.large_string())),
            "token_ids": pa.ListArray.from_arrays(of_document, of_chunk),
        }
    )


def _bounds(lengths: Sequence[int], dtype: Any) -> Any:
    """Where each part of a flat array begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)


class EncodeStage:
    """An actor round an `Encoder`: documents in, rows of the documents table out.

    Args:
        encoder: What it encodes with; `loading` as `load_encoder` takes it.
        run_id: Written into every row.
        log: As `encode_carefully` wants it; None to trust every document.
        allowance: Asked before each window; None where nobody keeps account.
        block_bytes: Ray Data holds windows back until they are so many bytes.
    """

    def __init__(
        self, encoder: ModelSettings, device: str, run_id: str, *, log: Any = None,
        allowance: Allowance | None = None, block_bytes: int = 0, **loading: Any,
    ) -> None:  # fmt: skip
        bundle = _bundle(encoder, device)
        self.encoder = load_encoder(bundle, device=device, **loading)
        self.run_id = run_id
        self.log = log
        self.allowance, self.block_bytes = allowance, block_bytes
        self.held = 0
        self.ready_at = time.time()

    def __call__(self, block: pa.Table) -> pa.Table:
        """One window of documents, encoded together; packed, or Ray Data would cut it, perhaps in a document."""
        rows = self.encode(block)
        self.held = math.ceil(self.block_bytes * rows.num_rows / max(1, rows.nbytes))
        return pack(rows)

    def encode(self, block: pa.Table) -> pa.Table:
        """The rows that a window of documents makes, and what they cost."""
        token_lists = block.column("token_ids").combine_chunks()
        if isinstance(token_lists, pa.ChunkedArray):
            token_lists = pa.concat_arrays(token_lists.chunks)
        counts = np.diff(token_lists.offsets.to_numpy())
        inner = token_lists.flatten()
        bounds = inner.offsets.to_numpy()
        flat = inner.values.to_numpy()
        bodies = [flat[a:b] for a, b in pairwise(bounds)]
        owner = np.repeat(np.arange(block.num_rows), counts)
        ids = block.column("id").to_pylist()
        window = id_hash(ids[0])  # no document is in two windows, so its first names it
        if self.allowance is not None:
            self.allowance.ask(window, rows=len(bodies), held=self.held)
        encoded = self._encode(bodies, owner, ids)

        number = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.empty(0)
        reasons = np.full(len(bodies), "", dtype=object)
        for position, reason in encoded.failures.items():
            # a document is stored whole or not at all
            reasons[owner == owner[position]] = str(reason)
        rows = block.select(["id", "title", "metadata", "shard", "offset", "content_hash"]).take(pa.array(owner))
        dim = encoded.vectors.shape[1]
        stats = {
            "tokens": encoded.num_tokens,
            "slots": encoded.num_slots,
            "flops": encoded.flops,
            "seconds": encoded.seconds,
            "ready_at": self.ready_at,
            "window": window.hex(),
        }
        columns = {
            "chunk": pa.array(number, pa.int32()),
            "text": block.column("texts").combine_chunks().flatten().cast(pa.string()),
            "num_tokens": pa.array(np.diff(bounds), pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors.ravel()), dim),
            "run_id": pa.array([self.run_id] * len(bodies), pa.string()),
            "reject_reason": pa.array(reasons, pa.string()),
            # what the window cost rides on its first row
            "stats": pa.array([json.dumps(stats)] + [""] * (len(bodies) - 1), pa.string()),
        }
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        return rows

    def _encode(self, bodies: list[Any], owner: Any, ids: list[str]) -> Encoded:
        if self.log is None:
            return self.encoder.encode(bodies, role="document")
        return encode_carefully(self.encoder, bodies, owner=owner, ids=ids, log=self.log)
