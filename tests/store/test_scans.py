"""The cache of scans: what is found is right, what is not found costs a read, what is old goes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.corpus.read import read_shard
from pipeline.records import Document, FieldMap, Format, Shard, content_hash, id_hash
from pipeline.store import scans as scans_module
from pipeline.store.database import Database
from pipeline.store.hashes import ShardScan, as_hashes
from pipeline.store.scans import READER_VERSION, NewScan, list_scans, load_scans, scan_key, store_scans

SHARD = Shard("s3://bucket/corpus/1.jsonl", Format.JSONL, "", 100, "etag")
FIELDS = FieldMap("text", "id", "title", None)


def _scan(*names: str) -> ShardScan:
    return ShardScan(
        as_hashes(b"".join(map(id_hash, names))), as_hashes(b"".join(content_hash("", n, "{}") for n in names))
    )


def _key(number: int) -> bytes:
    return bytes([number]) * 16


def _new(*numbers: int) -> list[NewScan]:
    return [NewScan(_key(n), f"{n}.jsonl", _scan(*(f"{n}-{i}" for i in range(n))), {"no_id": n}) for n in numbers]


def _stored(database: Database) -> dict[int, int]:
    """Number -> documents of what is stored, after loading all of it."""
    version, known = list_scans(database)
    loaded = load_scans(database, version, [scan.row for scan in known.values()]) if known else []
    for (key, scan), found in zip(known.items(), loaded, strict=True):
        expected = _new(key[0])[0]
        assert found is not None
        assert (found.ids.tolist(), found.contents.tolist()) == (
            expected.scan.ids.tolist(), expected.scan.contents.tolist(),
        )  # fmt: skip
        assert (scan.num_documents, scan.rejected) == (key[0], {"no_id": key[0]})
    return {key[0]: scan.num_documents for key, scan in known.items()}


def test_what_is_stored_is_found(database: Database) -> None:
    assert list_scans(database) == (0, {})
    store_scans(database, _new(0, 1, 5), wanted={_key(n) for n in (0, 1, 5)})
    assert _stored(database) == {0: 0, 1: 1, 5: 5}


def test_what_is_not_wanted_goes_and_no_version_stays(database: Database) -> None:
    for last in range(1, 50):
        store_scans(database, _new(last), wanted={_key(n) for n in (last, last - 1)})
    assert _stored(database) == {48: 48, 49: 49}
    table = database.open("scans")
    assert len(table.versions()) == 1
    assert len(table.get_fragments()) <= 2
    files = [path for path in Path(database.table_uri("scans")).rglob("*") if path.is_file()]
    assert len(files) < 10


def test_many_small_additions_become_few_files(database: Database) -> None:
    for last in range(1, 80):
        store_scans(database, _new(last), wanted={_key(n) for n in range(80)})
    assert _stored(database) == {n: n for n in range(1, 80)}
    assert len(database.open("scans").get_fragments()) <= 40


def test_a_scan_that_is_stored_twice_is_kept_once(database: Database) -> None:
    for _ in range(3):
        store_scans(database, _new(3), wanted={_key(3)})
    assert database.open("scans").count_rows() <= 2
    store_scans(database, [], wanted={_key(3)})
    assert database.open("scans").count_rows() == 1
    assert _stored(database) == {3: 3}


def test_damaged_hashes_are_not_given(database: Database) -> None:
    store_scans(database, _new(9, 5), wanted={_key(9), _key(5)})
    version, known = list_scans(database)
    (data,) = Path(database.table_uri("scans"), "data").iterdir()
    content = data.read_bytes()
    at = content.index(_scan("9-0").ids.tobytes())
    data.write_bytes(content[:at] + b"?" + content[at + 1 :])
    damaged, whole = load_scans(database, version, [known[_key(9)].row, known[_key(5)].row])
    assert damaged is None
    assert whole is not None
    assert whole.digest() == _scan(*(f"5-{i}" for i in range(5))).digest()


def test_a_version_that_is_gone_gives_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    store_scans(database, _new(2), wanted={_key(2)})
    assert load_scans(database, 77, [0, 1]) == [None, None]
    assert "cannot be read" in caplog.text


def test_a_table_of_other_columns_is_made_anew(database: Database) -> None:
    database.append("scans", pa.table({"key": [b"0" * 16]}))
    assert list_scans(database) == (0, {})
    store_scans(database, _new(2), wanted={_key(2)})
    assert _stored(database) == {2: 2}


def test_a_store_that_refuses_stops_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    Path(database.uri).write_text("not a folder")
    store_scans(database, _new(2), wanted={_key(2)})
    assert "the next run reads more" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "s3://bucket/corpus/2.jsonl"}, {"version": "other"}, {"start": 5}, {"end": 50}, {"members": ("a",)},
        {"format": Format.CSV}, {"compression": "gzip"}, {"size_bytes": 99},
    ],
    ids=str,
)  # fmt: skip
def test_everything_about_a_shard_is_in_its_key(change: dict[str, Any]) -> None:
    assert scan_key(replace(SHARD, **change), FIELDS, max_text_chars=9) != scan_key(SHARD, FIELDS, max_text_chars=9)


def test_how_it_is_read_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {scan_key(SHARD, FIELDS, max_text_chars=9), scan_key(SHARD, FIELDS, max_text_chars=8)}
    for change in ({"text": "body"}, {"id": None}, {"title": None}, {"metadata": ()}):
        keys.add(scan_key(SHARD, replace(FIELDS, **change), max_text_chars=9))
    monkeypatch.setattr(scans_module, "READER_VERSION", READER_VERSION + 1)
    keys.add(scan_key(SHARD, FIELDS, max_text_chars=9))
    assert len(keys) == 7


def test_a_shard_without_a_version_has_no_key() -> None:
    assert scan_key(replace(SHARD, version=""), FIELDS, max_text_chars=9) == b""


def test_a_name_that_is_no_utf8_has_a_key(database: Database) -> None:
    uri = os.fsdecode(b"/corpus/\xff.jsonl")
    key = scan_key(replace(SHARD, uri=uri), FIELDS, max_text_chars=9)
    store_scans(database, [NewScan(key, uri, _scan("a"), {})], wanted={key})
    assert list(list_scans(database)[1]) == [key]


def test_readers_give_what_this_reader_version_gave(tmp_path: Path) -> None:
    """Where this fails because a reader or a hash changed on purpose, raise READER_VERSION, then mend the digest."""
    files = {
        "a.jsonl": '{"id": "1", "title": " T ", "text": " x\\n", "n": 1.5, "none": null}\n{"id": 2, "text": "y"}\n',
        "b.csv": "id,title,text,tag\n3,,z,red\n",
        "c.md": "---\ntitle: front\n---\n# Heading\n\ntext\r\n",
    }
    ids, contents = bytearray(), bytearray()
    for name, content in files.items():
        (tmp_path / name).write_text(content, newline="")
        format = {"jsonl": Format.JSONL, "csv": Format.CSV, "md": Format.TEXT}[name[2:]]
        is_text = format is Format.TEXT
        uri = str(tmp_path if is_text else tmp_path / name)
        for row in read_shard(Shard(uri, format, members=(name,) if is_text else ()), FIELDS):
            assert isinstance(row, Document)
            ids += id_hash(row.id)
            contents += content_hash(row.title, row.text, row.metadata)
    digest = ShardScan(as_hashes(bytes(ids)), as_hashes(bytes(contents))).digest().hex()
    assert (READER_VERSION, digest) == (2, "222faa4254c639df3f157313f929fa91")
