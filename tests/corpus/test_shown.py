"""Rows say where they came from without what opens it; what opens it stays as it was given."""

from __future__ import annotations

import gzip
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.corpus.rows import DocumentBuilder, rejected
from pipeline.errors import CorpusError
from pipeline.records import Document, FieldMap, Format, Reason, Rejected
from pipeline.storage import open_filesystem

FIELDS = FieldMap(text="text", id="id")
SECRET = "hunter2"
FORMATS = {"txt": Format.TEXT, "md": Format.TEXT} | {str(format): format for format in Format}
LINE = b'{"id": "1", "text": "one"}\n'


@pytest.fixture
def folder() -> str:
    """A folder in a store that is no disk."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.mark.parametrize(
    ("name", "content", "kinds"),
    [
        ("a.jsonl", LINE + b"{broken\n", [Document, Rejected]),
        ("a.jsonl.gz", gzip.compress(LINE, mtime=0)[:-4], [Document, Rejected]),
        ("a.csv", b"id,text\n1,one\n2\n", [Document, Rejected]),
        ("a.parquet", b"PAR1", [Rejected]),
        ("a.txt", b"one", [Document]),
        ("a.md", b"\xff", [Rejected]),
    ],
    ids=["jsonl", "gzip", "csv", "parquet", "text", "markdown"],
)
def test_every_reader_stores_the_place_without_its_credential(
    folder: str, name: str, content: bytes, kinds: list[type]
) -> None:
    fs, path = open_filesystem(folder)
    fs.pipe_file(f"{path}/{name}?sig={SECRET}", content)
    (shard,) = locate([f"{folder}/{name}?sig={SECRET}"], format=FORMATS[name.split(".")[1]])
    shard = replace(shard, compression="gzip" if name.endswith("gz") else "")
    items = list(read_shard(shard, FIELDS))
    assert [type(item) for item in items] == kinds
    assert {item.shard for item in items} == {f"{folder}/{name}?sig=***"}
    if name.endswith(".txt"):
        assert items[0].id == f"{name}?sig=***"


@pytest.mark.parametrize(
    "uri", [f"ftp://me:{SECRET}@host/c.jsonl", f"ftp://me:x@{SECRET}@host/c.jsonl", f"https://host/c?sig={SECRET}"]
)
def test_passwords_and_signatures_are_not_stored(uri: str) -> None:
    document = DocumentBuilder(FIELDS, shard=uri, max_text_chars=10).build(0, {"id": "1", "text": "one"})
    bad = rejected(uri, offset=0, reason=Reason.NO_TEXT, detail="")
    assert SECRET not in document.shard + bad.shard
    assert document.shard == bad.shard != uri


def test_a_local_name_is_stored_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sig=a?token=b.txt").write_text("one")
    (shard,) = locate([str(tmp_path)])
    (document,) = read_shard(shard, FIELDS)
    assert (document.id, document.shard) == ("sig=a?token=b.txt", str(tmp_path / "sig=a?token=b.txt"))


def test_a_header_that_cannot_be_read_is_said_without_the_credential(folder: str) -> None:
    fs, path = open_filesystem(folder)
    fs.pipe_file(f"{path}/a.csv?sig={SECRET}", b'"id,text\n')
    (shard,) = locate([f"{folder}/a.csv?sig={SECRET}"], format=Format.CSV)
    with pytest.raises(CorpusError, match="header of") as caught:
        list(read_shard(shard, FIELDS))
    assert SECRET not in str(caught.value)
