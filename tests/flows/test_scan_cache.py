"""A shard that has not changed is not opened again; whatever becomes of the cache, the table is right."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CorpusChanged, QuarantineExceeded
from pipeline.flows import index as index_module
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.flows.scan import CorpusScan
from pipeline.flows.status import status
from pipeline.records import Reason
from pipeline.store.database import Database
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

MODEL = "hashing://16"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, Path]:
    """A folder with a corpus of three shards, one bad row in the middle one, and its database; and a copy of it."""
    folder = tmp_path_factory.mktemp("published")
    for number in range(3):
        _write(folder / "used", number)
    _run(folder / "used")
    shutil.copytree(folder / "used", folder / "kept")
    return folder / "used", folder / "kept"


@pytest.fixture
def folder(published: tuple[Path, Path]) -> Path:
    """The folder as it was after the first run: at the same place, for a shard's place is part of what it is."""
    used, kept = published
    shutil.rmtree(used)
    return shutil.copytree(kept, used)


def _name(folder: Path, number: int) -> Path:
    return folder / "corpus" / f"{number}.jsonl"


def _write(folder: Path, number: int, **texts: str) -> Path:
    """Two documents a shard, all of one length whatever the texts; the middle shard also has a bad row."""
    rows: list[Any] = [document(name, texts.get(name, "as it was")) for name in (f"d{number}a", f"d{number}b")]
    return write_jsonl(_name(folder, number), rows + ["{broken"] * (number == 1))


def _run(folder: Path, corpus: str = "corpus", **flags: Any) -> RunReport:
    return index(settings_for(folder / corpus, folder / "db", **{"encoder__model": MODEL} | flags), quiet=True)


