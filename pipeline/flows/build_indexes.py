"""The vector index of a large table, built by every node of the Ray cluster at once.

lance-ray 0.5 trains the clusters here, has each node index its share of the fragments, and commits all shares as one
index. Tried with pylance 14.0: cosine, stable row ids, deleted rows and later additions come out as if built in one
place. Two differences are met below: its RaBitQ has one bit a component unless told otherwise, and its PQ wants 65,536
rows. Scalar and full-text indexes are built in one process: they take a small part of the time, and merge less well.
"""

from __future__ import annotations

from collections.abc import Callable

import ray

from pipeline.storage import lance_options
from pipeline.store.database import Table
from pipeline.store.indexes import RQ_BITS, IndexPlan, build_vector_index, index_name

# One process indexes this many in about the time that a few workers need to start and to train apart.
_DISTRIBUTE_FROM_ROWS = 5_000_000
# Each share stays a segment of its own until rows are next merged, and every search asks each of them.
_MAX_SHARES = 8


def choose_builder(num_rows: int, *, num_nodes: int | None = None) -> Callable[[Table, IndexPlan], None]:
    """What builds the vector index of a table: this process, or the cluster where both are large.

    Args:
        num_rows: Chunks in the table.
        num_nodes: Of the cluster; those of the Ray that this process is connected to when None.
    """
    if num_rows < _DISTRIBUTE_FROM_ROWS:
        return build_vector_index
    nodes = _count_nodes() if num_nodes is None else num_nodes
    if nodes < 2:
        return build_vector_index

    def build(dataset: Table, plan: IndexPlan) -> None:
        build_on_cluster(dataset, plan, num_shares=min(nodes, _MAX_SHARES))

    return build


def _count_nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes()) if ray.is_initialized() else 1


def build_on_cluster(dataset: Table, plan: IndexPlan, *, num_shares: int) -> None:
    """Builds and commits the vector index of a table in several shares, in the place of one that is there.

    Args:
        dataset: The latest version of the documents table.
        plan: Its kind is not None.
        num_shares: Groups of fragments that are indexed at once.
    """
    import lance_ray  # a second of start-up that few runs need

    bits = {"num_bits": RQ_BITS} if plan.kind == "IVF_RQ" else {}
    lance_ray.create_index(
        dataset.uri, "vector", plan.kind, name=index_name("vector"), metric="cosine", replace=True,
        num_partitions=plan.num_partitions, num_sub_vectors=plan.num_sub_vectors, num_workers=num_shares,
        storage_options=lance_options(dataset.uri), ray_remote_args={"scheduling_strategy": "SPREAD"}, **bits,
    )  # fmt: skip
