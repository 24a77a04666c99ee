"""Fragments that become few hold the rows they held, under the same ids, found by the same indexes."""

from __future__ import annotations

import json

import lance
import numpy as np
import pyarrow as pa
import pytest

from infra.s3.fault_plans import Fault, Rule, scripted
from infra.s3.faults import running_proxy
from infra.s3.server import S3Server
from pipeline.errors import LeaseLost, TableError
from pipeline.store import live
from pipeline.store.commit import committed_runs
from pipeline.store.compaction import CompactionBounds, choose_runs
from pipeline.store.database import LIVE, Database
from pipeline.store.filters import to_lance
from pipeline.store.fragments import write_rows
from pipeline.store.indexes import IndexPlan, plan_steps, refresh_indexes
from pipeline.store.keys import count_keys
from pipeline.store.recall import retrieve_sample
from pipeline.store.rewrites import commit_rewrites, measure_fragments, rewrite_run
from pipeline.store.search import full_text, nearest
from pipeline.store.transactions import Writer, fence, fenced_version
from tests.store.sample import Row, as_table, committer, schema, unit_vectors

_DIM = 32
_PLAN = IndexPlan("IVF_RQ", num_partitions=2)
BOUNDS = CompactionBounds(max_bytes=2**31, min_fragments=4)
SCHEMA = schema(dim=_DIM)


def nothing() -> None:
    """No lease is asked."""


def night(database: Database, prefix: str, *, num_fragments: int = 8, size: int = 40) -> lance.LanceDataset:
    """A run that adds windows of rows; each row has a name that no other has."""
    writer = committer(database, table_schema=SCHEMA)
    vectors = unit_vectors(num_fragments * size, dim=_DIM, seed=sum(prefix.encode()))
    rows = [
        Row(f"{prefix}{i:04}", i % 3, f"title{i % 5}", f"word{i % 7} name{prefix}{i:04}",
            json.dumps({"number": i, "odd": bool(i % 2)}), list(vector))
        for i, vector in enumerate(vectors)
    ]  # fmt: skip
    for begin in range(0, len(rows), size):
        some = as_table(rows[begin : begin + size], dim=_DIM)
        writer.add(write_rows(some, database.documents_uri, schema=SCHEMA))
    writer.flush()
    return writer.dataset


def delete(database: Database, where: str) -> lance.LanceDataset:
    writer = committer(database, table_schema=SCHEMA)
    found = writer.dataset.to_table(columns=["id"], filter=where, with_row_id=True)
    writer.delete_rows(found.column("_rowid").to_numpy())
    return writer.dataset


def rows_of(dataset: lance.LanceDataset) -> pa.Table:
    """Everything, by stable row id, which is a column of it."""
    return dataset.to_table(with_row_id=True).sort_by("_rowid")


def rewritten(dataset: lance.LanceDataset, bounds: CompactionBounds = BOUNDS) -> list[str]:
    runs = choose_runs(measure_fragments(dataset), bounds)
    assert runs
    return [text for run in runs for text in rewrite_run(dataset, run, bounds=bounds)]


def compact(database: Database) -> lance.LanceDataset:
    return committed(database, rewritten(database.open("documents")))


def committed(database: Database, rewrites: list[str]) -> lance.LanceDataset:
    dataset = commit_rewrites(database.documents_uri, rewrites, before=nothing)
    assert dataset is not None
    return dataset


def assert_every_row_is_found(dataset: lance.LanceDataset) -> None:
    held = dataset.to_table(columns=["id", "vector"], with_row_id=True).to_pylist()
    for row in held[::17]:
        found = dataset.to_table(columns=["id"], filter=f"id = '{row['id']}'", with_row_id=True).to_pylist()
        assert found == [{"id": row["id"], "_rowid": row["_rowid"]}]
        assert [hit.id for hit in full_text(dataset, f"name{row['id']}", top_k=3)] == [row["id"]]
        assert nearest(dataset, np.array(row["vector"], np.float32), top_k=1)[0].id == row["id"]
    assert retrieve_sample(dataset, sample=100) == (1.0, pytest.approx(1.0, abs=0.05))
    assert dataset.count_rows("shard = 'corpus.jsonl'") == len(held)
    odd = dataset.count_rows(to_lance("metadata.odd = true"))
    assert odd == sum(int(row["id"][-4:]) % 2 for row in held)


@pytest.fixture
def indexed(database: Database) -> lance.LanceDataset:
    """Two nights, each with parts of indexes of its own, rows gone from both, and a third that no index knows."""
    night(database, "a")
    refresh_indexes(delete(database, "id < 'a0050'"), _PLAN)
    night(database, "b")
    refresh_indexes(database.open("documents"), _PLAN)
    delete(database, "id >= 'b0010' AND id < 'b0060'")
    return night(database, "c")


