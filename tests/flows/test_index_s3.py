"""Corpus and database both in an object store: the same run, unchanged."""

from __future__ import annotations

import json

import pytest

from pipeline.flows.index import index
from pipeline.flows.search import Searcher
from pipeline.flows.status import status
from pipeline.storage import open_filesystem
from tests.flows.corpora import document, record_rows, settings_for, table_rows

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.usefixtures("local_ray")]


def _put(uri: str, names: str) -> None:
    fs, path = open_filesystem(uri)
    fs.pipe_file(path, "".join(json.dumps(document(name)) + "\n" for name in names).encode())


def test_a_corpus_in_a_bucket_to_a_database_in_a_bucket(s3: str) -> None:
    _put(f"{s3}/corpus/one.jsonl", "abc")
    _put(f"{s3}/corpus/two.jsonl", "def")
    db = f"{s3}/db"
    first = index(settings_for(f"{s3}/corpus", db), quiet=True)
    assert (first.documents_read, first.documents_encoded) == (6, 6)
    assert {row["shard"] for row in table_rows(db)} == {f"{s3}/corpus/one.jsonl", f"{s3}/corpus/two.jsonl"}

    again = index(settings_for(f"{s3}/corpus/*.jsonl", db), quiet=True)
    assert (again.documents_unchanged, again.num_tokens, again.version) == (6, 0, first.version)

    _put(f"{s3}/corpus/two.jsonl", "dg")
    changed = index(settings_for(f"{s3}/corpus", db), quiet=True)
    assert (changed.documents_encoded, changed.documents_unchanged, changed.documents_deleted) == (1, 4, 2)
    assert [row["id"] for row in table_rows(db)] == ["a", "b", "c", "d", "g"]
    assert [run["status"] for run in record_rows(db, "runs")] == ["published"] * 3

    searcher = Searcher.open(db)
    (hits,) = searcher.search(["what g is about"], top_k=2)
    assert hits[0].id == "g"
    assert searcher.version == changed.version
    found = status(db)
    assert (found["live"]["version"], found["live"]["num_documents"]) == (changed.version, 5)
