"""Running again: what changed is paid for, what went disappears, and what fails leaves readers what they had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ClusterError, PublishRefused, QuarantineExceeded, SettingsError
from pipeline.flows import index as index_module
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.store import gate
from pipeline.store.database import Database
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

NAMES = [f"d{number}" for number in range(8)]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A folder with a corpus of eight documents and its database; copied, never changed."""
    folder = tmp_path_factory.mktemp("published")
    corpus = write_jsonl(folder / "corpus.jsonl", [document(name) for name in NAMES])
    index(settings_for(corpus, folder / "db"), quiet=True)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


def _run(folder: Path, **flags: Any) -> RunReport:
    return index(settings_for(folder / "corpus.jsonl", folder / "db", **flags), quiet=True)


def _texts(folder: Path, **which: Any) -> dict[str, str]:
    return {row["id"]: row["text"] for row in table_rows(folder / "db", **which)}


def _live(folder: Path) -> int | None:
    return Database.at(str(folder / "db")).live_version()


def _last_run(folder: Path) -> dict[str, Any]:
    return record_rows(folder / "db", "runs")[-1]


def _counts(report: RunReport) -> dict[str, int]:
    names = ("read", "encoded", "unchanged", "duplicate", "quarantined", "deleted")
    counts = {name: getattr(report, f"documents_{name}") for name in names}
    return {name: count for name, count in counts.items() if count}


def test_a_second_run_encodes_nothing_and_makes_no_version(folder: Path) -> None:
    before = _live(folder)
    report = _run(folder)
    assert _counts(report) == {"read": 8, "unchanged": 8}
    assert (report.num_tokens, report.num_chunks, report.version) == (0, 0, before)
    assert Database.at(str(folder / "db")).open("documents").version == before == _live(folder)
    assert _last_run(folder)["status"] == "published"


def test_changes_additions_and_deletions_end_in_the_corpus(folder: Path) -> None:
    rows = [document(name) for name in NAMES[2:]]
    rows[0] = document("d2", "rewritten")
    rows[1] = document("d3", title="retitled")
    rows[2] = document("d4", year=2020)
    rows += [document("new", "added"), document("new", "again"), document("d7", "not the first")]
    write_jsonl(folder / "corpus.jsonl", rows)
    report = _run(folder)
    assert _counts(report) == {"read": 9, "encoded": 4, "unchanged": 3, "duplicate": 2, "deleted": 2}
    assert _texts(folder) == {
        "d2": "rewritten", "d3": "what d3 is about", "d4": "what d4 is about", "d5": "what d5 is about",
        "d6": "what d6 is about", "d7": "what d7 is about", "new": "added",
    }  # fmt: skip
    assert [row["title"] for row in table_rows(folder / "db") if row["id"] == "d3"] == ["retitled"]
    fresh = index(settings_for(folder / "corpus.jsonl", folder / "fresh"), quiet=True)
    assert fresh.documents_encoded == 7
    again, once = table_rows(folder / "db"), table_rows(folder / "fresh")
    for row in (*again, *once):
        del row["run_id"], row["shard"]
    assert again == once


def test_a_trial_of_the_first_documents_is_part_of_the_whole(tmp_path: Path) -> None:
    for part in range(2):
        write_jsonl(tmp_path / "corpus" / f"{part}.jsonl", [document(f"{part}-{n}") for n in range(4)])
    trial = index(settings_for(tmp_path / "corpus", tmp_path / "db", corpus__limit=5), quiet=True)
    assert _counts(trial) == {"read": 5, "encoded": 5}
    assert list(_texts(tmp_path)) == ["0-0", "0-1", "0-2", "0-3", "1-0"]
    whole = index(settings_for(tmp_path / "corpus", tmp_path / "db"), quiet=True)
    assert _counts(whole) == {"read": 8, "encoded": 3, "unchanged": 5}
    again = index(settings_for(tmp_path / "corpus", tmp_path / "db", corpus__limit=5), quiet=True)
    assert _counts(again) == {"read": 5, "unchanged": 5}
    assert len(_texts(tmp_path)) == 8


