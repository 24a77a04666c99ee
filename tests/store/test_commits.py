"""Rows become fragments, fragments become versions: nothing is lost on the way, and every version says who made it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from pipeline.store import commit, live
from pipeline.store.commit import CommitBounds, Committer, committed_runs
from pipeline.store.database import LIVE, Database
from pipeline.store.fragments import WrittenFragments, write_rows
from pipeline.store.schema import read_fingerprint
from tests.store.sample import Row, as_table, committer, identity, schema, store, unit_vectors


@dataclass
class Clock:
    """Stands for the `time` module."""

    now_s: float = 100.0

    def monotonic(self) -> float:
        return self.now_s


def _written(database: Database, *ids: str) -> WrittenFragments:
    return write_rows(as_table([Row(i) for i in ids]), database.documents_uri, schema=schema())


def _ids(writer: Committer) -> list[str]:
    return sorted(writer.dataset.to_table(columns=["id"]).column("id").to_pylist())


def test_rows_come_back_as_they_were(database: Database) -> None:
    metadata = json.dumps({"année": 2020, "tags": ["a", "b"], "deep": {"none": None, "quote": '"'}}, sort_keys=True)
    rows = [Row("a", 0, "títle", "first\nline", metadata), Row("a", 1, "títle", "🙂 text", metadata), Row("b")]
    table = store(database, rows).to_table()
    expected = as_table(rows)
    for name in set(expected.column_names) - {"metadata", "vector"}:
        assert table.column(name).to_pylist() == expected.column(name).to_pylist(), name
    assert [json.loads(text) for text in table.column("metadata").to_pylist()] == [
        json.loads(row.metadata) for row in rows
    ]
    assert table.column("vector").to_pylist() == expected.column("vector").to_pylist()


def test_float16_vectors_are_rounded_and_nothing_else(database: Database) -> None:
    halves = schema(vector_dtype="float16")
    table = store(database, [Row(str(i)) for i in range(20)], table_schema=halves).to_table(columns=["vector"])
    assert table.schema.field("vector").type == pa.list_(pa.float16(), 8)
    got = np.asarray(table.column("vector").to_pylist(), np.float16)
    np.testing.assert_array_equal(got, unit_vectors(20).astype(np.float16))


def test_rows_that_come_in_pieces_are_written_whole(database: Database) -> None:
    pieces = pa.concat_tables([as_table([Row("a"), Row("b")]), as_table([Row("c")])])
    writer = committer(database)
    written = write_rows(pieces, database.documents_uri, schema=schema())
    assert (written.num_rows, written.size_bytes > 0) == (3, True)
    writer.add(written)
    writer.flush()
    assert _ids(writer) == ["a", "b", "c"]


def test_no_rows_make_no_fragment(database: Database) -> None:
    assert write_rows(as_table([]), database.documents_uri, schema=schema()) == WrittenFragments((), 0, 0)
    assert not os.path.exists(database.documents_uri)


def test_fragments_travel_as_json(database: Database) -> None:
    written = _written(database, "a", "b")
    assert [json.loads(text)["physical_rows"] for text in written.fragments] == [2]


def test_a_fragment_that_is_never_committed_is_invisible(database: Database) -> None:
    writer = committer(database)
    _written(database, "lost")
    writer.add(_written(database, "kept"))
    writer.flush()
    assert _ids(writer) == ["kept"]


def test_commits_when_there_are_enough_rows(database: Database) -> None:
    writer = committer(database, bounds=CommitBounds(3, 10**12, 10**9))
    assert [writer.add(_written(database, *ids)) for ids in ("ab", "c", "d", "ef")] == [False, True, False, True]
    assert _ids(writer) == ["a", "b", "c", "d", "e", "f"]
    assert writer.writer.num_commits == 3  # the version without rows, and two of three rows each


def test_commits_when_there_are_enough_bytes(database: Database) -> None:
    one = _written(database, "a")
    writer = committer(database, bounds=CommitBounds(10**9, 2 * one.size_bytes, 10**9))
    assert [writer.add(one), writer.add(_written(database, "b"))] == [False, True]


def test_commits_when_the_oldest_has_waited_long_enough(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(commit, "time", clock)
    writer = committer(database, bounds=CommitBounds(10**9, 10**12, 60.0))
    clock.now_s += 3600
    assert not writer.add(_written(database, "a"))  # an hour without work is not an hour of waiting
    clock.now_s += 59.9
    assert not writer.add(_written(database, "b"))
    clock.now_s += 0.1
    assert writer.add(_written(database, "c"))
    clock.now_s += 59.9
    assert not writer.add(_written(database, "d"))  # counted anew from the first that waits
    assert _ids(writer) == ["a", "b", "c"]


def test_a_window_without_good_rows_does_not_hold_back_what_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(commit, "time", clock)
    writer = committer(database, bounds=CommitBounds(10**9, 10**12, 60.0))
    writer.add(_written(database, "a"))
    clock.now_s += 61
    assert writer.add(WrittenFragments((), 0, 0))


def test_nothing_pending_makes_no_version(database: Database) -> None:
    writer = committer(database)
    before = writer.version
    assert not writer.flush()
    assert writer.version == before


def test_every_version_names_its_run(database: Database) -> None:
    first = committer(database, run_id="run-1")
    first.add(_written(database, "a"))
    first.flush()
    second = committer(database, run_id="run-2")
    second.add(_written(database, "b"))
    second.flush()
    assert committed_runs(second.dataset, [1, 2, 3]) == {1: "run-1", 2: "run-1", 3: "run-2"}
    properties = second.dataset.read_transaction(3).transaction_properties
    assert (properties["t1.run_id"], properties["t1.commit"]) == ("run-2", "0")


def test_a_deletion_names_its_run_too(database: Database) -> None:
    store(database, [Row("a"), Row("b")])
    writer = committer(database, run_id="run-2")
    known = writer.dataset.to_table(columns=["id"], with_row_id=True)
    writer.delete_rows(known.column("_rowid").to_numpy()[:1])
    assert committed_runs(writer.dataset, [writer.version]) == {writer.version: "run-2"}


def test_rows_go_by_their_stable_ids(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_DELETE_BATCH", 2)
    store(database, [Row(c) for c in "abc"])
    store(database, [Row(c) for c in "defgh"])
    writer = committer(database)
    known = writer.dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    ids = dict(zip(known["id"], known["_rowid"], strict=True))
    assert writer.delete_rows(np.array([ids["b"], ids["g"], ids["d"]], np.uint64)) == 3
    writer.dataset.optimize.compact_files()
    writer = committer(database)
    left = writer.dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    kept = dict(zip(left["id"], left["_rowid"], strict=True))
    assert kept == {name: row for name, row in ids.items() if name not in "bgd"}
    assert writer.delete_rows(np.array([ids["h"]], np.uint64)) == 1
    assert _ids(writer) == ["a", "c", "e", "f"]


def test_a_second_run_with_the_same_fingerprint_adds(database: Database) -> None:
    store(database, [Row("a")])
    assert sorted(store(database, [Row("b")]).to_table().column("id").to_pylist()) == ["a", "b"]


def test_a_new_fingerprint_starts_without_rows_while_readers_keep_the_old(database: Database) -> None:
    published = live.publish(store(database, [Row("a"), Row("b")]))
    other = schema(weights="other", dim=16)
    writer = committer(database, table_schema=other)
    assert writer.dataset.count_rows() == 0
    assert read_fingerprint(writer.dataset.schema) == identity(weights="other", dim=16).fingerprint
    assert database.live_version() == published
    readers = database.open("documents", version=LIVE)
    assert readers.count_rows() == 2
    assert read_fingerprint(readers.schema) == identity().fingerprint
    writer.add(write_rows(as_table([Row("a")], dim=16), database.documents_uri, schema=other))
    writer.flush()
    assert live.publish(writer.dataset) > published
    assert database.open("documents", version=LIVE).schema.field("vector").type.list_size == 16
    old = database.open("documents", version=published)
    assert sorted(old.to_table().column("id").to_pylist()) == ["a", "b"]


def test_the_published_encoder_takes_over_from_one_that_was_given_up(database: Database) -> None:
    published = live.publish(store(database, [Row("a"), Row("b")]))
    ids = database.open("documents").to_table(columns=["id"], with_row_id=True).to_pydict()
    store(database, [Row("a")], table_schema=schema(weights="other"))
    writer = committer(database, run_id="run-3")
    assert committed_runs(writer.dataset, [writer.version]) == {writer.version: "run-3"}
    assert writer.version > published
    assert writer.dataset.to_table(columns=["id"], with_row_id=True).to_pydict() == ids
    writer.add(_written(database, "c"))
    writer.flush()
    assert _ids(writer) == ["a", "b", "c"]
    again = writer.dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    assert len(set(again["_rowid"])) == 3
    assert database.live_version() == published


def test_row_ids_stay_stable_after_a_swap(database: Database) -> None:
    store(database, [Row("a")])
    other = schema(weights="other")
    store(database, [Row(c) for c in "ab"], table_schema=other)
    writer = committer(database, table_schema=other)
    assert writer.dataset.has_stable_row_ids


def test_all_deletions_are_one_version(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_DELETE_BATCH", 2)  # a kill between two would leave some chunks of a document
    writer = committer(database)
    for names in ("abcde", "fgh"):
        writer.add(_written(database, *names))
        writer.flush()
    before = writer.version
    rows = writer.dataset.to_table(columns=["id"], with_row_id=True).to_pylist()
    gone = np.asarray([row["_rowid"] for row in rows if row["id"] not in "bg"], np.uint64)
    assert (writer.delete_rows(gone), writer.version, _ids(writer)) == (6, before + 1, ["b", "g"])