def test_rows_ids_and_every_index_stay(database: Database, indexed: lance.LanceDataset) -> None:
    before, num_before = rows_of(indexed), len(indexed.get_fragments())
    compacted = compact(database)
    assert (num_before, len(compacted.get_fragments())) == (23, 3)
    assert rows_of(compacted).equals(before)
    assert compacted.schema == indexed.schema
    assert sum(size.num_deleted for size in measure_fragments(compacted)) == 0
    assert_every_row_is_found(compacted)
    # only what no index knew before is missing now
    missing = compacted.count_rows("id >= 'c'")
    assert {index.num_rows_indexed for index in compacted.describe_indices()} == {len(before) - missing}
    refreshed = refresh_indexes(compacted, _PLAN)
    assert {index.num_rows_indexed for index in refreshed.describe_indices()} == {len(before)}
    assert plan_steps(refreshed, _PLAN) == []
    assert_every_row_is_found(refreshed)
    assert choose_runs(measure_fragments(refreshed), BOUNDS) == []


def test_life_goes_on_after_it(database: Database, indexed: lance.LanceDataset) -> None:
    compact(database)
    added = night(database, "d")
    ids = added.to_table(columns=[], with_row_id=True).column("_rowid").to_pylist()
    assert len(set(ids)) == len(ids)
    delete(database, "id >= 'a0100' AND id < 'a0200'")
    dataset = refresh_indexes(database.open("documents"), _PLAN)
    assert dataset.count_rows("id >= 'a0100' AND id < 'a0200'") == 0
    assert_every_row_is_found(dataset)
    assert_every_row_is_found(refresh_indexes(compact(database), _PLAN))
    assert_every_row_is_found(refresh_indexes(database.open("documents"), _PLAN, rebuild=True))
    # of a history with a compaction in it, the runs can still be told
    versions = range(1, int(database.open("documents").version) + 1)
    assert set(committed_runs(database.open("documents"), versions).values()) == {"run-1"}
    assert [fenced_version(database.open("documents", version=version)) for version in versions] == [None] * len(
        versions
    )


def test_halves_and_a_table_without_indexes(database: Database) -> None:
    halves = schema(dim=_DIM, vector_dtype="float16")
    writer = committer(database, table_schema=halves)
    for number in range(8):
        rows = [Row(f"{number}-{i}", metadata='{"a": [1, null]}') for i in range(10)]
        writer.add(write_rows(as_table(rows, dim=_DIM), database.documents_uri, schema=halves))
    writer.flush()
    compacted = compact(database)
    assert rows_of(compacted).equals(rows_of(writer.dataset))
    assert (len(compacted.get_fragments()), compacted.schema) == (1, halves)


def test_keys_are_of_the_files_they_were_read_from(database: Database, indexed: lance.LanceDataset) -> None:
    counted = count_keys(indexed)
    compacted = compact(database)
    again = count_keys(compacted)
    assert (counted.is_of(compacted), again.is_of(compacted)) == (False, True)
    assert (again.num_rows, again.num_documents) == (counted.num_rows, counted.num_documents)
    assert again.is_of(refresh_indexes(compacted, _PLAN))


def test_a_reader_keeps_its_version_until_retention_drops_it(database: Database, indexed: lance.LanceDataset) -> None:
    refresh_indexes(database.open("documents"), _PLAN)
    old = live.publish(database.open("documents"))
    reader = database.open("documents", version=LIVE)
    before = rows_of(reader)
    live.publish(compact(database))
    live.drop_old(database.open("documents"), live.Retention(keep_versions=2, keep_days=0))
    assert rows_of(reader).equals(before)
    assert_every_row_is_found(database.open("documents", version=old))
    for prefix in "de":
        night(database, prefix)
        live.publish(database.open("documents"))
        live.drop_old(database.open("documents"), live.Retention(keep_versions=2, keep_days=0))
    with pytest.raises(TableError):
        database.open("documents", version=old)
    assert rows_of(database.open("documents")).slice(0, len(before)).equals(before)


def test_a_rewrite_begun_before_the_fence_is_refused(database: Database, indexed: lance.LanceDataset) -> None:
    paused = rewritten(indexed)
    fence(Writer(database.documents_uri, run_id="taker"), database.open("documents"))
    before = rows_of(database.open("documents"))
    assert commit_rewrites(database.documents_uri, paused, before=nothing) is None
    assert rows_of(database.open("documents")).equals(before)
    assert len(database.open("documents").get_fragments()) == 23
    assert_every_row_is_found(compact(database))


def test_a_rewrite_is_refused_however_late_it_comes(database: Database, indexed: lance.LanceDataset) -> None:
    paused = rewritten(indexed)
    taker = Writer(database.documents_uri, run_id="taker")
    fence(taker, database.open("documents"))
    for prefix in "de":
        night(database, prefix)
        published = fence(taker, refresh_indexes(compact(database), _PLAN))
        live.publish(published)
        live.drop_old(database.open("documents"), live.Retention(keep_versions=1, keep_days=0))
    assert int(indexed.version) not in {int(version["version"]) for version in published.versions()}
    assert commit_rewrites(database.documents_uri, paused, before=nothing) is None
    assert rows_of(database.open("documents")).equals(rows_of(published))
    assert_every_row_is_found(database.open("documents"))


