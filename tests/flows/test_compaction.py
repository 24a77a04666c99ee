"""A run leaves few fragments where it wrote many, and a run after it has nothing to compact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseLost, StorageError
from pipeline.flows import compaction
from pipeline.flows.compaction import BackgroundCompaction, compact
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.flows.search import Searcher
from pipeline.flows.writing import new_run_id, writing
from pipeline.settings import CompactionSettings
from pipeline.store.commit import Committer
from pipeline.store.database import LIVE, Database
from pipeline.store.fragments import write_rows
from pipeline.store.transactions import Writer, fence
from tests.flows.corpora import document, settings_for, table_rows, write_jsonl
from tests.store.sample import Row, as_table, committer, schema

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

NAMES = [f"d{number:02}" for number in range(64)]


def _run(folder: Path, *, quiet: bool = True, **flags: Any) -> RunReport:
    """Writes fragments of a few documents, and takes two of a size for many."""
    small = {"pool__window_documents": 2, "pool__direct_documents": 0, "compaction__min_fragments": 2}
    return index(settings_for(folder / "corpus.jsonl", folder / "db", **small | flags), quiet=quiet)


def _num_fragments(folder: Path, version: int | str | None = LIVE) -> int:
    return len(Database.at(str(folder / "db")).open("documents", version=version).get_fragments())


def test_a_run_that_wrote_many_compacts_and_the_next_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    first = _run(tmp_path, quiet=False)
    said = capsys.readouterr().err
    sentence = re.search(r"compaction: (\d+) of (\d+) fragments, [\d.]+ MB, become 1\n", said)
    assert sentence is not None, said
    assert sentence[1] == sentence[2]
    assert _num_fragments(tmp_path) == 1
    again = _run(tmp_path, quiet=False)
    assert again.version == first.version
    assert "compaction" not in capsys.readouterr().err
    hits = Searcher.open(str(tmp_path / "db")).search(["what d07 is about"], top_k=1, where="id = 'd07'")
    assert [hit.id for hit in hits[0]] == ["d07"]


def test_it_changes_no_row_and_readers_keep_what_they_have(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name, year=2_000 + i) for i, name in enumerate(NAMES)])
    _run(tmp_path, compaction__enabled=False)
    before = table_rows(tmp_path / "db")
    many = Database.at(str(tmp_path / "db")).open("documents", version=LIVE)
    assert len(many.get_fragments()) > 4
    # nothing new in the corpus, but the table can do with it
    report = _run(tmp_path)
    assert (report.documents_encoded, _num_fragments(tmp_path)) == (0, 1)
    assert table_rows(tmp_path / "db") == before
    assert len(table_rows(tmp_path / "db", version=int(many.version))) == many.to_table().num_rows == len(NAMES)


def test_rows_that_change_later_are_found_in_what_was_compacted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    _run(tmp_path)
    wanted = {name: "another text" if number % 3 else f"what {name} is about" for number, name in enumerate(NAMES)}
    write_jsonl(tmp_path / "corpus.jsonl", [document(name, text) for name, text in wanted.items() if name != "d00"])
    report = _run(tmp_path)
    assert (report.documents_encoded, report.documents_deleted) == (42, 1)
    assert {row["id"]: row["text"] for row in table_rows(tmp_path / "db")} == {
        name: text for name, text in wanted.items() if name != "d00"
    }
    # two thirds of the one fragment are gone, and what is new is many
    assert _num_fragments(tmp_path) == 2


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A table of forty fragments."""
    made = Database.at(str(tmp_path / "db"))
    writer = committer(made)
    for name in range(40):
        writer.add(write_rows(as_table([Row(f"{name}")]), made.documents_uri, schema=schema()))
    writer.flush()
    return made


def _compact(database: Database, *, stranger: bool = False) -> int:
    with writing(database, run_id=new_run_id(), say=lambda _: None) as writer:
        writer.token += stranger  # as if another had taken it since
        dataset = compact(database, database.open("documents"), CompactionSettings(), writer=writer, say=lambda _: None)
        return len(dataset.get_fragments())


def test_a_run_that_lost_its_lease_compacts_nothing(database: Database) -> None:
    version = database.open("documents").version
    with pytest.raises(LeaseLost, match="nothing was compacted by this one"):
        _compact(database, stranger=True)
    assert database.open("documents").version == version


@pytest.mark.parametrize("num_lost", [2, 3])
def test_what_was_written_and_is_gone_is_written_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, num_lost: int
) -> None:
    call, left = compaction.call_remotely, [num_lost]

    def losing(*arguments: Any) -> Any:
        left[0] -= 1
        return None if left[0] >= 0 else call(*arguments)

    monkeypatch.setattr(compaction, "call_remotely", losing)
    if num_lost < 3:
        assert _compact(database) == 1
    else:
        with pytest.raises(StorageError, match="lost or refused 3 times"):
            _compact(database)
    assert database.open("documents").count_rows() == 40


def _add(committer: Committer, compaction: BackgroundCompaction, name: str, *, waits: bool) -> int:
    """Commits one row; how many fragments the latest version has then."""
    committer.add(write_rows(as_table([Row(name)]), committer.writer.uri, schema=schema()))
    committer.flush()
    committer.go_on_from(compaction.step(committer.dataset))
    if waits:
        committer.go_on_from(compaction.finish(committer.dataset))
    return len(committer.dataset.get_fragments())


