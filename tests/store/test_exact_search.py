"""Search finds what numpy finds, in numpy's order, one hit a document, filters first; an index changes none of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.store.database import Database
from pipeline.store.indexes import IndexPlan, refresh_indexes
from pipeline.store.search import nearest
from tests.store.sample import Row, committer, schema, store, unit_vectors

_DIM = 24


def _query(seed: int) -> NDArray[np.float32]:
    return unit_vectors(1, dim=_DIM, seed=1_000 + seed)[0]


@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
def test_the_order_is_numpys(database: Database, vector_dtype: str) -> None:
    vectors = unit_vectors(500, dim=_DIM, seed=1)
    rows = [Row(f"d{i:03}", vector=list(vector)) for i, vector in enumerate(vectors)]
    dataset = store(database, rows, table_schema=schema(dim=_DIM, vector_dtype=vector_dtype))
    stored = vectors.astype(vector_dtype).astype(np.float32)
    for seed in range(5):
        scores = stored @ _query(seed) / np.linalg.norm(stored, axis=1)
        hits = nearest(dataset, _query(seed), top_k=20)
        assert [hit.id for hit in hits] == [f"d{i:03}" for i in np.argsort(-scores)[:20]]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:20], atol=2e-3)


def test_a_hit_says_what_it_is(database: Database) -> None:
    dataset = store(database, [Row("a", 3, "title", "text", json.dumps({"year": 2020}), vector=list(_query(0)))],
                    table_schema=schema(dim=_DIM))  # fmt: skip
    (hit,) = nearest(dataset, _query(0), top_k=5)
    assert (hit.id, hit.chunk, hit.title, hit.text, hit.shard) == ("a", 3, "title", "text", "corpus.jsonl")
    assert json.loads(hit.metadata) == {"year": 2020}
    assert hit.score == pytest.approx(1.0, abs=1e-6)


def test_a_document_is_found_once_by_its_best_chunk(database: Database) -> None:
    vectors = unit_vectors(400, dim=_DIM, seed=2)
    query = _query(0)
    # the nearest 100 chunks are all of one document: the second document is far down the list
    order = np.argsort(-(vectors @ query))
    owner = np.empty(400, np.int64)
    owner[order] = [0] * 100 + [1] * 100 + list(range(2, 202))
    rows = [Row(f"d{owner[i]:03}", i, vector=list(vectors[i])) for i in range(400)]
    dataset = store(database, rows, table_schema=schema(dim=_DIM))
    hits = nearest(dataset, query, top_k=5)
    assert [hit.id for hit in hits] == ["d000", "d001", "d002", "d003", "d004"]
    assert [hit.chunk for hit in hits] == [order[0], order[100], order[200], order[201], order[202]]


def test_all_there_are_come_back_when_more_are_asked_for(database: Database) -> None:
    rows = [Row("a", 0), Row("a", 1), Row("b")]
    assert len(nearest(store(database, rows), unit_vectors(1)[0], top_k=10)) == 2


def test_an_empty_table_has_no_hits(database: Database) -> None:
    assert nearest(store(database, []), unit_vectors(1)[0], top_k=3) == []


def test_equal_scores_come_in_the_order_of_ids(database: Database) -> None:
    same = list(unit_vectors(1)[0])
    dataset = store(database, [Row(name, vector=same) for name in "dbca"])
    assert [hit.id for hit in nearest(dataset, unit_vectors(1)[0], top_k=4)] == ["a", "b", "c", "d"]


def test_the_filter_comes_before_the_choice_of_the_nearest(database: Database) -> None:
    vectors = unit_vectors(300, dim=_DIM, seed=3)
    rows = [
        Row(f"d{i:03}", title="rare" if i % 50 == 0 else "", vector=list(v), metadata=json.dumps({"number": i}))
        for i, v in enumerate(vectors)
    ]
    dataset = store(database, rows, table_schema=schema(dim=_DIM))
    query = _query(4)
    expected = sorted(range(0, 300, 50), key=lambda i: -float(vectors[i] @ query))
    for where in ("title = 'rare'", "metadata.number in (0, 50, 100, 150, 200, 250)"):
        hits = nearest(dataset, query, top_k=6, where=where)
        assert [hit.id for hit in hits] == [f"d{i:03}" for i in expected], where


def test_rows_that_were_deleted_are_not_found(database: Database) -> None:
    dataset = store(database, [Row("a"), Row("b")])
    rows = dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    writer = committer(database)
    writer.delete_rows(
        np.array([row for name, row in zip(rows["id"], rows["_rowid"], strict=True) if name == "a"], np.uint64)
    )
    assert [hit.id for hit in nearest(writer.dataset, unit_vectors(1)[0], top_k=5)] == ["b"]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_equal_scores_are_not_cut_by_where_they_lie(database: Database, is_indexed: bool, exact: bool) -> None:
    # forty rows alike, stored with the last ids first: Lance alone would return the rows it stored first
    same = list(unit_vectors(1, dim=_DIM)[0])
    rows = [Row(f"d{i:02}", vector=same) for i in reversed(range(40))]
    dataset = store(database, rows, table_schema=schema(dim=_DIM))
    if is_indexed:
        dataset = refresh_indexes(dataset, IndexPlan("IVF_FLAT"))
    hits = nearest(dataset, unit_vectors(1, dim=_DIM)[0], top_k=3, exact=exact)
    assert [hit.id for hit in hits] == ["d00", "d01", "d02"]


def test_an_index_is_bypassed_where_exact_is_asked_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(600, dim=_DIM, seed=5)
    rows = [Row(f"d{i:03}", vector=list(vector)) for i, vector in enumerate(vectors)]
    dataset = store(database, rows, table_schema=schema(dim=_DIM))
    # one code a vector, whose candidates are believed: it cannot order six hundred random vectors
    dataset = refresh_indexes(dataset, IndexPlan("IVF_PQ", 1, 1))
    monkeypatch.setattr("pipeline.store.search._REFINE_FACTOR", 1)
    truth = [f"d{i:03}" for i in np.argsort(-(vectors @ _query(1)))[:10]]
    assert [hit.id for hit in nearest(dataset, _query(1), top_k=10, exact=True)] == truth
    assert [hit.id for hit in nearest(dataset, _query(1), top_k=10)] != truth


@pytest.mark.parametrize("kind", ["IVF_RQ", "IVF_HNSW_SQ"])
def test_a_filter_that_leaves_few_rows_still_fills_the_answer(database: Database, kind: str) -> None:
    vectors = unit_vectors(3_000, dim=_DIM, seed=6)
    rows = [Row(f"d{i:04}", title="rare" if i % 100 == 0 else "", vector=list(v)) for i, v in enumerate(vectors)]
    dataset = refresh_indexes(store(database, rows, table_schema=schema(dim=_DIM)), IndexPlan(kind, 16))
    expected = sorted(range(0, 3_000, 100), key=lambda i: -float(vectors[i] @ _query(2)))
    hits = nearest(dataset, _query(2), top_k=30, where="title = 'rare'")
    assert [hit.id for hit in hits] == [f"d{i:04}" for i in expected]
