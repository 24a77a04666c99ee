"""Indexes are built where they are missing, refreshed where they are not, and never change what is in the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipeline.errors import SettingsError, TableError
from pipeline.store import indexes
from pipeline.store.database import Database
from pipeline.store.indexes import (
    VECTOR_KINDS,
    IndexPlan,
    Step,
    choose_vector_index,
    has_index,
    plan_steps,
    refresh_indexes,
)
from pipeline.store.recall import retrieve_sample
from pipeline.store.search import full_text, nearest, nearest_arguments
from tests.store.sample import Row, committer, schema, store

_DIM = 32
_PLAN = IndexPlan("IVF_SQ", num_partitions=4)


def clustered(num_rows: int, *, seed: int) -> NDArray[np.float32]:
    """Unit vectors round forty centres, the same ones for every seed."""
    centres = np.random.default_rng(99).standard_normal((40, _DIM))
    draw = np.random.default_rng(seed)
    vectors = centres[draw.integers(40, size=num_rows)] + 0.5 * draw.standard_normal((num_rows, _DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rows_of(vectors: NDArray[np.float32], prefix: str) -> list[Row]:
    return [
        Row(f"{prefix}{i:04}", text=f"word{i % 7} name{prefix}{i:04}", vector=list(v)) for i, v in enumerate(vectors)
    ]


def add(database: Database, rows: Sequence[Row], *, vector_dtype: str = "float32") -> lance.LanceDataset:
    return store(database, rows, table_schema=schema(dim=_DIM, vector_dtype=vector_dtype))


def delete(database: Database, ids: Sequence[str]) -> lance.LanceDataset:
    writer = committer(database, table_schema=schema(dim=_DIM))
    found = writer.dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    gone = [row for name, row in zip(found["id"], found["_rowid"], strict=True) if name in set(ids)]
    writer.delete_rows(np.array(gone, np.uint64))
    return writer.dataset


def names(dataset: lance.LanceDataset) -> set[str]:
    return {index.name for index in dataset.describe_indices()}


def num_segments(dataset: lance.LanceDataset, name: str = "vector_idx") -> int:
    return next(len(index.segments) for index in dataset.describe_indices() if index.name == name)


def segment_ids(dataset: lance.LanceDataset) -> set[str]:
    return {str(segment.uuid) for index in dataset.describe_indices() for segment in index.segments}


def top(dataset: lance.LanceDataset, vector: NDArray[np.float32], **how: object) -> tuple[str, float]:
    hit = nearest(dataset, vector, top_k=1, **how)[0]  # type: ignore[arg-type]
    return hit.id, hit.score


@pytest.fixture
def indexed(database: Database) -> lance.LanceDataset:
    return refresh_indexes(add(database, rows_of(clustered(2_000, seed=1), "a")), _PLAN)


# the plan


def test_a_small_table_is_searched_exactly_and_a_large_one_is_not() -> None:
    assert choose_vector_index(49_999, 384).kind is None
    assert choose_vector_index(50_000, 384).kind == "IVF_RQ"
    assert choose_vector_index(500, 384, auto_from_rows=100).kind == "IVF_RQ"
    assert choose_vector_index(10**6, 100).kind == "IVF_SQ"  # codes of RaBitQ come in bytes
    assert choose_vector_index(10**9, 384, kind="none").kind is None


@pytest.mark.parametrize("dim", [7, 8, 24, 100, 384, 576, 1021])
def test_codes_divide_the_vector(dim: int) -> None:
    codes = choose_vector_index(10**6, dim, kind="IVF_PQ").num_sub_vectors
    assert codes is not None
    assert dim % codes == 0
    assert codes <= max(dim // 4, 1)


def test_partitions_grow_with_the_table() -> None:
    sizes = [choose_vector_index(n, 384, kind="IVF_RQ").num_partitions for n in (1, 10**5, 10**6, 10**10)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 65_536


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(SettingsError, match="no vector index 'HNSW'"):
        choose_vector_index(10, 8, kind="HNSW")
    with pytest.raises(SettingsError, match="multiple of 8"):
        choose_vector_index(10, 100, kind="IVF_RQ")


# building


@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_every_kind_finds_what_exact_search_finds(database: Database, kind: str, vector_dtype: str) -> None:
    vectors = clustered(1_500, seed=1)
    plain = add(database, rows_of(vectors, "a"), vector_dtype=vector_dtype)
    dataset = refresh_indexes(plain, replace(choose_vector_index(1_500, _DIM, kind=kind), num_partitions=4))
    assert names(dataset) == {"id_idx", "shard_idx", "title_idx", "text_idx", "vector_idx"}
    found, recall = retrieve_sample(dataset, sample=100)
    assert (found, recall > 0.95) == (1.0, True)
    found, exact = (nearest(dataset, vectors[3], top_k=10, exact=exact) for exact in (False, True))
    stored = vectors[3].astype(vector_dtype).astype(np.float32)
    scores = {f"a{i:04}": float(v @ stored) for i, v in enumerate(vectors.astype(vector_dtype).astype(np.float32))}
    assert found[0].id == exact[0].id == "a0003"
    # as reported, exact: not what the codes of the index say
    assert [hit.score for hit in found] == pytest.approx([scores[hit.id] for hit in found], abs=2e-3)


def test_building_again_does_nothing(indexed: lance.LanceDataset) -> None:
    again = refresh_indexes(indexed, _PLAN)
    assert again.version == indexed.version
    assert plan_steps(again, _PLAN) == []


def test_each_step_leaves_the_table_readable_and_a_killed_build_goes_on(database: Database) -> None:
    vectors = clustered(1_000, seed=1)
    dataset = add(database, rows_of(vectors, "a"))
    steps = plan_steps(dataset, _PLAN)
    assert steps == [Step(column, "build") for column in ("id", "shard", "title", "text", "vector")]

    class Killed(Exception):
        pass

    for done in range(len(steps)):
        taken: list[Step] = []

        def stop(step: Step, taken: list[Step] = taken) -> None:
            if taken:
                raise Killed
            taken.append(step)

        # one step, then killed; the last one comes to its end
        try:
            refresh_indexes(database.open("documents"), _PLAN, before=stop)
        except Killed:
            assert done < len(steps) - 1
        assert taken == [steps[done]]
        now = database.open("documents")
        assert now.count_rows() == 1_000
        assert top(now, vectors[5])[0] == "a0005"
    assert plan_steps(database.open("documents"), _PLAN) == []


def test_a_table_without_rows_gets_no_index(database: Database) -> None:
    dataset = add(database, [])
    assert refresh_indexes(dataset, _PLAN).version == dataset.version
    assert retrieve_sample(dataset, sample=10) == (1.0, 1.0)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("kind", ["IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ"])
def test_a_tiny_table_can_be_indexed(database: Database, kind: str, num_rows: int) -> None:
    vectors = clustered(num_rows, seed=1)
    dataset = refresh_indexes(add(database, rows_of(vectors, "a")), choose_vector_index(num_rows, _DIM, kind=kind))
    assert len(nearest(dataset, vectors[0], top_k=10)) == num_rows
    assert retrieve_sample(dataset, sample=10) == (1.0, 1.0)


def test_an_index_no_longer_wanted_goes(indexed: lance.LanceDataset) -> None:
    dataset = refresh_indexes(indexed, IndexPlan(None, scalar=False))
    assert names(dataset) == {"title_idx", "text_idx"}


# refreshing


def test_new_rows_are_found_before_and_after_they_are_added(database: Database, indexed: lance.LanceDataset) -> None:
    new = clustered(100, seed=2)
    grown = add(database, rows_of(new, "b"))
    built = segment_ids(grown)
    assert plan_steps(grown, _PLAN) == [Step(column, "add") for column in ("id", "shard", "title", "text", "vector")]
    for dataset in (grown, refresh_indexes(grown, _PLAN)):
        for i in range(0, 100, 10):
            assert top(dataset, new[i]) == (f"b{i:04}", pytest.approx(1.0, abs=1e-5))
        assert dataset.count_rows("id = 'b0003'") == 1
        assert [hit.id for hit in full_text(dataset, "nameb0003", top_k=5)] == ["b0003"]
        assert retrieve_sample(dataset, sample=50)[1] > 0.95
    assert all(index.num_rows_indexed == 2_100 for index in dataset.describe_indices())
    assert segment_ids(dataset) != built


def test_many_small_additions_do_not_make_many_segments(
    database: Database, indexed: lance.LanceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_MAX_SEGMENTS", 3)
    most = 0
    for night in range(6):
        dataset = refresh_indexes(add(database, rows_of(clustered(20, seed=10 + night), f"n{night}-")), _PLAN)
        most = max(most, num_segments(dataset))
    assert most <= 3
    assert all(index.num_rows_indexed == 2_120 for index in dataset.describe_indices())
    assert retrieve_sample(dataset, sample=50)[1] > 0.95


def test_an_index_that_no_longer_fits_is_built_anew(database: Database, indexed: lance.LanceDataset) -> None:
    def vector_step(dataset: lance.LanceDataset, plan: IndexPlan, **how: bool) -> list[Step]:
        return [step for step in plan_steps(dataset, plan, **how) if step.column == "vector"]

    anew = [Step("vector", "build")]
    assert vector_step(indexed, replace(_PLAN, kind="IVF_RQ")) == anew
    assert vector_step(indexed, replace(_PLAN, num_partitions=32)) == []
    assert vector_step(indexed, replace(_PLAN, num_partitions=64)) == anew
    assert vector_step(indexed, _PLAN, rebuild=True) == anew
    with_codes = refresh_indexes(indexed, IndexPlan("IVF_PQ", 8, 8))
    assert vector_step(with_codes, IndexPlan("IVF_PQ", 8, 8)) == []
    assert vector_step(with_codes, IndexPlan("IVF_PQ", 8, 4)) == anew
    # many new rows at once
    dataset = add(database, rows_of(clustered(1_500, seed=3), "b"))
    assert vector_step(dataset, IndexPlan("IVF_PQ", 8, 8)) == anew
    rebuilt = refresh_indexes(dataset, replace(_PLAN, kind="IVF_RQ"))
    assert num_segments(rebuilt) == 1
    assert {i.index_type for i in rebuilt.describe_indices() if i.name == "vector_idx"} == {"IVF_RQ"}


@pytest.mark.parametrize("kind", ["IVF_SQ", "IVF_RQ", "IVF_HNSW_SQ"])
def test_an_index_a_third_of_whose_rows_went_is_trained_anew(database: Database, kind: str) -> None:
    plan = replace(_PLAN, kind=kind, scalar=False, full_text=False)
    refresh_indexes(add(database, rows_of(clustered(1_000, seed=1), "a")), plan)
    assert plan_steps(delete(database, [f"a{i:04}" for i in range(290)]), plan) == []
    dataset = delete(database, [f"a{i:04}" for i in range(290, 310)])
    assert plan_steps(dataset, plan) == [Step("vector", "build")]
    assert plan_steps(refresh_indexes(dataset, plan), plan) == []
    # entries of a night's segment count as others do
    add(database, rows_of(clustered(200, seed=2), "b"))
    assert plan_steps(refresh_indexes(database.open("documents"), plan), plan) == []


@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_deleted_rows_never_come_back(database: Database, kind: str) -> None:
    vectors = clustered(1_000, seed=1)
    plan = replace(choose_vector_index(1_000, _DIM, kind=kind), num_partitions=4)
    refresh_indexes(add(database, rows_of(vectors, "a")), plan)
    gone = [f"a{i:04}" for i in range(0, 1_000, 3)]
    deleted = delete(database, gone)
    # with additions, so that the refresh has something to do
    refreshed = refresh_indexes(add(database, rows_of(clustered(50, seed=2), "b")), plan)
    for dataset in (deleted, refreshed, refresh_indexes(refreshed, plan, rebuild=True)):
        for i in range(0, 300, 3):
            assert not {hit.id for hit in nearest(dataset, vectors[i], top_k=10)} & set(gone)
        assert dataset.count_rows("id = 'a0003'") == 0
        assert full_text(dataset, "namea0003", top_k=3) == []
        assert retrieve_sample(dataset, sample=50)[0] == 1.0


def test_a_changed_document_is_found_by_its_new_vector_only(database: Database, indexed: lance.LanceDataset) -> None:
    old, new = clustered(2_000, seed=1)[7], clustered(1, seed=5)[0]
    delete(database, ["a0007"])
    changed = add(database, [Row("a0007", text="changed words", vector=list(new))])
    for dataset in (changed, refresh_indexes(changed, _PLAN)):
        assert top(dataset, new) == ("a0007", pytest.approx(1.0, abs=1e-5))
        assert top(dataset, old)[1] < 0.99
        assert [hit.id for hit in full_text(dataset, "changed", top_k=3)] == ["a0007"]
        assert full_text(dataset, "namea0007", top_k=3) == []


def test_a_version_that_is_pinned_keeps_its_index(database: Database, indexed: lance.LanceDataset) -> None:
    add(database, rows_of(clustered(100, seed=2), "b"))
    refresh_indexes(delete(database, ["a0001"]), _PLAN, rebuild=True)
    pinned = database.open("documents", version=indexed.version)
    assert segment_ids(pinned) == segment_ids(indexed)
    assert top(pinned, clustered(2_000, seed=1)[1])[0] == "a0001"


def test_restore_brings_the_indexes_back_and_new_row_ids_do_not_meet_old_ones(
    database: Database, indexed: lance.LanceDataset
) -> None:
    given_up = clustered(50, seed=2)
    refresh_indexes(add(database, rows_of(given_up, "b")), _PLAN)
    database.open("documents", version=indexed.version).restore()
    restored = database.open("documents")
    assert segment_ids(restored) == segment_ids(indexed)
    assert top(restored, given_up[3])[1] < 0.99
    # rows after a restore take the row ids of those that were given up
    new = clustered(50, seed=3)
    dataset = refresh_indexes(add(database, rows_of(new, "c")), _PLAN)
    assert top(dataset, new[3])[0] == "c0003"
    assert not [hit for vector in given_up for hit in nearest(dataset, vector, top_k=5) if hit.id.startswith("b")]


def test_a_search_reads_no_more_of_a_small_segment_than_of_a_large_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((8_080, 64)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64)
    uri = str(tmp_path / "vectors.lance")
    first = lance.write_dataset(pa.table({"vector": column[:8_000]}), uri, enable_stable_row_ids=True)
    first.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=100, name="vector_idx")
    dataset = lance.write_dataset(pa.table({"vector": column[8_000:]}), uri, mode="append")
    dataset.optimize.optimize_indices(index_names=["vector_idx"], num_indices_to_merge=0)
    dataset.checkout_latest()
    assert num_segments(dataset) == 2

    search = nearest_arguments(dataset, vectors[3], limit=11, exact=False)
    explained = dataset.scanner(columns=["_distance"], nearest=search, prefilter=True).analyze_plan()
    # twenty of each; without a bound, twice as many and more, for the small one alone cannot fill the answer
    assert re.findall(r"partitions_searched=(\d+)", explained)[0] == "40"
    # under a filter a segment has to be read until it fills the answer
    assert "maximum_nprobes" not in nearest_arguments(dataset, vectors[3], limit=11, exact=False, filtered=True)


def test_another_fingerprint_starts_without_indexes(database: Database, indexed: lance.LanceDataset) -> None:
    vectors = clustered(500, seed=4)
    dataset = store(database, rows_of(vectors, "z"), table_schema=schema(weights="other", dim=_DIM))
    assert names(dataset) == set()
    assert top(refresh_indexes(dataset, _PLAN), vectors[3])[0] == "z0003"


def test_compaction_keeps_the_index(database: Database, indexed: lance.LanceDataset) -> None:
    add(database, rows_of(clustered(300, seed=2), "b"))
    dataset = refresh_indexes(delete(database, ["a0001", "b0001"]), _PLAN)
    dataset.optimize.compact_files()
    compacted = database.open("documents")
    assert plan_steps(compacted, _PLAN) == []
    assert top(compacted, clustered(300, seed=2)[3])[0] == "b0003"
    assert retrieve_sample(compacted, sample=100)[0] == 1.0
    assert retrieve_sample(compacted, sample=100)[1] > 0.95


# measuring


def test_recall_sees_an_index_that_does_not_find(indexed: lance.LanceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    good = retrieve_sample(indexed, sample=100)[1]
    # one byte a vector, and its candidates believed
    indexed = refresh_indexes(indexed, IndexPlan("IVF_PQ", 1, 1))
    monkeypatch.setattr("pipeline.store.search._REFINE_FACTOR", 1)
    poor = retrieve_sample(indexed, sample=100)[1]
    assert poor < 0.8
    assert poor == retrieve_sample(indexed, sample=100)[1]
    assert good > 0.95


def test_equal_vectors_find_each_other_and_that_counts(database: Database) -> None:
    same = list(clustered(1, seed=1)[0])
    dataset = add(database, [Row(f"a{i}", vector=same) for i in range(300)])
    for version in (dataset, refresh_indexes(dataset, replace(_PLAN, num_partitions=1))):
        assert retrieve_sample(version, sample=50)[0] == 1.0
        assert retrieve_sample(version, sample=50)[1] == 1.0


def test_full_text_ranks_by_bm25_and_wants_an_index(database: Database) -> None:
    texts = ["lance stores vectors", "lance lance lance", "vectors of a table", "nothing of the kind"]
    dataset = add(database, [Row(f"d{i}", text=t, vector=list(v)) for i, (t, v) in
                             enumerate(zip(texts, clustered(4, seed=1), strict=True))])  # fmt: skip
    with pytest.raises(TableError, match="no full-text index"):
        full_text(dataset, "lance", top_k=3)
    dataset = refresh_indexes(dataset, IndexPlan(None))
    hits = full_text(dataset, "lance", top_k=3)
    assert [hit.id for hit in hits] == ["d1", "d0"]
    assert hits[0].score > hits[1].score > 0
    assert [hit.id for hit in full_text(dataset, "lance", top_k=3, where="id = 'd0'")] == ["d0"]
    assert full_text(dataset, '"( :* ', top_k=3) == []
    with pytest.raises(TableError, match="nowhere = 1"):
        full_text(dataset, "lance", top_k=3, where="nowhere = 1")


def test_full_text_knows_titles_and_tables_whose_titles_have_no_index(database: Database) -> None:
    rows = [("a", "rare words", "of the text"), ("b", "", "common words"), ("c", "", "common things")]
    vectors = clustered(3, seed=1)
    dataset = add(database, [Row(id, title=title, text=text, vector=list(v))
                             for (id, title, text), v in zip(rows, vectors, strict=True)])  # fmt: skip
    dataset.create_scalar_index("text", "INVERTED", name="text_idx")
    dataset.checkout_latest()
    assert full_text(dataset, "rare", top_k=3) == []
    assert [hit.id for hit in full_text(dataset, "words", top_k=3)] == ["b"]
    assert Step("title", "build") in plan_steps(dataset, IndexPlan(None))
    dataset = refresh_indexes(dataset, IndexPlan(None))
    assert [hit.id for hit in full_text(dataset, "rare", top_k=3)] == ["a"]
    assert {hit.id for hit in full_text(dataset, "words", top_k=3)} == {"a", "b"}
    once, twice = (full_text(dataset, query, top_k=3) for query in ("rare common", "rare rare common"))
    assert once == twice


def test_has_index_knows_columns(indexed: lance.LanceDataset) -> None:
    assert has_index(indexed, "vector")
    assert not has_index(indexed, "metadata")