def test_documents_that_are_missing_may_be_kept(folder: Path) -> None:
    write_jsonl(folder / "corpus.jsonl", [document("d0", "rewritten"), document("new")])
    report = _run(folder, corpus__keep_missing=True)
    assert _counts(report) == {"read": 2, "encoded": 2}
    assert sorted(_texts(folder)) == sorted([*NAMES, "new"])
    assert _texts(folder)["d0"] == "rewritten"


def test_a_corpus_that_lost_most_of_its_documents_deletes_none(folder: Path) -> None:
    before = _live(folder)
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in NAMES[:3]])
    with pytest.raises(SettingsError, match="5 of 8 documents in the table are not in this corpus") as caught:
        _run(folder)
    assert caught.value.exit_code == 2
    assert "--keep-missing" in str(caught.value)
    assert (_live(folder), len(_texts(folder))) == (before, 8)
    assert _last_run(folder)["status"] == "failed"
    assert _counts(_run(folder, corpus__max_delete=0.7)) == {"read": 3, "unchanged": 3, "deleted": 5}
    assert sorted(_texts(folder)) == NAMES[:3]


def test_too_many_bad_rows_stop_the_run_before_anything_is_encoded(folder: Path) -> None:
    before = _live(folder)
    rows: list[Any] = [document(f"n{number}") for number in range(90)]
    write_jsonl(folder / "corpus.jsonl", rows + ["{broken"] * 11)
    with pytest.raises(QuarantineExceeded, match="11 of 101 rows were bad") as caught:
        _run(folder, corpus__max_delete=1.0)
    assert caught.value.exit_code == 3
    assert (_live(folder), sorted(_texts(folder))) == (before, NAMES)
    assert Database.at(str(folder / "db")).open("documents").version == before
    run = _last_run(folder)
    assert (run["status"], run["documents_read"], run["documents_quarantined"]) == ("failed", 101, 11)
    assert run["error"].startswith("QuarantineExceeded: 11 of 101 rows were bad")
    aside = record_rows(folder / "db", "quarantine")
    assert [row["run_id"] for row in aside] == [run["run_id"]] * 11


def test_another_encoder_is_built_beside_and_swapped(folder: Path) -> None:
    before = _live(folder)
    report = _run(folder, encoder__model="hashing://32")
    assert _counts(report) == {"read": 8, "encoded": 8}
    assert {len(row["vector"]) for row in table_rows(folder / "db")} == {32}
    assert {len(row["vector"]) for row in table_rows(folder / "db", version=before)} == {64}


