"""`t1 cache` behind the command line: files in, files out, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import CorpusError, SettingsError, StorageError, TableError
from pipeline.fingerprint import imported_reasoner, trajectory_key
from pipeline.flows import trajectory_cache
from pipeline.flows.trajectory_cache import cache_stats, export_cache, import_trajectories, prune_cache
from pipeline.flows.trajectory_import import ImportFields, task_of_name
from pipeline.records import FinishReason
from pipeline.store.database import Database
from pipeline.store.trajectories import TrajectoryCache
from tests.flows.corpora import write_jsonl
from tests.store.trajectory_rows import cached

FIELDS = ImportFields(source="elsewhere", trajectory="reasoned_7B")


@pytest.fixture(autouse=True)
def _counts_words(monkeypatch: pytest.MonkeyPatch) -> None:
    split = lambda texts: [[0] * len(text.split()) for text in texts]  # noqa: E731
    monkeypatch.setattr(trajectory_cache, "_load_tokenizer", lambda model: split)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "earth-science.queries.jsonl"
    rows = [
        {"_id": "0", "text": " Why is the sky blue? ", "reasoned_7B": "Rayleigh scattering favours blue. "},
        {"_id": "1", "text": "And the sea?", "reasoned_7B": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _rows(db: str) -> list[dict[str, object]]:
    batches = TrajectoryCache(Database.at(db)).batches()
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: str(row["key"]))


def test_an_import_is_what_the_file_says_and_is_done_once(tmp_path: Path, source: Path) -> None:
    db = str(tmp_path / "db")
    done = import_trajectories(db, [str(source)], fields=FIELDS)
    assert (done["read"], done["added"], done["rows"]) == (2, 2, 2)
    again = import_trajectories(db, [str(tmp_path / "*.jsonl")], fields=FIELDS)
    assert (again["read"], again["added"], again["present"]) == (2, 0, 2)
    reasoner = imported_reasoner("elsewhere").fingerprint
    sampling = '{"task": "earth_science"}'
    key = trajectory_key("Why is the sky blue?", reasoner=reasoner, sampling=sampling, sample=0)
    row = TrajectoryCache(Database.at(db)).find([key])[key].trajectory
    assert (row.task, row.text, row.num_tokens) == ("earth_science", "Rayleigh scattering favours blue.", 4)
    assert (row.finish_reason, row.source, row.is_usable) == (FinishReason.STOP, "elsewhere", True)
    stats = cache_stats(db)
    assert stats["finish_reasons"] == {"empty": 1, "stop": 1}
    assert (stats["usable"], stats["tasks"], stats["tokens"]["mean"]) == (0.5, {"earth_science": 2}, 2.0)
    assert [(group["reasoner"], group["rows"]) for group in stats["by_reasoner"]] == [(reasoner, 2)]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_export_is_imported_as_it_was(tmp_path: Path, source: Path, name: str) -> None:
    first, second, out = str(tmp_path / "db"), str(tmp_path / "other"), str(tmp_path / name)
    import_trajectories(first, [str(source)], fields=FIELDS)
    TrajectoryCache(Database.at(first)).add([cached(1), cached(2)])
    assert export_cache(first, out)["rows"] == 4
    assert import_trajectories(second, [out], fields=ImportFields())["added"] == 4
    assert _rows(second) == _rows(first)
    assert export_cache(first, out, reasoner="r")["rows"] == 2


def test_an_export_that_was_changed_is_refused(tmp_path: Path) -> None:
    db, out = str(tmp_path / "db"), tmp_path / "out.jsonl"
    TrajectoryCache(Database.at(db)).add([cached(1)])
    export_cache(db, str(out))
    out.write_text(out.read_text().replace("what is 1?", "what is 2?"))
    with pytest.raises(CorpusError, match="changed since its export"):
        import_trajectories(db, [str(out)], fields=ImportFields())


@pytest.mark.parametrize(
    ("column", "value"), [("num_tokens", "12"), ("num_tokens", 2**40), ("task", 3), ("vector", "v")]
)
def test_an_exported_row_with_a_value_of_another_kind_is_named(tmp_path: Path, column: str, value: object) -> None:
    db, out = str(tmp_path / "db"), tmp_path / "out.jsonl"
    TrajectoryCache(Database.at(db)).add([cached(1)])
    export_cache(db, str(out))
    out.write_text(json.dumps(json.loads(out.read_text()) | {column: value}) + "\n")
    with pytest.raises(CorpusError, match=r"out\.jsonl, byte 0: not a row of an exported cache"):
        import_trajectories(str(tmp_path / "other"), [str(out)], fields=ImportFields())


def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, out = str(tmp_path / "db"), tmp_path / "out.jsonl"
    TrajectoryCache(Database.at(db)).add([cached(1)])
    with pytest.raises(StorageError, match=r"writing .*absent/out\.jsonl"):
        export_cache(db, str(tmp_path / "absent" / "out.jsonl"))
    out.write_text("the one before\n")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trajectory_cache.json, "dumps", fail)
    with pytest.raises(StorageError, match="no room left"):
        export_cache(db, str(out))
    assert (out.read_text(), sorted(path.name for path in tmp_path.iterdir())) == (
        "the one before\n",
        ["db", "out.jsonl"],
    )


def test_a_folder_with_other_files_says_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("of no trajectory")
    with pytest.raises(CorpusError, match=r"is text; expected JSON lines \(\.jsonl"):
        import_trajectories(str(tmp_path / "db"), [str(tmp_path / "folder")], fields=FIELDS)


def test_prune_says_what_is_left(tmp_path: Path, source: Path) -> None:
    db = str(tmp_path / "db")
    import_trajectories(db, [str(source)], fields=FIELDS)
    assert prune_cache(db, finish_reasons=["empty"]) == {"db": db, "deleted": 1, "rows": 1}
    prune_cache(db, reasoners=[imported_reasoner("elsewhere").fingerprint])
    assert cache_stats(db)["rows"] == 0


def test_a_reasoner_is_named_by_how_its_fingerprint_begins_and_by_nothing_else(tmp_path: Path) -> None:
    db, out = str(tmp_path / "db"), str(tmp_path / "out.jsonl")
    names = ["abc1", "abc2", "abd"]
    TrajectoryCache(Database.at(db)).add([cached(n, reasoner=name) for n, name in enumerate(names)])
    for name, why in (("abx", "no reasoner's fingerprint here; found abc1, abc2, abd"), ("", "no reasoner"),
                      ("abc", "of 2 reasoners; found abc1, abc2;")):  # fmt: skip
        for of in ({"reasoners": [name]}, {"keep_reasoners": ["abd", name]}):
            with pytest.raises(SettingsError, match=why):
                prune_cache(db, **of)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match=why):
            export_cache(db, out, reasoner=name)
    assert cache_stats(db)["rows"] == 3
    assert export_cache(db, out, reasoner="abd")["rows"] == 1
    assert prune_cache(db, keep_reasoners=["abc1", "ab" + "d"])["deleted"] == 1
    assert prune_cache(db, reasoners=["abc"])["rows"] == 1


def test_what_cannot_be_imported_is_named(tmp_path: Path, source: Path) -> None:
    db = str(tmp_path / "db")
    with pytest.raises(CorpusError, match=r"earth-science\.queries\.jsonl, byte 0: .*--source"):
        import_trajectories(db, [str(source)], fields=ImportFields(trajectory="reasoned_7B"))
    with pytest.raises(
        CorpusError, match=r"no text in trajectory; found the columns _id, text, reasoned_7B; .* --field"
    ):
        import_trajectories(db, [str(source)], fields=ImportFields(source="x"))
    # what an annotator wrote with the answer in view
    gold = write_jsonl(tmp_path / "examples.jsonl", [{"query": "Why?", "reasoning": "see the gold document"}])
    with pytest.raises(CorpusError, match=r"no text in trajectory; found the columns query, reasoning; .* --field"):
        import_trajectories(db, [str(gold)], fields=ImportFields(source="x"))
    assert import_trajectories(db, [str(gold)], fields=ImportFields("x", "reasoning"))["added"] == 1
    with pytest.raises(TableError, match="no trajectories"):
        cache_stats(str(tmp_path / "absent"))


def test_an_export_needs_a_kind(tmp_path: Path) -> None:
    TrajectoryCache(Database.at(str(tmp_path))).add([cached(1)])
    with pytest.raises(SettingsError, match="expected a name in"):
        export_cache(str(tmp_path), "out.csv")


@pytest.mark.s3
def test_a_cache_in_a_store(s3: str, source: Path) -> None:
    import_trajectories(f"{s3}/db", [str(source)], fields=FIELDS)
    export_cache(f"{s3}/db", f"{s3}/out.parquet")
    assert import_trajectories(f"{s3}/other", [f"{s3}/out.parquet"], fields=ImportFields())["added"] == 2
    assert _rows(f"{s3}/other") == _rows(f"{s3}/db")


@pytest.mark.parametrize(
    ("name", "task"),
    [("s3://b/theoremqa-theorems.jsonl", "theoremqa_theorems"), ("pony.jsonl", "pony"), ("mine.jsonl", "")],
)
def test_the_task_of_a_files_name(name: str, task: str) -> None:
    assert task_of_name(name) == task


def test_all_columns_are_exported() -> None:
    from pipeline.store.schema import TRAJECTORIES
    from pipeline.store.trajectory_rows import to_rows

    assert to_rows([cached(1)]).schema.equals(pa.schema(TRAJECTORIES))
