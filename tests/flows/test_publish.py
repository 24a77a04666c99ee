"""Publish, roll back, verify, keep: what moves `live` by hand, without a model and without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseHeld, LeaseLost, PublishRefused, TableError
from pipeline.flows.finish import How, add_indexes, call_here, finish
from pipeline.flows.publish import publish, rollback, verify
from pipeline.flows.report import RunReport
from pipeline.flows.status import status
from pipeline.flows.writing import new_run_id, writing
from pipeline.settings import IndexesSettings, PublishSettings
from pipeline.store import live
from pipeline.store.database import LIVE, Database
from pipeline.store.fragments import write_rows
from pipeline.store.transactions import fence
from tests.store.sample import Row, as_table, committer, schema

SETTINGS = PublishSettings()
NO_DAYS = PublishSettings(keep_versions=2, keep_days=0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.at(str(tmp_path / "db"))


def _say(_: str) -> None:
    pass


def _night(database: Database, *ids: str, settings: PublishSettings = SETTINGS, end: bool = True) -> int:
    """What a run of `t1 index` does to the table: rows, indexes, gate, tag, a row in `runs`."""
    with writing(database, run_id=new_run_id(), say=_say) as writer:
        commits = committer(database)
        commits.writer = writer
        commits.add(write_rows(as_table([Row(i) for i in ids]), database.documents_uri, schema=schema()))
        commits.flush()
        dataset = add_indexes(database, commits.dataset, IndexesSettings(), writer=writer, how=How(call_here))
        dataset = fence(writer, dataset)
        report = RunReport(writer.run_id, "m", "f", datetime.now(UTC), status="refused", version=int(dataset.version))
        database.append("runs", report.as_row("{}"))
        if end:
            return finish(database, dataset, writer=writer, settings=settings, expected_documents=None)
        return int(dataset.version)


def _live_ids(database: Database) -> list[str]:
    return sorted(database.open("documents", version=LIVE).to_table(columns=["id"]).column("id").to_pylist())


def test_back_and_forth(database: Database) -> None:
    first, second, third = _night(database, "a"), _night(database, "b"), _night(database, "c")
    assert rollback(database.uri, say=_say)["live"] == second
    assert _live_ids(database) == ["a", "b"]
    assert rollback(database.uri, say=_say)["live"] == first
    moved = rollback(database.uri, to=third, say=_say)
    assert (moved["live"], moved["was"], moved["run_id"]) == (third, first, status(database.uri)["runs"][0]["run_id"])
    assert (_live_ids(database), database.live_version()) == (["a", "b", "c"], third)
    assert [run["status"] for run in status(database.uri)["runs"][:3]] == ["rolled_back"] * 3


def test_nothing_to_go_back_to(database: Database) -> None:
    with pytest.raises(TableError, match="no table at"):
        rollback(database.uri, say=_say)
    version = _night(database, "a")
    with pytest.raises(TableError, match="no published version before the live one"):
        rollback(database.uri, say=_say)
    with pytest.raises(TableError, match=f"version 99 was never published.*published versions are {version}"):
        rollback(database.uri, to=99, say=_say)
    assert database.live_version() == version


@pytest.mark.parametrize("moved", [1, 2])
def test_what_was_never_live_is_no_rollback_target(
    database: Database, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    first, second = _night(database, "a"), _night(database, "b")
    point, left = live._point, [moved]

    def cut_off(*arguments: Any, **named: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        point(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(live, "_point", cut_off)
        with pytest.raises(KeyboardInterrupt):
            _night(database, "c")
    third = database.live_version()
    assert (third == second) == (moved == 1)
    last = _night(database, "d")
    were_live = [last, *([third] if moved == 2 else []), second, first]
    assert [p["version"] for p in status(database.uri)["published"]] == were_live
    assert rollback(database.uri, say=_say)["live"] == were_live[1]


def test_a_refused_version_is_published_by_hand_once_the_reason_is_gone(database: Database) -> None:
    before = _night(database, "a")
    version = _night(database, "b", end=False)
    assert _live_ids(database) == ["a"]
    impossible = PublishSettings(min_recall=1.0, min_self_retrieval=1.0)
    assert publish(database.uri, version=None, settings=impossible, say=_say)["live"] == version
    assert _live_ids(database) == ["a", "b"]
    assert rollback(database.uri, say=_say)["live"] == before


def test_a_version_that_no_run_completed_is_not_published(database: Database) -> None:
    before = _night(database, "a")
    killed = committer(database)
    killed.add(write_rows(as_table([Row("half")]), database.documents_uri, schema=schema()))
    killed.flush()
    with pytest.raises(TableError, match=r"left by a run that did not end.*run t1 index again"):
        publish(database.uri, version=None, settings=SETTINGS, say=_say)
    assert database.live_version() == before


def test_a_version_that_fails_is_refused_and_named(database: Database) -> None:
    before = _night(database, "a")
    with pytest.raises(PublishRefused, match=r"1 rows repeat an \(id, chunk\)"):
        _night(database, "a")
    assert database.live_version() == before
    with pytest.raises(PublishRefused, match="rows repeat"):
        publish(database.uri, version=None, settings=SETTINGS, say=_say)
    assert status(database.uri)["runs"][0]["status"] == "failed"
    bad = int(database.open("documents").version)
    with pytest.raises(PublishRefused, match=f"version {bad} does not pass: 1 rows repeat"):
        verify(database.uri, version=bad, settings=SETTINGS)
    found = verify(database.uri, version=None, settings=SETTINGS)
    assert (found["version"], found["num_rows"], found["num_vectors"], found["self_retrieval"]) == (before, 1, 1, 1.0)


def test_old_versions_go_when_neither_bound_keeps_them(database: Database) -> None:
    nights = [_night(database, name, settings=NO_DAYS) for name in "abcd"]
    kept = [p["version"] for p in status(database.uri)["published"]]
    assert kept == [nights[3], nights[2]]
    with pytest.raises(TableError):
        database.open("documents", version=nights[1])
    assert rollback(database.uri, say=_say)["live"] == nights[2]
    assert _live_ids(database) == ["a", "b", "c"]


def test_days_keep_what_the_count_does_not(database: Database) -> None:
    nights = [_night(database, name, settings=PublishSettings(keep_versions=1)) for name in "abc"]
    assert [p["version"] for p in status(database.uri)["published"]] == nights[::-1]


def test_a_version_with_a_tag_of_its_own_outlives_retention(database: Database) -> None:
    pinned = _night(database, "a", settings=NO_DAYS)
    database.open("documents").tags.create("my-report", pinned)
    reader = database.open("documents", version="my-report")
    for name in "bcde":
        _night(database, name, settings=NO_DAYS)
    assert reader.to_table(columns=["text"]).num_rows == 1
    assert database.open("documents", version="my-report").count_rows() == 1


def test_fragments_of_a_dead_run_are_cleaned(database: Database) -> None:
    _night(database, "a")
    orphan = write_rows(as_table([Row("lost")]), database.documents_uri, schema=schema())
    names = {file["path"] for text in orphan.fragments for file in json.loads(text)["files"]}
    folder = Path(database.documents_uri, "data")
    _night(database, "b")
    # they may be those of a run that is only slow
    assert names <= {path.name for path in folder.iterdir()}
    a_week_ago = time.time() - 8 * 24 * 3_600
    for name in names:
        os.utime(folder / name, (a_week_ago, a_week_ago))
    _night(database, "c")
    assert not names & {path.name for path in folder.iterdir()}
    assert _live_ids(database) == ["a", "b", "c"]


def test_whoever_writes_keeps_the_others_out(database: Database) -> None:
    _night(database, "a")
    with writing(database, run_id="tonight", say=_say):
        script = (
            "import sys; from pipeline.flows.publish import rollback\n"
            "from pipeline.errors import LeaseHeld\n"
            "try: rollback(sys.argv[1], say=print)\n"
            "except LeaseHeld as error: print(error); sys.exit(error.exit_code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, database.uri], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, "tonight" in done.stdout) == (6, True), done.stdout + done.stderr
        assert status(database.uri)["lease"]["run_id"] == "tonight"
    assert status(database.uri)["lease"] is None
    assert LeaseHeld.exit_code == 6


def test_a_run_that_never_ended_is_fenced_out(database: Database) -> None:
    _night(database, "a")
    paused = committer(database)
    said: list[str] = []
    with pytest.raises(RuntimeError), writing(database, run_id="dies", say=_say):
        raise RuntimeError("the power went")
    with writing(database, run_id="next", say=said.append):
        assert any("can commit no more" in sentence for sentence in said)
        paused.add(write_rows(as_table([Row("late")]), database.documents_uri, schema=schema()))
        with pytest.raises(Exception, match="another run has taken"):
            paused.flush()
    assert _live_ids(database) == ["a"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_run_that_was_replaced_can_commit_nothing_however_late_it_comes(database: Database, by_hand: bool) -> None:
    first = _night(database, "a", settings=NO_DAYS)
    paused = committer(database)
    paused.add(write_rows(as_table([Row("late")]), database.documents_uri, schema=schema()))
    with pytest.raises(RuntimeError), writing(database, run_id="dies", say=_say):
        raise RuntimeError("the power went")
    # upkeep deletes what lies between two published versions, the winner's first fence among it
    if by_hand:
        publish(database.uri, version=first, settings=NO_DAYS, say=_say)
    else:
        for name in "bcde":
            _night(database, name, settings=NO_DAYS)
    rows = paused.dataset.to_table(columns=["id"], with_row_id=True).column("_rowid").to_numpy()
    with pytest.raises(LeaseLost, match="another run has taken"):
        paused.flush()
    with pytest.raises(LeaseLost, match="another run has taken"):
        paused.delete_rows(rows)
    with pytest.raises(Exception, match="incompatible with concurrent transaction Restore"):
        paused.dataset.create_scalar_index("shard", "BTREE", name="late_idx")
    _night(database, "f")
    assert _live_ids(database) == (["a", "f"] if by_hand else ["a", "b", "c", "d", "e", "f"])


def test_upkeep_of_a_run_that_was_replaced_leaves_the_next_one_its_files(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _night(database, "a")
    drop_old, winners = live.drop_old, []

    def resumed_late(*arguments: Any, **named: Any) -> Any:
        # paused here until another run has taken the table over, and has written what it will commit
        winner = committer(database)
        winner.add(write_rows(as_table([Row("w")]), database.documents_uri, schema=schema()))
        winners.append(winner)
        return drop_old(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(live, "drop_old", resumed_late)
        _night(database, "b", settings=NO_DAYS)
    winners[0].flush()
    assert sorted(database.open("documents").to_table(columns=["id"]).column("id").to_pylist()) == ["a", "b", "w"]


def test_a_run_that_lost_its_table_moves_no_tag(database: Database) -> None:
    first = _night(database, "a")
    second = _night(database, "b", end=False)

    def lost() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        live.publish(database.open("documents", version=second), confirm=lost)
    with pytest.raises(LeaseLost):
        live.drop_old(database.open("documents"), live.Retention(1, 0), confirm=lost)
    assert (database.live_version(), _live_ids(database)) == (first, ["a"])


def test_going_back_goes_to_what_was_live_last(database: Database) -> None:
    good, bad = _night(database, "a"), _night(database, "b")
    assert rollback(database.uri, say=_say)["live"] == good
    _night(database, "c")
    # not to the higher number, which was found bad
    assert rollback(database.uri, say=_say)["live"] == good
    published = {p.version: p for p in live.published_versions(database.open("documents"))}
    left_at = published[bad].left_at
    assert left_at is not None
    assert published[good].left_at is None


def test_days_count_from_when_a_version_stopped_being_live() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    days = [day + timedelta(days=n) for n in (0, 1, 2, 29)]
    long_live = live.Published(20, days[0], False, left_at=days[3])
    published = [
        live.Published(35, days[3], True), live.Published(31, days[2], False, left_at=days[2]),
        live.Published(30, days[1], False, left_at=days[1]), long_live,
    ]  # fmt: skip
    expired = live._expired(published, live.Retention(1, 7), now=days[3])
    assert [p.version for p in expired] == [31, 30]
    assert long_live in live._expired(published, live.Retention(1, 7), now=days[3] + timedelta(days=8))


def test_what_keeps_upkeep_from_its_work_is_said_and_the_version_is_live(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _night(database, "a")
    version = _night(database, "b", end=False)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden")

    monkeypatch.setattr(live, "drop_old", refuse)
    said: list[str] = []
    publish(database.uri, version=None, settings=SETTINGS, say=said.append)
    assert database.live_version() == version
    assert any("old versions were not cleaned up" in sentence and "403" in sentence for sentence in said)