def _rewrite_unseen(folder: Path, number: int, **texts: str) -> None:
    """Other content of the same size and time, which no listing shows."""
    before = _name(folder, number).stat()
    _write(folder, number, **texts)
    os.utime(_name(folder, number), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _name(folder, number).stat().st_size == before.st_size


def _texts(folder: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in table_rows(folder / "db")}


def _aside(folder: Path) -> Counter[str]:
    return Counter(row["reason"] for row in record_rows(folder / "db", "quarantine"))


def _scans(folder: Path) -> Path:
    return folder / "db" / "scans.lance"


def _counts(report: RunReport) -> dict[str, int]:
    names = ("read", "encoded", "unchanged", "duplicate", "quarantined", "deleted")
    counts = {name: getattr(report, f"documents_{name}") for name in names}
    return {name: count for name, count in counts.items() if count}


def test_an_unchanged_shard_is_not_opened(folder: Path) -> None:
    for number in range(3):
        _rewrite_unseen(folder, number, **{f"d{number}a": "not as it"})
    assert _counts(_run(folder)) == {"read": 7, "unchanged": 6, "quarantined": 1}
    assert set(_texts(folder).values()) == {"as it was"}


def test_only_the_changed_shard_is_read(folder: Path) -> None:
    _rewrite_unseen(folder, 0, d0a="not as it")
    _write(folder, 2, d2b="changed, and longer")
    assert _counts(_run(folder)) == {"read": 7, "encoded": 1, "unchanged": 5, "quarantined": 1}
    texts = _texts(folder)
    assert (texts["d0a"], texts["d2b"]) == ("as it was", "changed, and longer")


def test_bad_rows_are_counted_again_and_written_once(folder: Path) -> None:
    before = status(str(folder / "db"))["quarantine"]
    assert before == {"broken_json": 1}
    report = _run(folder)
    assert (report.documents_quarantined, report.unaccounted) == (1, 0)
    assert _aside(folder) == {"broken_json": 1}
    assert status(str(folder / "db"))["quarantine"] == {"broken_json": 1}
    _write(folder, 1, d1a="changed, and longer")
    assert _run(folder).documents_quarantined == 1
    assert _aside(folder) == {"broken_json": 2}
    assert status(str(folder / "db"))["quarantine"] == {"broken_json": 1}


def test_a_shard_under_another_name_is_another_shard(folder: Path) -> None:
    _rewrite_unseen(folder, 0, d0a="not as it")
    _name(folder, 0).rename(_name(folder, 7))
    assert _counts(_run(folder)) == {"read": 7, "encoded": 1, "unchanged": 5, "quarantined": 1}
    assert _texts(folder)["d0a"] == "not as it"


@pytest.mark.parametrize(
    "flags", [{"corpus__max_text_chars": 5_000}, {"corpus__title_field": "id"}, {"corpus__split_bytes": 2**16}]
)
def test_what_shapes_documents_is_part_of_the_key(folder: Path, flags: dict[str, Any]) -> None:
    _rewrite_unseen(folder, 0, d0a="not as it")
    report = _run(folder, **flags)
    is_read = "corpus__split_bytes" not in flags  # pieces of these small files are the same
    assert (_texts(folder)["d0a"] == "not as it") is is_read
    assert report.documents_read == 7


@pytest.mark.parametrize("harm", ["gone", "no table", "cut manifests", "cut data", "other bytes"])
def test_a_damaged_cache_costs_a_read_and_nothing_else(folder: Path, harm: str) -> None:
    _damage(_scans(folder), harm)
    _rewrite_unseen(folder, 0, d0a="not as it")
    assert _counts(_run(folder)) == {"read": 7, "encoded": 1, "unchanged": 5, "quarantined": 1}
    assert _texts(folder)["d0a"] == "not as it"
    _rewrite_unseen(folder, 0, d0a="as it was")
    assert _counts(_run(folder)) == {"read": 7, "unchanged": 6, "quarantined": 1}, "the cache was not made anew"


def _damage(table: Path, harm: str) -> None:
    if harm in {"gone", "no table"}:
        shutil.rmtree(table)
        if harm == "no table":
            table.write_text("no table")
    for path in table.glob("_versions/*" if harm == "cut manifests" else "data/*"):
        content = path.read_bytes()
        path.write_bytes(b"\xff" * 256 + content[256:] if harm == "other bytes" else content[:100])


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["store", "encode"])
def test_a_run_that_is_killed_leaves_nothing_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    _write(folder, 1, d1a="changed, and longer")
    with monkeypatch.context() as patch:
        if step == "store":
            patch.setattr(CorpusScan, "store", _interrupt)
        else:
            patch.setattr(index_module, "encode_selected", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(folder)
    assert _counts(_run(folder)) == {"read": 7, "encoded": 1, "unchanged": 5, "quarantined": 1}
    assert _texts(folder)["d1a"] == "changed, and longer"
    # the bad row was set aside by the first run; by the second only where the first had not stored what it read
    assert _aside(folder) == {"broken_json": 3 if step == "store" else 2}


def test_a_shard_rewritten_while_it_is_scanned_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back as it was: under its old version must not stand what was read in between."""
    name = _name(folder, 0)
    os.utime(name, ns=(1, 1))  # no version that is stored
    kept = shutil.copy2(name, folder / "kept.jsonl")
    read_all = CorpusScan.read

    def read(self: CorpusScan, num_cpus: float) -> Any:
        _write(folder, 0, d0a="in between")
        yield from read_all(self, num_cpus)

    with monkeypatch.context() as patch:
        patch.setattr(CorpusScan, "read", read)
        _run(folder)
    assert _texts(folder)["d0a"] == "in between"
    shutil.copy2(kept, name)
    assert _run(folder).documents_encoded == 1
    assert _texts(folder)["d0a"] == "as it was"


def test_a_known_shard_rewritten_before_it_is_encoded_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = CorpusScan.store

    def store(self: CorpusScan, listed: Any) -> None:
        stored(self, listed)
        _write(folder, 0, d0a="meanwhile", d0b="this also")

    _write(folder, 0, d0a="changed, and longer")
    monkeypatch.setattr(CorpusScan, "store", store)
    with pytest.raises(CorpusChanged, match="rewritten after it was scanned \\(other documents stand"):
        _run(folder)
    monkeypatch.undo()
    _run(folder)
    assert (_texts(folder)["d0a"], _texts(folder)["d0b"]) == ("meanwhile", "this also")


def test_another_encoder_reads_without_scanning(folder: Path) -> None:
    assert _counts(_run(folder, encoder__model="hashing://32")) == {"read": 7, "encoded": 6, "quarantined": 1}
    assert _aside(folder) == {"broken_json": 1}


def test_shards_that_left_leave_the_cache(folder: Path) -> None:
    for number in range(40):
        _write(folder, 3 + number)
        if number:
            _name(folder, 2 + number).unlink()
        if number % 13 == 0:
            _run(folder)
    table = Database.at(str(folder / "db")).open("scans")
    assert sorted(Path(row["uri"]).name for row in table.to_table(columns=["uri"]).to_pylist()) == [
        "0.jsonl", "1.jsonl", "2.jsonl", "42.jsonl",
    ]  # fmt: skip
    assert len(table.versions()) == 1


def test_a_trial_counts_no_row_behind_its_last_document(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_jsonl(corpus / "0.jsonl", ["{broken", document("a"), "{broken", document("b"), "{broken"])
    write_jsonl(corpus / "1.jsonl", ["{broken", document("c"), "{broken", document("d"), "{broken"])
    write_jsonl(corpus / "2.jsonl", ["{broken", document("e")])
    found = {}
    for limit in (1, 2, 3, 4, 5, 9):
        report = _run(tmp_path, corpus__limit=limit)
        assert (report.unaccounted, report.documents_read) == (0, min(limit, 5) + report.documents_quarantined)
        found[limit] = report.documents_quarantined
    assert found == {1: 1, 2: 2, 3: 4, 4: 5, 5: 7, 9: 7}
    assert not _scans(tmp_path).exists()


def test_a_trial_neither_uses_nor_changes_what_is_stored(folder: Path) -> None:
    _rewrite_unseen(folder, 0, d0a="not as it")
    before = Database.at(str(folder / "db")).open("scans").version
    report = _run(folder, corpus__limit=3)
    assert _counts(report) == {"read": 3, "encoded": 1, "unchanged": 2}
    assert Database.at(str(folder / "db")).open("scans").version == before


def test_a_run_with_too_many_bad_rows_says_them_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "0.jsonl", [document("a"), *["{broken"] * 101])
    for _ in range(2):
        with pytest.raises(QuarantineExceeded):
            _run(tmp_path)
        assert status(str(tmp_path / "db"))["quarantine"] == {"broken_json": 101}
    assert _run(tmp_path, corpus__max_quarantine=1.0).documents_encoded == 1


def _duplicates(folder: Path) -> list[tuple[str, int, str, str, str]]:
    rows = [row for row in record_rows(folder / "db", "quarantine") if row["reason"] == Reason.DUPLICATE_ID]
    return [
        (Path(r["shard"]).name, r["offset"], r["id"], r["text"], Path(r["detail"].rsplit(" ", 1)[1]).name) for r in rows
    ]


def test_duplicates_are_set_aside_once(folder: Path) -> None:
    _write(folder, 3)
    write_jsonl(_name(folder, 4), [document("d0a", "again"), document("new"), document("new", "second")])
    report = _run(folder)
    assert _counts(report) == {"read": 12, "encoded": 3, "unchanged": 6, "duplicate": 2, "quarantined": 1}
    offset = len(_name(folder, 4).read_text().splitlines()[0]) + 1
    second = offset + len(_name(folder, 4).read_text().splitlines()[1]) + 1
    expected = [("4.jsonl", 0, "d0a", "again", "0.jsonl"), ("4.jsonl", second, "new", "second", "4.jsonl")]
    assert sorted(_duplicates(folder)) == expected
    again = _run(folder)
    assert _counts(again) == {"read": 12, "unchanged": 9, "duplicate": 2, "quarantined": 1}
    assert sorted(_duplicates(folder)) == expected
    assert status(str(folder / "db"))["quarantine"] == {"broken_json": 1}


def test_a_document_that_became_a_duplicate_is_set_aside_from_a_shard_that_was_known(folder: Path) -> None:
    write_jsonl(folder / "corpus" / "00.jsonl", [document("d2b", "comes first now")])
    assert _counts(_run(folder)) == {"read": 8, "encoded": 1, "unchanged": 5, "duplicate": 1, "quarantined": 1}
    assert [row[0:1] + row[2:] for row in _duplicates(folder)] == [("2.jsonl", "d2b", "as it was", "00.jsonl")]
    assert _texts(folder)["d2b"] == "comes first now"


def test_duplicates_count_apart_from_bad_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "0.jsonl", [document("a")] * 1_200)
    report = _run(tmp_path, corpus__max_quarantine=0.0)
    assert _counts(report) == {"read": 1_200, "encoded": 1, "duplicate": 1_199}
    assert len({row[1] for row in _duplicates(tmp_path)}) == 1_199
