"""Whatever happens to a corpus between runs, and to the runs themselves: what is live is what a dictionary says."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.errors import TableError
from pipeline.flows.index import index
from pipeline.flows.publish import rollback
from pipeline.flows.report import RunReport
from pipeline.store.database import Database
from tests.crash.points import armed
from tests.flows.corpora import document, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

# Few of each, so that every coincidence happens.
NAMES = st.sampled_from([f"d{number}" for number in range(12)])
TEXTS = st.sampled_from([f"text {number}" for number in range(4)])
SHARDS = st.sampled_from("abcdef")
PLACES = st.integers(0, 99)
# Where the process is still there to clean up; the others need a process that dies (tests/crash).
POINTS = ["quarantine:after", "scan-cache:before", "append:before", "append:after", "append:after:2",
          "deletion-file:after", "delete:before", "delete:after", "compact:before", "compact:after", "indexes:after",
          "gate:after", "live:after", "upkeep:before", "runs:before"]  # fmt: skip


class _Crash(BaseException):
    """What no code expects."""


def _crash(point: str) -> None:
    raise _Crash(point)


class CorpusEdits(RuleBasedStateMachine):
    """A corpus of a few files and its database, beside dictionaries.

    `shards` is what the corpus holds: a file's documents, in order. `published` is what each version held that was ever
    live, and `live` the one that is.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.db = folder / "db"
        self.shards: dict[str, list[tuple[str, str]]] = {}
        self.published: dict[int, dict[str, str]] = {}
        self.live: int | None = None
        self.left: list[int] = []  # what was live, in the order in which it ceased to be

    @initialize()
    def begin(self) -> None:
        self.shards = {"b": [(f"d{number}", "text 0") for number in range(6)], "d": [("d6", "text 1")]}
        for name in self.shards:
            self._write(name)

    def _write(self, shard: str) -> None:
        path = self._path(shard)
        if self.shards.get(shard):
            write_jsonl(path, [document(name, text) for name, text in self.shards[shard]])
        else:
            self.shards.pop(shard, None)
            path.unlink(missing_ok=True)

    def _path(self, shard: str) -> Path:
        return self.folder / "corpus" / f"{shard}.jsonl"

    def _pick(self, place: int) -> tuple[str, int]:
        """Shard and position of one of the documents."""
        every = [(shard, number) for shard, rows in sorted(self.shards.items()) for number in range(len(rows))]
        return every[place % len(every)]

    def _wanted(self) -> dict[str, str]:
        """What the corpus asks for: of several documents of one id, the first."""
        wanted: dict[str, str] = {}
        for shard in sorted(self.shards):
            for name, text in self.shards[shard]:
                wanted.setdefault(name, text)
        return wanted

    @rule(shard=SHARDS, name=NAMES, text=TEXTS, place=PLACES)
    def add(self, shard: str, name: str, text: str, place: int) -> None:
        """Also of an id that is there already."""
        rows = self.shards.setdefault(shard, [])
        rows.insert(place % (len(rows) + 1), (name, text))
        self._write(shard)

    @rule(place=PLACES, text=TEXTS)
    def change(self, place: int, text: str) -> None:
        shard, number = self._pick(place)
        self.shards[shard][number] = (self.shards[shard][number][0], text)
        self._write(shard)

    @precondition(lambda self: sum(map(len, self.shards.values())) > 1)
    @rule(place=PLACES)
    def delete(self, place: int) -> None:
        shard, number = self._pick(place)
        del self.shards[shard][number]
        self._write(shard)

    @rule(place=PLACES, to=SHARDS)
    def rename(self, place: int, to: str) -> None:
        """Time and size of the file stay; its name, and so who is first among duplicates, does not."""
        shard, _ = self._pick(place)
        if to not in self.shards:
            self.shards[to] = self.shards.pop(shard)
            self._path(shard).rename(self._path(to))

    @rule(place=PLACES, to=SHARDS)
    def split(self, place: int, to: str) -> None:
        shard, number = self._pick(place)
        if to not in self.shards:
            self.shards[shard], self.shards[to] = self.shards[shard][:number], self.shards[shard][number:]
            self._write(to)
            self._write(shard)

    def _index(self) -> RunReport:
        flags = {"corpus__max_delete": 1.0, "commit__max_rows": 3, "pool__window_documents": 2}
        flags["compaction__min_fragments"] = 2  # so that it happens all the time
        return index(settings_for(self.folder / "corpus", self.db, **flags), quiet=True)

    @rule()
    def run(self) -> None:
        report = self._index()
        wanted = self._wanted()
        assert report.documents_read == sum(map(len, self.shards.values()))
        assert report.documents_encoded + report.documents_unchanged == len(wanted)
        assert report.version is not None
        self._note(report.version, wanted)

    @rule(point=st.sampled_from(POINTS))
    def crash(self, point: str) -> None:
        """A run that ends in the middle; readers have what they had, or all of what is new."""
        try:
            with armed(point, _crash):
                self._index()
        except _Crash:
            pass
        version = Database.at(str(self.db)).live_version()
        if version != self.live:
            assert version is not None
            self._note(version, self._wanted())

    @precondition(lambda self: self.live is not None)
    @rule()
    def roll_back(self) -> None:
        older = [version for version in self.published if self.live is not None and version < self.live]
        if older:
            # not one that was itself gone back from, if another was live since
            before = max(older, key=lambda version: max(n for n, left in enumerate(self.left) if left == version))
            assert rollback(str(self.db), say=lambda _: None)["live"] == before
            self._move(before)
        else:
            with pytest.raises(TableError, match="no published version before"):
                rollback(str(self.db), say=lambda _: None)

    def _note(self, version: int, held: dict[str, str]) -> None:
        assert self.published.get(version, held) == held
        self.published[version] = held
        self._move(version)

    def _move(self, version: int) -> None:
        if self.live is not None and self.live != version:
            self.left.append(self.live)
        self.live = version

    @invariant()
    def readers_see_what_the_dictionary_says(self) -> None:
        if self.live is None:
            return
        rows = table_rows(self.db)
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        assert {row["id"]: row["text"] for row in rows} == self.published[self.live]


def _try(folder: Path, *, num_histories: int, num_steps: int, same: bool) -> None:
    number = itertools.count()
    run_state_machine_as_test(
        lambda: CorpusEdits(folder / str(next(number))),
        settings=settings(
            max_examples=num_histories,
            stateful_step_count=num_steps,
            deadline=None,
            derandomize=same,
            database=None,
            # a step takes seconds: a history that fails is told as it was found
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_a_few_histories(tmp_path: Path) -> None:
    _try(tmp_path, num_histories=3, num_steps=14, same=True)


@pytest.mark.slow
def test_many_histories(tmp_path: Path) -> None:
    _try(tmp_path, num_histories=40, num_steps=30, same=False)
