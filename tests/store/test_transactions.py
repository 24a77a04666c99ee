"""A commit happens once, whatever its outcome looked like, and never after another run has taken the table over."""

from __future__ import annotations

from typing import Any

import lance
import pytest

from pipeline.errors import LeaseLost, StorageError
from pipeline.retry import Clock, Patience
from pipeline.store import transactions
from pipeline.store.database import Database
from pipeline.store.fragments import parse_fragments, write_rows
from pipeline.store.transactions import Writer, fence, read_key
from tests.store.sample import Row, as_table, committer, schema, store


def _append(database: Database, *ids: str) -> Any:
    written = write_rows(as_table([Row(i) for i in ids]), database.documents_uri, schema=schema())
    return lance.LanceOperation.Append(parse_fragments(written.fragments))


def _writer(database: Database, run_id: str = "run-2") -> Writer:
    patience = Patience(attempts=4, deadline_s=1e9)
    return Writer(database.documents_uri, run_id=run_id, token=7, patience=patience, clock=Clock(sleep=lambda _: None))


def _ids(dataset: Any) -> list[str]:
    return sorted(dataset.to_table(columns=["id"]).column("id").to_pylist())


class Faults:
    """Stands for `LanceDataset.commit`: does, before or after the real one, what each call's fault says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: str) -> None:
        self.faults = list(faults)
        self.real = lance.LanceDataset.commit
        self.late: Any = None
        monkeypatch.setattr(transactions.lance.LanceDataset, "commit", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "reset":
            raise OSError("error sending request")
        if fault == "late":  # refused now; the request lands before the next one
            self.late = (arguments, options)
            raise OSError("error sending request")
        if fault == "race":  # what was late lands after it was looked for
            self.real(*self.late[0], **self.late[1])
        result = self.real(*arguments, **options)
        if fault == "lost":
            raise OSError("Commit result for version 3 is unknown")
        return result


@pytest.mark.parametrize("faults", [(), ("reset",), ("reset", "reset", "reset"), ("lost",), ("reset", "lost")])
def test_a_commit_lands_once(database: Database, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...]) -> None:
    before = store(database, [Row("a")])
    Faults(monkeypatch, *faults)
    writer = _writer(database)
    dataset = writer.commit(_append(database, "b", "c"), read_version=before.version)
    assert _ids(dataset) == _ids(database.open("documents")) == ["a", "b", "c"]
    assert writer.num_commits == 1
    assert read_key(dataset, dataset.version) == {"t1.run_id": "run-2", "t1.commit": "0", "t1.token": "7"}


def test_a_commit_that_landed_twice_is_taken_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(database, [Row("a")])
    Faults(monkeypatch, "late", "race")
    dataset = _writer(database).commit(_append(database, "b"), read_version=before.version)
    assert _ids(dataset) == _ids(database.open("documents")) == ["a", "b"]


def test_a_landed_commit_is_found_behind_a_stranger_s(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(database, [Row("a")])
    Writer(database.documents_uri, run_id="stranger").commit(_append(database, "x"), read_version=before.version)
    Faults(monkeypatch, "lost")
    dataset = _writer(database).commit(_append(database, "b"), read_version=before.version)
    assert _ids(dataset) == ["a", "b", "x"]


def test_not_knowing_is_no_reason_to_commit_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(database, [Row("a")])
    Faults(monkeypatch, "lost")
    real, looked = lance.dataset, []

    def unreachable(*arguments: Any, **options: Any) -> Any:
        looked.append(1)
        if len(looked) == 1:
            raise ValueError("LanceError(IO): Generic S3 error: status code: 503 Service Unavailable")
        return real(*arguments, **options)

    monkeypatch.setattr(transactions.lance, "dataset", unreachable)
    dataset = _writer(database).commit(_append(database, "b"), read_version=before.version)
    assert _ids(dataset) == ["a", "b"]
    assert len(looked) > 1


def test_a_store_that_stays_away_ends_the_run_and_loses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store(database, [Row("a")])
    Faults(monkeypatch, *["reset"] * 9)
    with pytest.raises(StorageError, match=r"committing to .*4 attempts"):
        _writer(database).commit(_append(database, "b"), read_version=before.version)
    assert _ids(database.open("documents")) == ["a"]


def test_what_waiting_cannot_mend_is_not_tried_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(database, [Row("a")])
    calls = []

    def refuse(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(transactions.lance.LanceDataset, "commit", refuse)
    with pytest.raises(StorageError, match="no room left"):
        _writer(database).commit(_append(database, "b"), read_version=before.version)
    assert len(calls) == 1


def test_whoever_was_fenced_out_can_neither_add_nor_delete(database: Database) -> None:
    paused = committer(database, run_id="paused")
    paused.add(write_rows(as_table([Row("a"), Row("b")]), database.documents_uri, schema=schema()))
    paused.flush()
    rows = paused.dataset.to_table(columns=["id"], with_row_id=True)
    taker = _writer(database, "taker")
    fenced = fence(taker, database.open("documents"))

    paused.add(write_rows(as_table([Row("late")]), database.documents_uri, schema=schema()))
    with pytest.raises(LeaseLost, match="another run has taken"):
        paused.flush()
    with pytest.raises(LeaseLost, match="another run has taken"):
        paused.delete_rows(rows.column("_rowid").to_numpy())
    assert _ids(database.open("documents")) == ["a", "b"]
    assert _ids(taker.commit(_append(database, "c"), read_version=fenced.version)) == ["a", "b", "c"]


def test_a_lost_lease_stops_before_the_store_is_asked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(database, [Row("a")])

    def gone() -> None:
        raise LeaseLost("taken over")

    writer = Writer(database.documents_uri, run_id="run-2", confirm=gone)
    Faults(monkeypatch, *["reset"] * 9)
    with pytest.raises(LeaseLost, match="taken over"):
        writer.commit(_append(database, "b"), read_version=before.version)
