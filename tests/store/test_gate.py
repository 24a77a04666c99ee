"""The gate lets nothing through that readers should not see, and a refused version leaves `live` where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PublishRefused, RecallTooLow
from pipeline.store import gate, live, recall
from pipeline.store.database import LIVE, Database
from pipeline.store.indexes import IndexPlan, refresh_indexes
from tests.store.sample import Row, schema, store, unit_vectors

_UNIT = unit_vectors(1)[0]


def test_a_good_version_is_counted_and_published(database: Database) -> None:
    dataset = store(database, [Row("a", 0), Row("a", 1), Row("b")])
    assert database.live_version() is None
    report = gate.check(dataset, expected_documents=2)
    assert (report.version, report.num_rows, report.num_documents) == (dataset.version, 3, 2)
    assert live.publish(dataset) == database.live_version() == dataset.version


def test_live_moves_forward_with_the_next_publish(database: Database) -> None:
    first = live.publish(store(database, [Row("a")]))
    second = live.publish(store(database, [Row("b")]))
    assert second > first
    assert database.open("documents", version=LIVE).count_rows() == 2


@pytest.mark.parametrize(
    ("rows", "expected", "message"),
    [
        ([Row("a"), Row("b"), Row("b")], 2, r"1 rows repeat an \(id, chunk\)"),
        ([Row("a"), Row("b")], 3, "2 documents in the table where the corpus has 3"),
        ([Row("a"), Row("b", 0), Row("b", 1)], 3, "2 documents in the table where the corpus has 3"),
        ([Row("a"), Row("b", vector=[float("nan"), *_UNIT[1:]])], 2, "1 vectors hold values that are not finite"),
        ([Row("a"), Row("b", vector=[float("inf")] * 8)], 2, "1 vectors hold values that are not finite"),
        ([Row("a"), Row("b", vector=list(1.02 * _UNIT))], 2, "1 vectors are not of unit length"),
        ([Row("a"), Row("b", vector=[0.0] * 8)], 2, "1 vectors are not of unit length"),
    ],
)
def test_it_refuses(database: Database, rows: list[Row], expected: int, message: str) -> None:
    published = live.publish(store(database, [Row("old")], table_schema=schema(weights="old")))
    dataset = store(database, rows)
    with pytest.raises(PublishRefused, match=message) as caught:
        gate.check(dataset, expected_documents=expected)
    assert f"version {dataset.version} was not published" in str(caught.value)
    assert database.live_version() == published


def test_it_names_every_check_that_failed(database: Database) -> None:
    rows = [Row("a"), Row("a"), Row("b", vector=[0.0] * 8), Row("c", vector=[float("nan")] * 8)]
    with pytest.raises(PublishRefused) as caught:
        gate.check(store(database, rows), expected_documents=7)
    for part in ("repeat", "where the corpus has 7", "not finite", "not of unit length"):
        assert part in str(caught.value)


def test_a_run_that_does_not_know_the_number_leaves_it_unchecked(database: Database) -> None:
    assert gate.check(store(database, [Row("a")]), expected_documents=None).num_documents == 1


def test_rounding_to_float16_is_not_a_wrong_length(database: Database) -> None:
    halves = schema(vector_dtype="float16", dim=384)
    dataset = store(database, [Row(str(i)) for i in range(50)], table_schema=halves)
    assert gate.check(dataset, expected_documents=50).num_rows == 50


def test_vectors_of_a_filtered_or_sliced_batch_keep_their_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_BATCH_ROWS", 7)
    vectors = unit_vectors(20)
    vectors[13] *= 2
    rows = [Row(str(i), vector=list(vector)) for i, vector in enumerate(vectors)]
    with pytest.raises(PublishRefused, match="1 vectors are not of unit length"):
        gate.check(store(database, rows), expected_documents=20)


def test_rows_that_were_deleted_are_not_counted(database: Database) -> None:
    dataset = store(database, [Row("a"), Row("b"), Row("b")])
    ids = dataset.to_table(columns=[], with_row_id=True).column("_rowid").to_numpy()
    from tests.store.sample import committer

    writer = committer(database)
    writer.delete_rows(np.asarray(ids[2:]))
    assert gate.check(writer.dataset, expected_documents=2).num_rows == 2


def test_an_empty_version_passes_when_the_corpus_is_empty(database: Database) -> None:
    assert gate.check(store(database, []), expected_documents=0).num_rows == 0


def test_what_was_read_of_other_rows_is_read_anew(database: Database) -> None:
    dataset = store(database, [Row("a"), Row("b")])
    rows = gate.read_rows(dataset, sample=2)
    assert gate.check(dataset, expected_documents=2, rows=rows).num_documents == 2
    dataset.delete("id = 'a'")
    assert gate.check(dataset, expected_documents=1, rows=rows).num_documents == 1


def test_what_was_read_of_these_rows_is_believed_whatever_indexes_there_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store(database, [Row("a"), Row("b"), Row("c")])
    rows = gate.read_rows(dataset, sample=2)
    indexed = refresh_indexes(dataset, IndexPlan("IVF_FLAT"))
    alone = gate.check(indexed, expected_documents=3)
    monkeypatch.setattr(gate, "read_rows", lambda *_, **__: pytest.fail("read twice"))
    monkeypatch.setattr(recall, "read_truth", lambda *_, **__: pytest.fail("read twice"))
    assert gate.check(indexed, expected_documents=3, rows=rows) == alone
    assert (alone.self_retrieval, alone.recall) == (1.0, 1.0)


def test_recall_is_against_the_truth_of_the_rows(database: Database) -> None:
    dataset = refresh_indexes(store(database, [Row(str(number)) for number in range(40)]), IndexPlan("IVF_FLAT"))
    rows = gate.read_rows(dataset, sample=8)
    assert rows.truth is not None
    assert rows.truth.nearest.shape == (8, 10)
    # as if each had neighbours that no search can find
    beyond = replace(rows, truth=replace(rows.truth, nearest=np.ones_like(rows.truth.nearest)))
    with pytest.raises(RecallTooLow):
        gate.check(dataset, expected_documents=40, rows=beyond)


@pytest.mark.parametrize("plan", [IndexPlan(None), IndexPlan("IVF_FLAT")])
def test_a_row_that_is_alone_is_found(database: Database, plan: IndexPlan) -> None:
    report = gate.check(refresh_indexes(store(database, [Row("a")]), plan), expected_documents=1)
    assert (report.self_retrieval, report.recall) == (1.0, 1.0)
