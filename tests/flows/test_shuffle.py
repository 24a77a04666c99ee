"""A comparison that is spread over tasks: the same table, the same account, the same rows set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.errors import ClusterError
from pipeline.flows import compare
from pipeline.flows.compare import Comparison, EntryBounds, KnownReading, PlanSummary
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.flows.shuffle import Shuffle
from pipeline.store.diff import decide
from pipeline.store.known import KnownRows
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

_COUNTED = ("read", "encoded", "unchanged", "duplicate", "quarantined", "deleted")
# Every comparison is shuffled, into several buckets, from several tasks.
_TINY = EntryBounds(a_comparison=0, a_split=4, a_bucket=2)
# A run each: what the corpus's three shards hold, and what is asked for. Shards that stay as they were are not read
# again, so that their scans come from the database, several in a pack.
_NIGHTS: list[tuple[list[list[Any]], dict[str, Any]]] = [
    ([[document(f"{shard}-{n}") for n in range(4)] for shard in range(3)], {}),
    ([], {}),
    (
        [
            [document("0-0", "changed"), document("0-1"), document("1-1", "the first of two")],
            [document("1-0"), document("1-1"), document("0-1", "the second of two")],
            [document("2-0"), document("2-0"), document("2-1"), document("2-2"), document("2-3"), "{broken"],
        ],
        {"corpus__max_quarantine": 0.9},
    ),
    ([[document("0-0", "again")], [], [document("new")]], {"corpus__keep_missing": True}),
    ([[document("a"), document("b")], [document("a"), document("c")], [document("d")]], {"corpus__limit": 3}),
    ([[document("a")], [document("b")], []], {"corpus__max_delete": 1.0}),
]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_nights_of_shuffled_comparisons_end_in_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spreads = _record_spreads(monkeypatch)
    for shards, flags in _NIGHTS:
        for number, rows in enumerate(shards):
            write_jsonl(tmp_path / "corpus" / f"{number}.jsonl", rows)
        at_once = _run(tmp_path, "at_once", flags)
        assert spreads.pop()[1] is None
        with monkeypatch.context() as patch:
            patch.setattr(compare, "_BOUNDS", _TINY)
            shuffled = _run(tmp_path, "shuffled", flags)
        num_documents, spread = spreads.pop()
        assert spread is not None
        assert spread.num_bits > 1
        assert _counts(shuffled) == _counts(at_once)
        if "corpus__limit" not in flags:
            assert num_documents == shuffled.documents_read - shuffled.documents_quarantined
        assert _kept(tmp_path / "shuffled") == _kept(tmp_path / "at_once")
    assert [row["id"] for row in table_rows(tmp_path / "shuffled")] == ["a", "b"]


def _record_spreads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Shuffle | None]]:
    """Documents of the corpus, and how their comparison is spread, of each run that follows."""
    found: list[tuple[int, Shuffle | None]] = []
    spread = compare._spread

    def record(packs: Sequence[Any], known: KnownReading, how: Comparison) -> Shuffle | None:
        found.append((sum(how.num_documents), spread(packs, known, how)))
        return found[-1][1]

    monkeypatch.setattr(compare, "_spread", record)
    return found


def _run(folder: Path, db: str, flags: dict[str, Any]) -> RunReport:
    return index(settings_for(folder / "corpus", folder / db, encoder__model="hashing://16", **flags), quiet=True)


def _counts(report: RunReport) -> dict[str, int]:
    return {name: getattr(report, f"documents_{name}") for name in _COUNTED}


def _kept(db: Path) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """The table and the quarantine, without what names the run."""
    rows = table_rows(db)
    for row in rows:
        del row["run_id"]
    aside = [(row["shard"], row["offset"], row["reason"], row["detail"]) for row in record_rows(db, "quarantine")]
    return rows, sorted(aside)


@pytest.mark.parametrize("limit", [None, 5])
def test_what_one_task_holds_is_not_shuffled(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    how = Comparison(True, limit, [3, 0, 4], frozenset())
    known = KnownReading(["part"], 6)
    monkeypatch.setattr(compare, "_BOUNDS", EntryBounds(a_comparison=13, a_split=4, a_bucket=4))
    assert compare._spread(["pack"] * 3, known, how) is None
    monkeypatch.setattr(compare, "_BOUNDS", EntryBounds(a_comparison=12, a_split=5, a_bucket=4))
    most = None if limit is None else [3, 0, 2]
    assert compare._spread(["pack"] * 3, known, how) == Shuffle(2, 2, True, most)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("bounds", [EntryBounds(), EntryBounds(a_comparison=-1)])
def test_nothing_compared_with_nothing_is_a_plan_of_nothing(
    monkeypatch: pytest.MonkeyPatch, bounds: EntryBounds
) -> None:
    monkeypatch.setattr(compare, "_BOUNDS", bounds)
    _, summary = compare.decide_remotely([], KnownReading(), Comparison(True, None, [0, 0], frozenset()))
    assert summary == PlanSummary(0, 0, 0, 0, 0, 0, 0, 0, ())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_plan_that_came_out_otherwise_deletes_nothing() -> None:
    hashes = np.zeros((2, 2), np.uint64)
    known = KnownRows(hashes, hashes, np.zeros(2, np.int32), np.arange(2, dtype=np.uint64))
    plan = decide([], [known], delete_missing=True)
    assert len(plan.obsolete) == 2
    summary = PlanSummary(0, 0, 0, 0, 1, 0, 1, 2, ())
    assert compare.read_obsolete(ray.put(plan), summary).tolist() == [0, 1]
    with pytest.raises(ClusterError, match=r"a node went.*run the same command again"):
        compare.read_obsolete(ray.put(plan), replace(summary, num_obsolete_rows=1))
