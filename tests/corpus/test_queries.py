"""Queries from every place a user keeps them; the first bad one stops with its place."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.corpus.queries import read_queries
from pipeline.errors import CorpusError
from pipeline.records import Query

PLAIN = "first question\n\n  second question \n"
ROWS = '{"_id": "q1", "text": "first"}\n{"_id": 2, "text": " second ", "metadata": {}}\n'
READ_ROWS = [Query("q1", "first"), Query("2", "second")]


def lay_bright(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": ["0", "1"], "query": ["first", "second"], "excluded_ids": [["N/A"], ["a.txt", "b.txt"]]}
    pq.write_table(pa.table({**columns, "gold_ids": [["x"], ["y"]]}), path)
    return path


READ_BRIGHT = [Query("0", "first"), Query("1", "second", ("a.txt", "b.txt"))]


@pytest.mark.parametrize("name", ["q.txt", "q.md", "q", "q.list"])
def test_plain_lines_are_numbered(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PLAIN)
    assert read_queries(str(tmp_path / name)) == [Query("1", "first question"), Query("2", "second question")]


@pytest.mark.parametrize("name", ["q.jsonl", "q.ndjson", "q.json", "q"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ROWS)
    assert read_queries(str(tmp_path / name)) == READ_ROWS


def test_json_is_no_json_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text('{"what does this brace do?\n')
    assert read_queries(str(tmp_path / "q.txt")) == [Query("1", '{"what does this brace do?')]


def test_compressed_files(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(ROWS.encode()))
    (tmp_path / "q.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(PLAIN.encode()))
    assert read_queries(str(tmp_path / "q.jsonl.gz")) == READ_ROWS
    assert [query.text for query in read_queries(str(tmp_path / "q.txt.zst"))] == ["first question", "second question"]


def test_streams() -> None:
    assert read_queries(io.StringIO(ROWS)) == READ_ROWS
    assert [query.id for query in read_queries(io.StringIO(PLAIN))] == ["1", "2"]
    assert read_queries(io.StringIO("\ufeff" + ROWS)) == READ_ROWS


def test_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode())
    assert read_queries(str(tmp_path / "q.jsonl")) == READ_ROWS


@pytest.mark.parametrize("column", ["text", "query", "question", "contents"])
def test_names_of_the_text(column: str) -> None:
    assert read_queries(io.StringIO(json.dumps({column: "words"}))) == [Query("1", "words")]


def test_a_blank_column_gives_way_to_the_next() -> None:
    assert read_queries(io.StringIO('{"text": " ", "query": "words"}')) == [Query("1", "words")]


def test_parquet_with_excluded_documents(tmp_path: Path) -> None:
    assert read_queries(str(lay_bright(tmp_path / "q.parquet"))) == READ_BRIGHT


def test_folders_of_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "queries.jsonl").write_text(ROWS)
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "d", "text": "document"}')
    lay_bright(tmp_path / "bright" / "examples" / "biology-00000-of-00001.parquet")
    lay_bright(tmp_path / "bright" / "documents" / "biology-00000-of-00001.parquet")
    assert read_queries(str(tmp_path / "beir")) == READ_ROWS
    assert read_queries(str(tmp_path / "bright")) == READ_BRIGHT
    assert read_queries(str(tmp_path / "bright" / "examples")) == READ_BRIGHT


def test_several_files_of_queries_are_named(tmp_path: Path) -> None:
    for task in ("biology", "pony"):
        lay_bright(tmp_path / "examples" / f"{task}-00000-of-00001.parquet")
    with pytest.raises(CorpusError, match=r"2 files of queries: examples/biology.*examples/pony.*give the file"):
        read_queries(str(tmp_path))


def test_a_folder_without_queries_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"queries\.jsonl"):
        read_queries(str(tmp_path))


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_no_query_is_an_error(text: str) -> None:
    with pytest.raises(CorpusError, match="no query"):
        read_queries(io.StringIO(text))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"absent\.jsonl"):
        read_queries(str(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{broken", "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"a": ' + "1" * 5_000 + "}", "not JSON"),
        ("[1]", "a JSON list"),
        ('{"id": "1"}', "no text.*found the columns id"),
        ('{"text": ""}', "no text"),
        ('{"text": "\\ud800"}', "surrogates"),
        ('{"text": "a", "id": 1.5}', "a float"),
        ('{"text": "a", "id": true}', "a bool"),
        ('{"text": "a", "id": "\\ud800"}', "id"),
        ('{"text": "a", "excluded_ids": "d1"}', "expected a list"),
        ('{"text": "a", "excluded_ids": [1]}', "expected a list"),
        ('{"text": "a", "excluded_ids": ["\\ud800"]}', "expected a list"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, bad: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(f'{{"text": "good"}}\n\n{bad}\n')
    with pytest.raises(CorpusError, match=rf"q\.jsonl:3: .*{message}"):
        read_queries(str(tmp_path / "q.jsonl"))


def test_an_id_that_comes_twice_is_an_error() -> None:
    with pytest.raises(CorpusError, match="'q' comes twice"):
        read_queries(io.StringIO('{"id": "q", "text": "a"}\n{"id": "q", "text": "b"}'))


@pytest.mark.parametrize("name", ["q.txt", "q.jsonl"])
def test_bytes_that_are_no_utf8_are_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(CorpusError, match=r"cannot be read.*UTF-8"):
        read_queries(str(tmp_path / name))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_stream_that_is_no_utf8_is_an_error(errors: str) -> None:
    """Standard input is strict in most locales, and hands bad bytes on as surrogates in the C locale."""
    stream = io.TextIOWrapper(io.BytesIO(b"good\ncaf\xe9\n"), "utf-8", errors=errors)
    with pytest.raises(CorpusError, match="UTF-8"):
        read_queries(stream)


@pytest.mark.parametrize("name", ["q.jsonl.gz", "q.txt.zst", "q.parquet"])
def test_a_damaged_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(ROWS.encode())[:-9])
    with pytest.raises(CorpusError, match="cannot be read"):
        read_queries(str(tmp_path / name))
