"""An index that a cluster builds in shares is the index that one process would build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.flows.build_indexes import build_on_cluster, choose_builder
from pipeline.store.database import Database
from pipeline.store.indexes import IndexPlan, build_vector_index, plan_steps, refresh_indexes
from pipeline.store.recall import retrieve_sample
from pipeline.store.search import nearest
from tests.store.sample import Row, committer, schema, store, unit_vectors

_DIM = 16
_PLAN = IndexPlan("IVF_RQ", num_partitions=2, scalar=False, full_text=False)


def test_only_a_large_table_on_several_nodes_is_built_in_shares() -> None:
    assert choose_builder(10**9, num_nodes=1) is build_vector_index
    assert choose_builder(10**5, num_nodes=9) is build_vector_index
    assert choose_builder(10**9, num_nodes=9) is not build_vector_index


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_shares_make_one_index_with_cosine_and_stable_row_ids(tmp_path: Path) -> None:
    database, table_schema = Database.at(str(tmp_path / "db")), schema(dim=_DIM)
    vectors = unit_vectors(900, dim=_DIM, seed=1)
    for begin in range(0, 900, 300):
        rows = [Row(f"d{i:03}", vector=list(vectors[i])) for i in range(begin, begin + 300)]
        store(database, rows, table_schema=table_schema)
    writer = committer(database, table_schema=table_schema)
    found = writer.dataset.to_table(columns=["id"], filter="id = 'd007'", with_row_id=True)
    writer.delete_rows(np.array(found.column("_rowid").to_pylist(), np.uint64))

    def build(dataset: object, plan: IndexPlan) -> None:
        build_on_cluster(dataset, plan, num_shares=2)  # type: ignore[arg-type]

    dataset = refresh_indexes(database.open("documents"), _PLAN, build=build)
    (index,) = dataset.describe_indices()
    assert (index.index_type, index.details["metric_type"], index.num_rows_indexed) == ("IVF_RQ", "COSINE", 899)
    assert len(index.segments) == 2
    assert index.details["compression"]["num_bits"] == 5
    assert dataset.has_stable_row_ids
    assert plan_steps(dataset, _PLAN) == []
    found, recall = retrieve_sample(dataset, sample=60)
    assert (found, recall > 0.95) == (1.0, True)
    assert nearest(dataset, vectors[7], top_k=1)[0].id != "d007"

    more = unit_vectors(50, dim=_DIM, seed=2)
    store(database, [Row(f"e{i:03}", vector=list(v)) for i, v in enumerate(more)], table_schema=table_schema)
    dataset = refresh_indexes(database.open("documents"), _PLAN, build=build)
    assert dataset.describe_indices()[0].num_rows_indexed == 949
    assert nearest(dataset, more[3], top_k=1)[0].id == "e003"
