"""JSON lines: every line that is not blank gives one document or one rejection, whatever is in it."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.records import Document, FieldMap, Format, Reason, Rejected, Shard

FIELDS = FieldMap(text="text", id="_id", title="title")
Read = Callable[..., list[Any]]
URI = "memory://jsonl-tests/x.jsonl"


def line(**row: object) -> bytes:
    return json.dumps({"_id": "1", "text": "words", **row}).encode()


def test_a_row_becomes_a_document(read_bytes: Read) -> None:
    row = {"_id": "é1", "title": " A title ", "text": " Some\ntext ", "url": "http://x", "year": 3, "none": None}
    assert read_bytes("a.jsonl", json.dumps(row).encode() + b"\n") == [
        Document("é1", "A title", "Some\ntext", '{"url":"http://x","year":3}', "a.jsonl", 0)
    ]


def test_offsets_are_bytes_of_the_uncompressed_stream(read_bytes: Read) -> None:
    lines = [line(_id="1", text="é"), b"{broken", line(_id="2")]
    content = b"\n".join(lines)
    expected = [0, len(lines[0]) + 1, len(lines[0]) + len(lines[1]) + 2]
    for name, packed in (("a.jsonl", content), ("a.jsonl.gz", gzip.compress(content))):
        assert [item.offset for item in read_bytes(name, packed)] == expected


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{broken", Reason.BROKEN_JSON),
        (b'{"_id": "1", "text": "a"} {"_id": "2"}', Reason.BROKEN_JSON),
        (b'{"_id": 1' + b"0" * 5_000 + b', "text": "a"}', Reason.BROKEN_JSON),
        (b'{"a":' * 10_000, Reason.BROKEN_JSON),
        (b"\xef\xbb\xbf" + line(), Reason.BROKEN_JSON),
        (b'["a list"]', Reason.NOT_AN_OBJECT),
        (b'"a string"', Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'{"_id": "1", "text": "caf\xe9"}', Reason.NOT_UTF8),
        (b'{"_id": "1", "text": "\\ud800"}', Reason.NOT_UTF8),
        (b'{"_id": "\\ud800", "text": "a"}', Reason.NOT_UTF8),
        (b'{"_id": "1", "title": "\\udfff", "text": "a"}', Reason.NOT_UTF8),
        (b'{"_id": "1", "text": "a", "more": ["\\udfff"]}', Reason.NOT_UTF8),
        (b'{"_id": "1", "text": "a", "\\udfff": 1}', Reason.NOT_UTF8),
        (b'{"_id": "1", "\\ud800": "a"}', Reason.NO_TEXT),
        (b"{}", Reason.NO_TEXT),
        (line(text=None), Reason.EMPTY_TEXT),
        (line(text=""), Reason.EMPTY_TEXT),
        (line(text=" \n\t\u00a0\u3000"), Reason.EMPTY_TEXT),
        (line(text=3), Reason.WRONG_TYPE),
        (line(text=["a"]), Reason.WRONG_TYPE),
        (line(text={"a": 1}), Reason.WRONG_TYPE),
        (line(text=True), Reason.WRONG_TYPE),
        (line(title=["a"]), Reason.WRONG_TYPE),
        (line(title=True), Reason.WRONG_TYPE),
        (line(_id=1.5), Reason.WRONG_TYPE),
        (line(_id=True), Reason.WRONG_TYPE),
        (line(_id=["1"]), Reason.WRONG_TYPE),
        (line(_id=None), Reason.NO_ID),
        (line(_id=""), Reason.NO_ID),
        (line(_id=" \t"), Reason.NO_ID),
        (b'{"text": "a"}', Reason.NO_ID),
        (line(_id="x" * 10_001), Reason.TOO_LONG),
        (line(text="x" * 1_001), Reason.TOO_LONG),
        (line(title="x" * 1_001), Reason.TOO_LONG),
        (line(more="x" * 1_001), Reason.TOO_LONG),
        (line(more="x" * 200_000), Reason.TOO_LONG),
    ],
)
def test_a_bad_line_costs_only_itself(read_bytes: Read, bad: bytes, reason: Reason) -> None:
    content = b"\n".join([line(_id="before"), bad, line(_id="after"), b""])
    before, item, after = read_bytes("a.jsonl", content, FIELDS, max_text_chars=1_000)
    assert (before.id, after.id) == ("before", "after")
    assert isinstance(item, Rejected)
    assert (item.reason, item.offset) == (reason, len(line(_id="before")) + 1)
    assert item.detail
    # Whatever stood there, what is kept of it can be stored: this raises where it cannot.
    (item.detail + item.id + item.text).encode("utf-8")
    assert len(item.text) <= 2_000


def test_a_rejected_row_says_which_it_was(read_bytes: Read) -> None:
    (item,) = read_bytes("a.jsonl", line(_id="d7", text=None, note="kept for the person who looks"))
    assert item.id == "d7"
    assert "kept for the person who looks" in item.text


def test_integers_are_ids(read_bytes: Read) -> None:
    items = read_bytes("a.jsonl", b"\n".join([line(_id=7), line(_id=-1), line(_id=0), line(_id=2**63)]))
    assert [item.id for item in items] == ["7", "-1", "0", str(2**63)]


def test_ids_keep_their_blanks(read_bytes: Read) -> None:
    """`a` and `a ` may be two documents; relevance judgements spell ids exactly."""
    items = read_bytes("a.jsonl", b"\n".join([line(_id="a"), line(_id="a ")]))
    assert [item.id for item in items] == ["a", "a "]


def test_titles_may_be_numbers_or_absent(read_bytes: Read) -> None:
    rows = [line(title=1984), line(title=None), line(), b'{"_id": "1", "text": "a", "title": NaN}']
    assert [item.title for item in read_bytes("a.jsonl", b"\n".join(rows))] == ["1984", "", "", ""]


def test_ids_from_content(read_bytes: Read) -> None:
    fields = FieldMap(text="text", title="title")
    rows = [line(_id=None), line(_id=None), line(_id=None, title="t"), line(_id=None, text="other"), line(_id="x")]
    same, again, titled, other, with_metadata = read_bytes("a.jsonl", b"\n".join(rows), fields)
    assert same.id == again.id == with_metadata.id
    assert len({same.id, titled.id, other.id}) == 3


def test_metadata_are_json_with_sorted_keys(read_bytes: Read) -> None:
    row = b'{"_id": "1", "text": "a", "z": [1, {"b": NaN, "a": 1e999}], "a": "\\u00e9", "n": null}'
    (item,) = read_bytes("a.jsonl", row)
    assert item.metadata == '{"a":"é","z":[1,{"a":null,"b":null}]}'
    (item,) = read_bytes("a.jsonl", row, FieldMap(text="text", id="_id", metadata=("a", "absent")))
    assert item.metadata == '{"a":"é"}'


def test_byte_order_mark_crlf_and_blank_lines(read_bytes: Read) -> None:
    content = b"\xef\xbb\xbf" + line(_id="1") + b"\r\n\r\n  \t \n\n" + line(_id="2") + b"\r\n" + line(_id="3")
    assert [item.id for item in read_bytes("a.jsonl", content)] == ["1", "2", "3"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_no_rows_are_no_items(read_bytes: Read, content: bytes) -> None:
    assert read_bytes("a.jsonl", content) == []
    assert read_bytes("a.jsonl.gz", gzip.compress(content)) == []


def test_separators_that_are_no_line_ends_stay_in_the_text(read_bytes: Read) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf"
    (item,) = read_bytes("a.jsonl", json.dumps({"_id": "1", "text": text}, ensure_ascii=False).encode())
    assert item.text == text


def test_a_huge_line_is_passed_over(read_bytes: Read) -> None:
    huge = b'{"_id": "huge", "text": "' + b"x" * 5_000_000
    content = huge + b'"}\n' + line(_id="after")
    first, second = read_bytes("a.jsonl", content, FIELDS, max_text_chars=1_000)
    assert (first.reason, first.offset, len(first.text)) == (Reason.TOO_LONG, 0, 2_000)
    assert (second.id, second.offset) == ("after", len(huge) + 3)


def test_a_huge_line_without_an_end(read_bytes: Read) -> None:
    content = line(_id="before") + b"\n" + b"x" * 5_000_000
    first, second = read_bytes("a.jsonl", content, FIELDS, max_text_chars=1_000)
    assert first.id == "before"
    assert second.reason == Reason.TOO_LONG


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8_can_be_stored(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.jsonl"), "wb") as file:
        file.write(line() + b"\n{broken")
    (shard,) = locate([str(tmp_path)])
    items = list(read_shard(shard, FIELDS))
    assert [(type(item), item.shard) for item in items] == [
        (Document, f"{tmp_path}/caf?.jsonl"),
        (Rejected, f"{tmp_path}/caf?.jsonl"),
    ]


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


MANY = b"".join(line(_id=str(i), text="%06x" % (i * 2_654_435_761 % 2**24)) + b"\n" for i in range(20_000))


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", _zstd)])
def test_compressed_files(read_bytes: Read, name: str, pack: Callable[[bytes], bytes]) -> None:
    plain = read_bytes("a.jsonl", MANY)
    half = len(MANY) // 2
    for content in (pack(MANY), pack(MANY[:half]) + pack(MANY[half:]), pack(MANY) + b"\0" * 10_000):
        items = read_bytes(name, content)
        assert [(item.id, item.text, item.offset) for item in items] == [
            (item.id, item.text, item.offset) for item in plain
        ]


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", _zstd)])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage"])
def test_a_damaged_file_gives_what_was_read_and_one_rejection(
    read_bytes: Read, name: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    half = len(MANY) // 2
    if damage == "truncated":
        content = pack(MANY)
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = pack(MANY) + b"this is no member"
    else:
        second = bytearray(pack(MANY[half:]))
        second[0] ^= 0xFF
        content = pack(MANY[:half]) + second
    *read, last = read_bytes(name, content)
    assert isinstance(last, Rejected)
    assert last.reason == Reason.UNREADABLE
    # The first frame at least, or what one truncated frame of zstd gives: whole blocks.
    assert [item.id for item in read] == [str(i) for i in range(len(read))]
    assert len(read) > 1_000
    assert last.offset == read[-1].offset + MANY[read[-1].offset :].index(b"\n") + 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_compressed_as_its_name_says(read_bytes: Read, name: str) -> None:
    (item,) = read_bytes(name, MANY)
    assert (item.reason, item.offset) == (Reason.UNREADABLE, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
rows = st.fixed_dictionaries({}, optional={"_id": json_values, "text": json_values, "title": json_values})
good_rows = st.fixed_dictionaries({"_id": st.text(min_size=1, max_size=3), "text": st.text(min_size=1, max_size=20)})
json_lines = st.one_of(
    good_rows.map(lambda row: json.dumps(row).encode()),
    rows.map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")),
    st.binary(max_size=12),
)
contents = st.builds(
    lambda lines, end, mark: (b"\xef\xbb\xbf" if mark else b"") + end.join(lines),
    st.lists(json_lines, max_size=12),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.booleans(),
)


def _read(content: bytes, bounds: list[int], max_text_chars: int = 1_000) -> list[Any]:
    fsspec.filesystem("memory").pipe(URI, content)
    items: list[Any] = []
    for start, end in zip(bounds, [*bounds[1:], len(content)], strict=True):
        shard = Shard(URI, Format.JSONL, start=start, end=end)
        items += read_shard(shard, FIELDS, max_text_chars=max_text_chars)
    return items


@given(content=contents, cuts=st.lists(st.integers(0, 400), max_size=6))
@example(content=b"\xef\xbb\xbf" + line(), cuts=[1, 2, 3])
@example(content=line() + b"\n" + line(), cuts=[len(line()), len(line()) + 1, len(line()) + 2])
def test_pieces_hold_what_the_whole_holds(content: bytes, cuts: list[int]) -> None:
    whole = _read(content, [0])
    bounds = sorted({0, *(cut for cut in cuts if cut < len(content))})
    assert _read(content, bounds) == whole
    # One item a line that is not blank, in order.
    unmarked = content.removeprefix(b"\xef\xbb\xbf")
    assert len(whole) == sum(1 for one in unmarked.split(b"\n") if one.strip())
    assert [item.offset for item in whole] == sorted(item.offset for item in whole)
    for item in whole:
        for value in (item.id, item.text):
            value.encode("utf-8")


@given(lengths=st.lists(st.integers(0, 150_000), min_size=1, max_size=4), cuts=st.lists(st.integers(0, 400_000)))
@example(lengths=[65_536 + 8 - 4 + i for i in range(8)], cuts=[])
def test_pieces_of_overlong_lines(lengths: list[int], cuts: list[int]) -> None:
    content = b"".join(b"x" * length + b"\n" for length in lengths)
    bounds = sorted({0, *(cut for cut in cuts if cut < len(content))})
    whole = _read(content, [0], max_text_chars=1)
    assert _read(content, bounds, max_text_chars=1) == whole
    assert len(whole) == sum(length > 0 for length in lengths)