def _background(database: Database, made: Committer, **settings: Any) -> BackgroundCompaction:
    return BackgroundCompaction(database, CompactionSettings(**{"min_fragments": 4} | settings), writer=made.writer)


def test_a_commit_names_few_fragments_however_many_there_were(tmp_path: Path) -> None:
    database = Database.at(str(tmp_path / "db"))
    made = committer(database)
    compaction = _background(database, made)
    most = max(_add(made, compaction, f"{name}", waits=True) for name in range(60))
    assert most < 16, most  # of each of the sizes 1, 4 and 16 about four
    assert sorted(made.dataset.to_table(columns=["id"]).column("id").to_pylist()) == sorted(map(str, range(60)))


def test_others_are_added_while_fragments_are_merged(tmp_path: Path) -> None:
    database = Database.at(str(tmp_path / "db"))
    made = committer(database)
    compaction = _background(database, made)
    for name in range(9):
        before = _add(made, compaction, f"{name}", waits=False)
    assert before == 9  # it was begun, and nobody waited
    held = made.dataset
    made.add(write_rows(as_table([Row("late")]), database.documents_uri, schema=schema()))
    made.flush()
    made.go_on_from(compaction.finish(made.dataset))
    assert len(made.dataset.get_fragments()) == 2
    assert set(made.dataset.to_table(columns=["id"]).column("id").to_pylist()) == {*map(str, range(9)), "late"}
    assert held.to_table().num_rows == 9


def test_what_an_index_covers_is_left_to_the_end_of_the_run(database: Database) -> None:
    database.open("documents").create_scalar_index("id", "BTREE")
    made = committer(database)
    covered = {fragment.fragment_id for fragment in made.dataset.get_fragments()}
    (index,) = made.dataset.describe_indices()
    compaction = _background(database, made)
    for name in range(9):
        _add(made, compaction, f"new {name}", waits=True)
    assert covered <= {fragment.fragment_id for fragment in made.dataset.get_fragments()}
    assert len(made.dataset.get_fragments()) - len(covered) == 1
    (after,) = made.dataset.describe_indices()
    assert [segment.uuid for segment in after.segments] == [segment.uuid for segment in index.segments]


class _Full:
    def rewrite(self, *_: Any) -> list[str]:
        raise OSError("No space left on device")


def _unanswered(_: Any) -> Any:
    raise StorageError("the store answers 503")


@pytest.mark.parametrize(
    ("name", "failing", "said"),
    [("_Rewriter", _Full, "No space left on device"), ("measure_fragments", _unanswered, "the store answers 503")],
)
def test_a_merge_that_fails_does_not_end_the_run(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, failing: Any,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(compaction, name, failing)
    made = committer(database)
    background = _background(database, made)
    assert _add(made, background, "new", waits=True) == 41
    assert said in caplog.text
    assert _add(made, background, "another", waits=True) == 42  # and it is not tried again
    monkeypatch.undo()
    assert _compact(database) == 1


def test_a_run_that_lost_its_lease_merges_nothing(database: Database) -> None:
    made = committer(database)
    background = _background(database, made)
    background.step(made.dataset)

    def lost() -> None:
        raise LeaseLost("another run has it")

    made.writer.confirm = lost
    with pytest.raises(LeaseLost, match="another run has it"):
        background.finish(made.dataset)
    assert database.open("documents").version == made.version


def test_a_merge_that_a_fence_came_before_is_refused(database: Database) -> None:
    """The run's own fence, after a commit that landed twice: the run goes on, and merges what is there now."""
    made = committer(database)
    background = _background(database, made)
    background.step(made.dataset)
    fence(made.writer, database.open("documents"))
    made.go_on_from(background.finish(made.dataset))
    assert len(made.dataset.get_fragments()) == 40
    assert _add(made, background, "new", waits=True) < 10


def test_a_merge_that_another_run_fenced_off_ends_this_one(database: Database) -> None:
    made = committer(database)
    background = _background(database, made)
    background.step(made.dataset)
    fence(Writer(database.documents_uri, run_id="taker"), database.open("documents"))
    answers = iter([False, True])

    def lost_since() -> None:
        if next(answers):
            raise LeaseLost("another run has it")

    made.writer.confirm = lost_since
    with pytest.raises(LeaseLost, match="another run has it"):
        background.finish(made.dataset)
    assert len(database.open("documents").get_fragments()) == 40


def test_a_run_merges_while_it_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, sizes = compaction.commit_rewrites, []

    def counting(uri: str, rewrites: list[str], **how: Any) -> Any:
        made = commit(uri, rewrites, **how)
        sizes.append((made.count_rows(), len(made.get_fragments())))
        return made

    # in this process: what is merged at the end of a run is committed by a task
    monkeypatch.setattr(compaction, "commit_rewrites", counting)
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    _run(tmp_path, commit__max_rows=8)
    assert sizes
    num_rows, num_fragments = sizes[0]
    assert num_fragments < num_rows / 2
    assert len(table_rows(tmp_path / "db")) == len(NAMES)
