"""An import is kept under its task, which decides the instruction of its vector; it is found without it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.fingerprint import imported_reasoner, imported_sampling, trajectory_key
from pipeline.flows.reasoned import Notes
from pipeline.flows.trajectory_cache import export_cache, import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.prompts import reasoning_instruction
from pipeline.query_settings import ReasonSettings
from pipeline.records import FinishReason, Query, Trajectory
from pipeline.store.trajectories import Cached
from tests.flows.corpora import MODEL, write_jsonl
from tests.flows.scripted import HASHING, cache_at, queries_of

SHARED = "Is every continuous function integrable?"
TASKS = ("theoremqa_questions", "theoremqa_theorems")
OURS = "ours"


def _bundle(**more: Any) -> ReasonerBundle:
    settings = ReasonSettings.model_validate({"engine": "imported", "model": "elsewhere", **more})
    return open_reasoner(settings, HASHING, device="cpu")


def _import(db: Path, name: str, text: str = "by Lebesgue", *, task: str | None = None) -> None:
    source = write_jsonl(db.parent / f"{name}.jsonl", [{"text": SHARED, "trajectory": text}])
    import_trajectories(str(db), [str(source)], fields=ImportFields(source="elsewhere", task=task), tokenizer=MODEL)


def _notes(db: Path, *queries: Query, **more: Any) -> Notes:
    notes = Notes(_bundle(**more), queries)
    notes.look_up(cache_at(db))
    return notes


def _of_today(db: Path, task: str) -> Cached:
    """A row as they were written before keys had tasks."""
    reasoner = imported_reasoner("elsewhere").fingerprint
    key = trajectory_key(SHARED, reasoner=reasoner, sampling="{}", sample=0)
    written = Trajectory(key, SHARED, task, "as before", 2, FinishReason.STOP, reasoner, "elsewhere", "{}")
    cache_at(db).add([Cached(written, np.ones(2, np.float32), OURS)])
    return Cached(written)


@pytest.mark.parametrize("order", [TASKS, TASKS[::-1]])
def test_tasks_that_share_a_query_have_a_trajectory_and_an_instruction_each(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    for task in order:
        _import(tmp_path / "db", task, f"as one of {task}")
    assert cache_at(tmp_path / "db").count() == 2
    for task in TASKS:
        (query,) = queries_of(SHARED, task=task)
        ((key, told, text),) = _notes(tmp_path / "db", query).without_vector(OURS)
        reasoner = imported_reasoner("elsewhere").fingerprint
        assert key == trajectory_key(SHARED, reasoner=reasoner, sampling=imported_sampling(task), sample=0)
        assert (told.task, text) == (task, f"as one of {task}")
        assert _bundle().instruction(told) == reasoning_instruction(task)


def test_one_file_does_for_both_and_its_vector_is_of_its_own_task(tmp_path: Path) -> None:
    """Whoever asks first must not decide what the vector under a key means."""
    _of_today(tmp_path / "db", TASKS[0])
    for task in ("", *TASKS):
        (query,) = queries_of(SHARED, task=task)
        ((_, told, _),) = _notes(tmp_path / "db", query).lacking_vector("another encoder")
        assert told.task == TASKS[0]


@pytest.mark.parametrize(("imported", "asked"), [("", "biology"), ("biology", ""), ("", "")])
def test_a_task_on_one_side_alone_is_found(tmp_path: Path, imported: str, asked: str) -> None:
    _import(tmp_path / "db", "mine", task=imported)
    (query,) = queries_of(SHARED, task=asked)
    notes = _notes(tmp_path / "db", query)
    assert [t.task for t in notes.trajectories(0)] == [imported]
    assert (notes.num_distinct, len(notes.found), notes.missing()) == (1, 1, [])
    ((key, told, _),) = notes.without_vector(OURS)
    assert (key in notes.found, told.task) == (True, imported)


def test_a_query_of_one_task_does_not_take_anothers(tmp_path: Path) -> None:
    _import(tmp_path / "db", TASKS[0])
    (query,) = queries_of(SHARED, task="biology")
    assert len(_notes(tmp_path / "db", query).missing()) == 1


def test_its_own_comes_before_what_has_no_task_and_the_first_name_before_others(tmp_path: Path) -> None:
    for name, task in (("plain", ""), ("p", "pony"), ("b", "biology")):
        _import(tmp_path / "db", name, f"of {name}", task=task)
    found = [_notes(tmp_path / "db", *queries_of(SHARED, task=task)) for task in ("biology", "leetcode", "")]
    assert [notes.trajectories(0)[0].text for notes in found] == ["of b", "of plain", "of plain"]
    _import(tmp_path / "other", "p", "of p", task="pony")
    _import(tmp_path / "other", "b", "of b", task="biology")
    notes = _notes(tmp_path / "other", *queries_of(SHARED))
    assert ([t.text for t in notes.trajectories(0)], len(notes.found)) == (["of b"], 1)


def test_a_cache_of_before_keeps_its_vectors_and_its_exports(tmp_path: Path) -> None:
    old = _of_today(tmp_path / "db", "biology")
    for task in ("biology", ""):
        notes = _notes(tmp_path / "db", *queries_of(SHARED, task=task))
        assert notes.trajectories(0) == [old.trajectory]
        assert notes.vector(0, encoder=OURS) is not None
    _import(tmp_path / "db", "pony")
    export_cache(str(tmp_path / "db"), str(tmp_path / "out.jsonl"))
    done = import_trajectories(str(tmp_path / "other"), [str(tmp_path / "out.jsonl")], fields=ImportFields())
    assert done["added"] == 2
    rows = [sorted(row.items()) for row in _rows(tmp_path / "db")]
    assert rows == [sorted(row.items()) for row in _rows(tmp_path / "other")]


def _rows(db: Path) -> list[dict[str, Any]]:
    return sorted((row for batch in cache_at(db).batches() for row in batch.to_pylist()), key=lambda row: row["key"])


@pytest.mark.parametrize("more", [{"instruction": "Think."}, {"tasks": {"biology": "Think of life."}}])
def test_under_words_of_ones_own_a_vector_is_computed_and_neither_kept_nor_taken(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    _of_today(tmp_path / "db", "biology")
    (query,) = queries_of(SHARED, task="biology")
    notes = _notes(tmp_path / "db", query, **more)
    ((key, told, _),) = notes.without_vector(OURS)
    assert notes.lacking_vector(OURS) == []
    assert notes.vector(0, encoder=OURS) is None
    assert _bundle(**more).instruction(told) in ("Think.", "Think of life.")
    computed = {key: np.asarray([0, 1], np.float32)}
    np.testing.assert_array_equal(notes.vector(0, encoder=OURS, computed=computed), [0, 1])