def test_a_table_keeps_the_arithmetic_it_was_begun_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a night whose cluster has other devices: "auto" would mean another dtype, and every vector anew."""
    assert _run(folder, encoder__compute_dtype="bfloat16").documents_encoded == 8
    capsys.readouterr()
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new"]])
    report = index(settings_for(folder / "corpus.jsonl", folder / "db"))
    assert _counts(report) == {"read": 9, "encoded": 1, "unchanged": 8}
    (model,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model: ")]
    assert "bfloat16 as the table has it (--dtype names another" in model
    # another model is not held to it, and neither is who asks for one
    assert "float32 on cpu" in _model_line(folder, capsys, encoder__model="hashing://32")
    assert "float32 on cpu" in _model_line(folder, capsys, encoder__compute_dtype="float32")


def _model_line(folder: Path, capsys: pytest.CaptureFixture[str], **flags: Any) -> str:
    index(settings_for(folder / "corpus.jsonl", folder / "db", **flags))
    (model,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model: ")]
    return model


def test_a_first_run_goes_on_in_the_arithmetic_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    _leave_unpublished(tmp_path, monkeypatch, encoder__compute_dtype="bfloat16")
    assert _counts(_run(tmp_path)) == {"read": 8, "unchanged": 8}


def _leave_unpublished(folder: Path, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> None:
    """A run that has encoded everything, and is killed before it publishes."""
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(folder, **flags)


def test_a_first_run_is_not_thrown_away_by_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    _leave_unpublished(tmp_path, monkeypatch)
    with pytest.raises(SettingsError, match="the table holds 8 rows that were never published") as caught:
        _run(tmp_path, encoder__chunk_tokens=256)
    assert "encoded by hashing://64 with encoder.chunk_tokens 512 (now 256)" in str(caught.value)
    assert "--discard-unpublished" in str(caught.value)
    assert (caught.value.exit_code, _last_run(tmp_path)["status"]) == (2, "failed")
    with pytest.raises(SettingsError, match=r"encoded by hashing://64 \(now hashing://32\); this run"):
        _run(tmp_path, encoder__model="hashing://32")
    assert _counts(_run(tmp_path)) == {"read": 8, "unchanged": 8}


def test_a_first_run_is_given_up_where_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in NAMES])
    _leave_unpublished(tmp_path, monkeypatch)
    flags = {"encoder__model": "hashing://32", "commit__discard_unpublished": True}
    assert index(settings_for(tmp_path / "corpus.jsonl", tmp_path / "db", **flags)).documents_encoded == 8
    assert "this run gives up 8 rows that were never published" in capsys.readouterr().err
    # what is published is no progress to be lost
    assert index(settings_for(tmp_path / "corpus.jsonl", tmp_path / "db")).documents_encoded == 8
    assert "gives up" not in capsys.readouterr().err


def test_what_is_given_up_beside_a_live_version_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new"]])
    _leave_unpublished(folder, monkeypatch, encoder__model="hashing://32")
    report = index(settings_for(folder / "corpus.jsonl", folder / "db"))
    assert _counts(report) == {"read": 9, "encoded": 1, "unchanged": 8}
    said = capsys.readouterr().err
    assert "this run gives up 9 rows that were never published" in said
    assert "encoded by hashing://32 (now hashing://64)" in said
    # of rows that were added to what is live, only these
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new", "newer"]])
    _leave_unpublished(folder, monkeypatch)
    capsys.readouterr()
    index(settings_for(folder / "corpus.jsonl", folder / "db", encoder__model="hashing://32"))
    assert "this run gives up 1 rows" in capsys.readouterr().err


def test_an_encoder_that_was_given_up_costs_the_old_one_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _live(folder)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "encode_selected", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(folder, encoder__model="hashing://32")
    assert (_live(folder), len(_texts(folder))) == (before, 8)
    assert _counts(_run(folder)) == {"read": 8, "unchanged": 8}
    assert {len(row["vector"]) for row in table_rows(folder / "db")} == {64}
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES[1:], "new"]])
    assert _counts(_run(folder)) == {"read": 8, "encoded": 1, "unchanged": 7, "deleted": 1}
    assert sorted(_texts(folder)) == sorted([*NAMES[1:], "new"])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_that_ended_before_publishing_is_taken_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _live(folder)
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new"]])
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(folder)
    assert (_live(folder), sorted(_texts(folder))) == (before, NAMES)
    assert _last_run(folder)["error"].startswith("KeyboardInterrupt")
    report = _run(folder)
    assert _counts(report) == {"read": 9, "unchanged": 9}
    assert sorted(_texts(folder)) == sorted([*NAMES, "new"])


def test_a_refused_publish_says_so_and_leaves_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _live(folder)
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new"]])

    def refuse(*_: Any, **__: Any) -> None:
        raise PublishRefused("version 9 was not published: for a test")

    monkeypatch.setattr(gate, "check", refuse)
    with pytest.raises(PublishRefused):
        _run(folder)
    assert _live(folder) == before
    run = _last_run(folder)
    latest = Database.at(str(folder / "db")).open("documents").version
    assert (run["status"], run["version"], run["error"]) == (
        "refused", latest, "PublishRefused: version 9 was not published: for a test",
    )  # fmt: skip


def test_more_encoders_than_fit_are_fewer_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(folder / "corpus.jsonl", [document(name) for name in [*NAMES, "new"]])
    report = index(settings_for(folder / "corpus.jsonl", folder / "db", pool__encoders_min=4, pool__direct_documents=0))
    assert report.documents_encoded == 1
    assert "4 encoders do not fit" in caplog.text
    assert "using 1" in caplog.text
    said = capsys.readouterr()
    assert "encoding on 1 cpu encoder" in said.err
    assert said.out == ""


def test_an_encoder_that_can_never_be_scheduled_is_refused(folder: Path) -> None:
    before = _live(folder)
    with pytest.raises(ClusterError, match=r"one encoder needs 0 GPU and 8 CPU .* has 0 GPU and 2 CPU"):
        _run(folder, pool__cpus_per_encoder=8.0)
    assert _live(folder) == before
