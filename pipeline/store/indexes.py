"""Indexes of the documents table: which it should have, and the steps from those it has to those.

What Lance (14.0) does by itself, and this relies on: a search covers rows that no index knows by scanning them; deleted
rows are masked from every index at once; `Restore` brings the indexes of the restored version back; `Overwrite` drops
them all; compaction keeps them (see `rewrites`). Every step is one commit that leaves the table readable, so a run that
was killed anywhere goes on by asking again what is missing. Called by the one committer before the gate.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import lance

from pipeline.errors import SettingsError
from pipeline.retry import retrying
from pipeline.storage import lance_options

VECTOR_KINDS = ("IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ", "IVF_HNSW_PQ")
# Why IVF_RQ (infra/bench/results/indexes.json, 200,000 vectors of 384): with refinement it finds 0.99 of the nearest
# ten in about a hundredth of the exact scan's time; IVF_SQ, IVF_FLAT and IVF_PQ with 96 codes find as much in two to
# five hundredths. It takes two thirds of IVF_SQ's bytes and a sixth of IVF_FLAT's. IVF_PQ takes less still, but trains
# for a minute at any size and leaves all to refinement (0.84 without it, RaBitQ 0.97). Graphs take more bytes and ten
# times as long to build or longer, and find less here. Below 50,000 rows an exact scan takes some 30 to 70 ms of two
# cores, and every refresh of an index is saved.
AUTO_FROM_ROWS = 50_000
# Lance's own targets: it splits and joins partitions towards them whenever rows are added, so others would not last.
_ROWS_A_PARTITION = {"IVF_FLAT": 4_096, "IVF_RQ": 4_096, "IVF_SQ": 8_192, "IVF_PQ": 8_192}
_ROWS_A_GRAPH = 2**20
_MAX_PARTITIONS = 65_536
_PQ_COMPONENTS_A_CODE = 4
# Rotation and codes of RaBitQ come in bytes; bits a component.
_RQ_MULTIPLE = 8
RQ_BITS = 5

# Share of rows without an index from which training anew costs little more than adding them, and fits the data better;
# and of an index's rows that are deleted by now: what is left of a topic that went may lie where no search looks.
_REBUILD_SHARE = 0.3
# Adding puts new rows in a segment beside the others, each searched on its own; at this many they become one.
_MAX_SEGMENTS = 16
_ALL_SEGMENTS = 2**16
# Partitions that Lance's splitting and joining left further from the plan than this no longer fit the table's size.
_PARTITIONS_FACTOR = 8

# Of one and the same tokenizer (Lance's own: simple words, English stems, no stop words), so that they are one field.
FULL_TEXT_COLUMNS = ("title", "text")

Action = Literal["build", "add", "merge", "drop"]


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The indexes that a table should have.

    Attributes:
        kind: Of the vector index, one of `VECTOR_KINDS`; None for exact search.
        num_partitions: Clusters of vectors, of which a query reads the nearest.
        num_sub_vectors: Codes a vector, one byte each, for the kinds with PQ; None for others.
        scalar: Whether filters on id and shard have an index.
        full_text: Whether the words of title and text do.
    """

    kind: str | None
    num_partitions: int = 1
    num_sub_vectors: int | None = None
    scalar: bool = True
    full_text: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One commit on the way: the index of a column is built, gets the rows it lacks, becomes one segment, or goes."""

    column: str
    action: Action


def choose_vector_index(
    num_rows: int,
    dim: int,
    *,
    kind: str = "auto",
    auto_from_rows: int = AUTO_FROM_ROWS,
    scalar: bool = True,
    full_text: bool = True,
) -> IndexPlan:
    """The indexes that suit a table.

    Args:
        num_rows: Chunks in it.
        dim: Of its vectors.
        kind: "auto", "none", or one of `VECTOR_KINDS`, which is then used at any size.
        auto_from_rows: Below it, "auto" leaves search exact.
        scalar: As in `IndexPlan`.
        full_text: As in `IndexPlan`.

    Raises:
        SettingsError: the kind is unknown, or cannot hold vectors of this length.
    """
    if kind == "auto":
        kind = "none" if num_rows < auto_from_rows else "IVF_RQ" if dim % _RQ_MULTIPLE == 0 else "IVF_SQ"
    if kind == "none":
        return IndexPlan(None, scalar=scalar, full_text=full_text)
    if kind not in VECTOR_KINDS:
        raise SettingsError(f"there is no vector index {kind!r}; write auto, none, or one of {', '.join(VECTOR_KINDS)}")
    if kind == "IVF_RQ" and dim % _RQ_MULTIPLE:
        raise SettingsError(f"IVF_RQ needs vectors whose length is a multiple of {_RQ_MULTIPLE}, these have {dim}; "
                            "choose IVF_SQ")  # fmt: skip
    num_partitions = min(max(num_rows // _ROWS_A_PARTITION.get(kind, _ROWS_A_GRAPH), 1), _MAX_PARTITIONS)
    codes = _num_codes(dim) if kind.endswith("PQ") else None
    return IndexPlan(kind, num_partitions, codes, scalar=scalar, full_text=full_text)


def _num_codes(dim: int) -> int:
    """The most codes that divide a vector evenly and hold at least `_PQ_COMPONENTS_A_CODE` components each."""
    return max(n for n in range(1, max(dim // _PQ_COMPONENTS_A_CODE, 1) + 1) if dim % n == 0)


def index_name(column: str) -> str:
    """What the index of a column is called."""
    return f"{column}_idx"


def has_index(dataset: lance.LanceDataset, column: str) -> bool:
    """Whether a version has an index of ours on a column."""
    return any(index.name == index_name(column) for index in dataset.describe_indices())


def build_vector_index(dataset: lance.LanceDataset, plan: IndexPlan) -> None:
    """Trains and commits the vector index here, in this process, in the place of one that is there."""
    codes = {} if plan.num_sub_vectors is None else {"num_sub_vectors": plan.num_sub_vectors}
    if plan.kind == "IVF_RQ":
        codes = {"num_bits": RQ_BITS}
    dataset.create_index(
        "vector", str(plan.kind), name=index_name("vector"), metric="cosine", replace=True,
        num_partitions=plan.num_partitions, **codes,
    )  # fmt: skip


def refresh_indexes(
    dataset: lance.LanceDataset,
    plan: IndexPlan,
    *,
    rebuild: bool = False,
    before: Callable[[Step], None] | None = None,
    build: Callable[[lance.LanceDataset, IndexPlan], None] = build_vector_index,
) -> lance.LanceDataset:
    """Makes the indexes of a table's latest version what the plan says, and returns the version that has them.

    New rows are added to an index that fits; one that does not is built anew. Nothing to do makes no version.

    Args:
        dataset: The latest version; other handles on it are not changed.
        plan: From `choose_vector_index`.
        rebuild: Train the vector index anew, though it seems to fit.
        before: Called before each step, each of which makes a version; what it raises stops here.
        build: What builds the vector index, and commits it.
    """

    def attempt() -> lance.LanceDataset:
        # planned anew each time, from what the attempt before has left
        current = lance.dataset(dataset.uri, storage_options=lance_options(dataset.uri))
        for step in plan_steps(current, plan, rebuild=rebuild):
            if before is not None:
                before(step)
            _take(step, current, plan, build)
            current.checkout_latest()
        return current

    return retrying(attempt, what=f"building the indexes of {dataset.uri}")


def plan_steps(dataset: lance.LanceDataset, plan: IndexPlan, *, rebuild: bool = False) -> list[Step]:
    """What `refresh_indexes` would do, in order; reads the manifest and the head of the vector index."""
    num_rows = dataset.count_rows()
    found = {index.name: index for index in dataset.describe_indices()}
    wanted = {"id": plan.scalar, "shard": plan.scalar, **dict.fromkeys(FULL_TEXT_COLUMNS, plan.full_text)}
    wanted["vector"] = plan.kind is not None
    steps = []
    for column, is_wanted in wanted.items():
        index = found.get(index_name(column))
        if not is_wanted:
            action: Action | None = None if index is None else "drop"
        elif num_rows == 0:
            action = None
        elif index is None or (column == "vector" and (rebuild or not _fits(dataset, index, plan))):
            action = "build"
        else:
            action = _refresh_action(num_rows, index, trained=column == "vector")
        if action is not None:
            steps.append(Step(column, action))
    return steps


def _refresh_action(num_rows: int, index: Any, *, trained: bool) -> Action | None:
    missing = num_rows - index.num_rows_indexed
    if missing <= 0:
        return None
    if trained and missing > _REBUILD_SHARE * num_rows:
        return "build"
    return "merge" if len(index.segments) >= _MAX_SEGMENTS else "add"


def _fits(dataset: lance.LanceDataset, index: Any, plan: IndexPlan) -> bool:
    """Whether a vector index is of the planned kind, codes and metric, and its partitions suit what the table holds."""
    details = index.details
    codes = details.get("compression", {}).get("num_sub_vectors")
    if index.index_type != plan.kind or codes != plan.num_sub_vectors or details.get("metric_type") != "COSINE":
        return False
    # else the statistics carry every centroid, and Lance prints a warning that it will not for long
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    segments = dataset.stats.index_stats(index.name)["segments"]
    num_entries = sum(partition["size"] for segment in segments for partition in segment["partitions"])
    if num_entries - index.num_rows_indexed > _REBUILD_SHARE * num_entries:
        return False
    partitions = max(segment["num_partitions"] for segment in segments)
    return bool(partitions * _PARTITIONS_FACTOR >= plan.num_partitions >= partitions / _PARTITIONS_FACTOR)


def _take(step: Step, dataset: lance.LanceDataset, plan: IndexPlan, build: Callable[..., None]) -> None:
    name = index_name(step.column)
    if step.action == "drop":
        dataset.drop_index(name)
    elif step.action == "add":
        # a segment of its own: by default Lance writes the whole last segment anew, seconds for the words of a million
        dataset.optimize.optimize_indices(index_names=[name], num_indices_to_merge=0)
    elif step.action == "merge":
        dataset.optimize.optimize_indices(index_names=[name], num_indices_to_merge=_ALL_SEGMENTS)
    elif step.column == "vector":
        build(dataset, plan)
    else:
        # BTREE also for shards: a folder of text files has one for every document, where bitmaps would be too many
        kind = "INVERTED" if step.column in FULL_TEXT_COLUMNS else "BTREE"
        dataset.create_scalar_index(step.column, kind, name=name, replace=True)
