"""Corpora as people have them: many shards, formats together, documents longer than a model reads."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.flows.index import index
from pipeline.store.database import Database
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_shards_of_several_formats_are_one_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_jsonl(corpus / "a.jsonl", [document(f"a{n}") for n in range(3)])
    packed = "".join(json.dumps(document(f"b{n}")) + "\n" for n in range(3))
    (corpus / "b.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    pq.write_table(pa.Table.from_pylist([document(f"c{n}") for n in range(3)]), corpus / "c.parquet")
    (corpus / "d.csv").write_text("id,text\nd0,what d0 is about\nd1,what d1 is about\na0,a duplicate\n")
    db = tmp_path / "db"
    report = index(settings_for(corpus, db), quiet=True)
    assert (report.documents_read, report.documents_encoded, report.documents_duplicate) == (12, 11, 1)
    rows = table_rows(db)
    assert [row["id"] for row in rows] == [f"{shard}{n}" for shard, count in zip("abcd", (3, 3, 3, 2), strict=True)
                                           for n in range(count)]  # fmt: skip
    assert all(row["text"] == f"what {row['id']} is about" for row in rows)
    assert Counter(Path(row["shard"]).name for row in rows) == {
        "a.jsonl": 3, "b.jsonl.gz": 3, "c.parquet": 3, "d.csv": 2,
    }  # fmt: skip
    again = index(settings_for(corpus, db), quiet=True)
    assert (again.documents_unchanged, again.num_tokens) == (11, 0)


def test_long_documents_are_chunked_and_replaced_whole(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(400)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [document("long", " ".join(words)), document("short")])
    db = tmp_path / "db"
    flags = {"encoder__chunk_tokens": 64, "encoder__overlap_tokens": 8}
    report = index(settings_for(corpus, db, **flags), quiet=True)
    assert report.documents_encoded == 2
    rows = table_rows(db)
    chunks = [row for row in rows if row["id"] == "long"]
    assert len(chunks) > 10
    assert [row["chunk"] for row in chunks] == list(range(len(chunks)))
    assert len({bytes(row["content_hash"]) for row in chunks}) == 1
    assert max(row["num_tokens"] for row in rows) <= 64
    assert set(words) <= {word for row in chunks for word in row["text"].split()}
    assert report.num_chunks == len(rows)
    assert report.num_tokens == sum(row["num_tokens"] for row in rows)

    write_jsonl(corpus, [document("long", " ".join(words[:60])), document("short")])
    again = index(settings_for(corpus, db, **flags), quiet=True)
    assert (again.documents_encoded, again.documents_unchanged, again.documents_deleted) == (1, 1, 0)
    fewer = [row for row in table_rows(db) if row["id"] == "long"]
    assert 1 < len(fewer) < len(chunks)
    assert [row["chunk"] for row in fewer] == list(range(len(fewer)))


def test_one_file_read_in_pieces_keeps_every_document(tmp_path: Path) -> None:
    rows = [document(f"d{number:04}", f"document {number} " + "filler " * 20) for number in range(2_000)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    db = tmp_path / "db"
    report = index(settings_for(corpus, db, corpus__split_bytes=2**16, commit__max_rows=500), quiet=True)
    assert (report.documents_read, report.documents_encoded) == (2_000, 2_000)
    assert [row["id"] for row in table_rows(db)] == [row["id"] for row in rows]
    assert report.version is not None
    assert report.version > 3  # several commits, not one


def test_a_corpus_without_one_good_document_publishes_nothing(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", ["{broken", json.dumps({"id": "a", "text": " "}), "{again"])
    with pytest.raises(CorpusError, match="none of the 3 rows read is a document"):
        index(settings_for(corpus, tmp_path / "db", corpus__text_field="text"), quiet=True)
    assert Database.at(str(tmp_path / "db")).live_version() is None
    assert len(record_rows(tmp_path / "db", "quarantine")) == 3