def test_rows_that_another_run_has_deleted_since_do_not_come_back(
    database: Database, indexed: lance.LanceDataset
) -> None:
    paused = rewritten(indexed)
    gone = delete(database, "id = 'a0101'")
    assert commit_rewrites(database.documents_uri, paused, before=nothing) is None
    assert rows_of(database.open("documents")).equals(rows_of(gone))


def test_nothing_is_committed_without_the_lease(database: Database, indexed: lance.LanceDataset) -> None:
    def gone() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost, match="taken over"):
        commit_rewrites(database.documents_uri, rewritten(indexed), before=gone)
    assert database.open("documents").version == indexed.version


def test_the_lease_is_asked_again_when_the_table_has_changed(database: Database, indexed: lance.LanceDataset) -> None:
    paused, answers = rewritten(indexed), iter([False, True])
    fence(Writer(database.documents_uri, run_id="taker"), database.open("documents"))

    def lost_since() -> None:
        if next(answers):
            raise LeaseLost("taken over")

    with pytest.raises(LeaseLost, match="taken over"):
        commit_rewrites(database.documents_uri, paused, before=lost_since)


@pytest.mark.parametrize("lands", [True, False])
def test_lance_is_asked_once_where_the_store_does_not_say_what_it_did(
    database: Database, indexed: lance.LanceDataset, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    paused, commit, asked = rewritten(indexed), lance.optimize.Compaction.commit, []

    def failing(*arguments: object) -> None:
        asked.append(arguments)
        if lands:
            commit(*arguments)
        raise OSError("connection reset by peer")

    monkeypatch.setattr(lance.optimize.Compaction, "commit", failing)
    made = commit_rewrites(database.documents_uri, paused, before=nothing)
    assert len(asked) == 1
    assert (made is not None) == lands
    assert len(database.open("documents").get_fragments()) == (3 if lands else 23)


def test_twice_is_once(database: Database, indexed: lance.LanceDataset) -> None:
    rewrites = rewritten(indexed)
    first = committed(database, rewrites)
    assert committed(database, rewrites).version == first.version


def test_a_rewrite_that_lost_a_row_is_not_committed(
    database: Database, indexed: lance.LanceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.store import rewrites

    class Lossy:
        def __init__(self, task: lance.optimize.CompactionTask) -> None:
            self.task = task

        def execute(self, dataset: lance.LanceDataset) -> lance.optimize.RewriteResult:
            done = json.loads(self.task.execute(dataset).json())
            done["new_fragments"][0]["physical_rows"] -= 1
            return lance.optimize.RewriteResult.from_json(json.dumps(done))

    class Plans:
        @staticmethod
        def plan(*arguments: object) -> object:
            tasks = [Lossy(task) for task in lance.optimize.Compaction.plan(*arguments).tasks]
            return type("Plan", (), {"tasks": tasks})

    monkeypatch.setattr(rewrites, "Compaction", Plans)
    with pytest.raises(TableError, match="read 320 rows of 8 fragments and wrote 319"):
        rewrite_run(indexed, [size.number for size in measure_fragments(indexed)][-8:], bounds=BOUNDS)


_ANSWERS = [Fault.LOST, Fault.RESET, Fault.LOST_ERROR, Fault.SLOW_DOWN]


# Lance reserves numbers by a version of its own, then writes indexes, then commits.
@pytest.mark.s3
@pytest.mark.parametrize(("fault", "number"), [(fault, number) for fault in _ANSWERS for number in (1, 2)])
def test_a_store_that_loses_an_answer_changes_nothing(
    s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, number: int
) -> None:
    database = Database.at(s3)
    night(database, "a", num_fragments=10, size=30)
    refresh_indexes(delete(database, "id < 'a0050'"), _PLAN)
    before = rows_of(database.open("documents"))
    with running_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        rewrites = rewritten(database.open("documents"))
        proxy.plan = scripted(Rule(fault, "PUT", r"_versions/\d", nth=number))
        compacted = commit_rewrites(database.documents_uri, rewrites, before=nothing)
        assert len(proxy.injected()) == 1
        # Lance gave up before it began, and has deleted what was written; or nobody knows, and it is not asked again
        is_undone = fault is Fault.RESET
        assert (compacted is None) == is_undone
        if is_undone:
            compacted = compact(database)
        assert rows_of(database.open("documents")).equals(before)
        assert len(database.open("documents").get_fragments()) == 1
        assert_every_row_is_found(compacted)


@pytest.mark.s3
def test_a_commit_that_cannot_be_looked_up_at_once_is_looked_up_later(
    s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.at(s3)
    before = rows_of(night(database, "a", num_fragments=10, size=30))
    with running_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        rewrites = rewritten(database.open("documents"))
        # the answer is lost, and so is every answer to Lance's own looks at what happened
        hidden = [
            Rule(Fault.RESET, method, "_versions", nth=nth, times=12) for method, nth in (("HEAD", 1), ("GET", 5))
        ]
        proxy.plan = scripted(Rule(Fault.LOST, "PUT", r"_versions/\d", nth=2), *hidden)
        compacted = committed(database, rewrites)
        assert proxy.injected()[0].fault is Fault.LOST
        assert len(proxy.injected()) > 12
        assert rows_of(compacted).equals(before)
        assert len(compacted.get_fragments()) == 1
