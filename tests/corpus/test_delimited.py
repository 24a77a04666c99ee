"""CSV and TSV: every row after the header gives one document or one rejection."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.records import FieldMap, Reason, Rejected

Read = Callable[..., list[Any]]
HEAD = b"_id,title,text\n"


def pairs(items: list[Any]) -> list[tuple[str, str]]:
    """The text of documents, and what is wrong with the others."""
    return [("rejected", item.reason) if isinstance(item, Rejected) else (item.id, item.text) for item in items]


def test_rows_become_documents(read_bytes: Read) -> None:
    content = b"_id,title,text,url\n1,One,first,http://x\n2,,second,\n"
    first, second = read_bytes("a.csv", content)
    assert (first.id, first.title, first.text, first.metadata, first.offset) == (
        "1", "One", "first", '{"url":"http://x"}', 0,
    )  # fmt: skip
    assert (second.id, second.title, second.text, second.metadata, second.offset) == ("2", "", "second", "{}", 1)


def test_quoted_cells_hold_newlines_commas_and_quotes(read_bytes: Read) -> None:
    content = HEAD + b'1,"a, b","one\r\n""two"",\n\nthree"\n2,t,plain\n'
    items = read_bytes("a.csv", content)
    assert pairs(items) == [("1", 'one\r\n"two",\n\nthree'), ("2", "plain")]
    assert items[0].title == "a, b"


def test_byte_order_mark_crlf_and_blank_lines(read_bytes: Read) -> None:
    content = b"\xef\xbb\xbf" + HEAD.replace(b"\n", b"\r\n") + b"\r\n1,t,one\r\n\r\n\r\n2,t,two"
    assert pairs(read_bytes("a.csv", content)) == [("1", "one"), ("2", "two")]


@pytest.mark.parametrize("content", [b"", HEAD, HEAD.strip(), b"\xef\xbb\xbf"])
def test_no_rows_are_no_items(read_bytes: Read, content: bytes) -> None:
    assert read_bytes("a.csv", content) == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"x,t", Reason.BROKEN_ROW),
        (b"x,t,text,more", Reason.BROKEN_ROW),
        (b"x", Reason.BROKEN_ROW),
        (b'x,t,"a"b', Reason.BROKEN_ROW),
        (b'x,t,"never closed', Reason.BROKEN_ROW),
        (b"x,t,caf\xe9", Reason.NOT_UTF8),
        (b"x,t,", Reason.EMPTY_TEXT),
        (b"x,t,  ", Reason.EMPTY_TEXT),
        (b",t,text", Reason.NO_ID),
        (b"x,t," + b"a" * 1_001, Reason.TOO_LONG),
        (b"x,t," + b"a" * 200_000, Reason.TOO_LONG),
        (b"x,t," + b"a" * 2_000_000, Reason.TOO_LONG),
    ],
)
def test_a_bad_row_costs_only_itself(read_bytes: Read, bad: bytes, reason: Reason) -> None:
    content = HEAD + b"before,t,one\n" + bad + b"\nafter,t,two\nlast,t,three\n"
    items = read_bytes("a.csv", content, max_text_chars=1_000)
    assert pairs(items) == [("before", "one"), ("rejected", reason), ("after", "two"), ("last", "three")]
    assert [item.offset for item in items] == [0, 1, 2, 3]
    assert items[1].text


def test_a_row_is_not_blamed_for_the_next(read_bytes: Read) -> None:
    content = HEAD + b'1,t,"never closed\n2,t,caf\xe9\n3,t,good\n'
    assert pairs(read_bytes("a.csv", content)) == [
        ("rejected", Reason.BROKEN_ROW),
        ("rejected", Reason.NOT_UTF8),
        ("3", "good"),
    ]


def test_tsv_takes_quotes_for_text(read_bytes: Read) -> None:
    content = b'_id\ttitle\ttext\n1\tt\t"lone quote\n2\tt\t"both"\n3\tt\ta, b\n4\tt\n'
    items = read_bytes("a.tsv", content)
    assert pairs(items) == [("1", '"lone quote'), ("2", '"both"'), ("3", "a, b"), ("rejected", Reason.BROKEN_ROW)]


@pytest.mark.parametrize("head", [b'_id,"text', b"_id,te\xe9xt\n", b'"_id"x,text\n'])
def test_a_header_that_cannot_be_read_is_an_error(read_bytes: Read, head: bytes) -> None:
    with pytest.raises(CorpusError, match="header"):
        read_bytes("a.csv", head)


def test_columns_of_one_name_keep_apart(read_bytes: Read) -> None:
    (item,) = read_bytes("a.csv", b"_id,text,text,text_2,text, _id \n1,one,two,three,four,five\n")
    assert (item.id, item.text) == ("1", "one")
    assert json.loads(item.metadata) == {"text_2": "three", "text_3": "two", "text_4": "four", "_id_2": "five"}


def test_a_truncated_file_gives_what_was_read_and_one_rejection(read_bytes: Read) -> None:
    content = HEAD + b"".join(b"%d,t,text %x\n" % (i, i * 2_654_435_761 % 2**24) for i in range(20_000))
    packed = gzip.compress(content)
    whole = read_bytes("a.csv.gz", packed)
    assert [item.offset for item in whole] == list(range(20_000))
    *read, last = read_bytes("a.csv.gz", packed[: len(packed) // 2])
    assert last.reason == Reason.UNREADABLE
    assert last.offset == len(read) > 1_000
    assert read == whole[: len(read)]


def test_a_truncated_header_is_one_rejection(read_bytes: Read) -> None:
    (item,) = read_bytes("a.csv.gz", gzip.compress(HEAD)[:12])
    assert item.reason == Reason.UNREADABLE


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)


@given(rows=st.lists(st.tuples(cells, cells), max_size=8))
def test_what_csv_writes_is_read_back(read_bytes: Read, rows: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([("id", "body"), *rows])
    items = read_bytes("a.csv", file.getvalue().encode(), FieldMap(text="body"))
    assert len(items) == len(rows)
    for item, (_, text) in zip(items, rows, strict=True):
        assert (item.reason == Reason.EMPTY_TEXT) if isinstance(item, Rejected) else (item.text == text.strip())
        assert isinstance(item, Rejected) == (not text.strip())


@given(body=st.binary(max_size=60) | st.text(alphabet='a,"\n\r\t ', max_size=60).map(str.encode))
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_no_bytes_stop_the_reader(read_bytes: Read, name: str, body: bytes) -> None:
    head = b"_id\ttext\n" if name == "a.tsv" else b"_id,text\n"
    content = head + body + b"\n" + head.replace(b"_id", b"last").replace(b"text", b"end")
    items = read_bytes(name, gzip.compress(content) if name.endswith("gz") else content)
    assert [item.offset for item in items] == list(range(len(items)))
    if b'"' not in body:
        assert pairs(items)[-1] == ("last", "end")
