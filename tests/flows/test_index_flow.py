"""A corpus to a published table, through a real local Ray: nothing lost, nothing doubled, everything accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.flows.index import index
from pipeline.records import content_hash
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.mark.parametrize("direct", [0, None], ids=["by a pool", "by one task"])
def test_every_good_row_once_and_every_bad_row_with_its_reason(tmp_path: Path, direct: int | None) -> None:
    rows = [
        document("a", title="A", year=2020),
        "{broken",
        document("b", "first of two"),
        json.dumps(["not", "an", "object"]),
        document("b", "second of two"),
        document("c", "   "),
        {"id": "d"},
        document("e", "last"),
    ]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    db = tmp_path / "db"
    report = index(settings_for(corpus, db, pool__direct_documents=direct), quiet=True)

    assert (report.documents_read, report.documents_encoded, report.documents_unchanged) == (8, 3, 0)
    assert (report.documents_duplicate, report.documents_quarantined, report.unaccounted) == (1, 4, 0)
    assert (report.status, report.num_chunks) == ("published", 3)
    stored = table_rows(db)
    assert [(row["id"], row["text"]) for row in stored] == [
        ("a", "what a is about"), ("b", "first of two"), ("e", "last"),
    ]  # fmt: skip
    assert json.loads(stored[0]["metadata"]) == {"year": 2020}
    assert {row["run_id"] for row in stored} == {report.run_id}
    assert {row["shard"] for row in stored} == {str(corpus)}
    for row in stored:
        assert row["content_hash"] == content_hash(row["title"], row["text"], row["metadata"] or "{}")

    aside = {row["reason"]: row for row in record_rows(db, "quarantine")}
    assert set(aside) == {"broken_json", "not_an_object", "empty_text", "no_text", "duplicate_id"}
    lines = corpus.read_bytes().splitlines(keepends=True)
    for reason, number in {"broken_json": 1, "not_an_object": 3, "empty_text": 5, "no_text": 6}.items():
        row = aside[reason]
        assert row["offset"] == sum(map(len, lines[:number])), reason
        assert (row["shard"], row["run_id"]) == (str(corpus), report.run_id)
        assert row["detail"]
    assert aside["broken_json"]["text"] == "{broken"
    assert aside["empty_text"]["id"] == "c"

    (run,) = record_rows(db, "runs")
    assert (run["status"], run["version"], run["documents_read"], run["error"]) == ("published", report.version, 8, "")
    assert json.loads(run["settings"])["encoder"]["model"] == "hashing://64"
