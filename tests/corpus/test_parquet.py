"""Parquet: whatever type a column has, a row gives one document or one rejection."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.records import FieldMap, Reason, Rejected

Read = Callable[..., list[Any]]
BAD = b"caf\xe9"


def pack(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file.getvalue()


def bad_strings(values: list[bytes | None], type: pa.DataType | None = None) -> pa.Array:
    """A column of strings that are no UTF-8, which Arrow writes without looking."""
    plain = pa.array(values, pa.large_binary() if type == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(type or pa.string(), len(plain), plain.buffers(), plain.null_count)


def test_rows_become_documents(read_bytes: Read) -> None:
    content = pack(
        _id=["a", "b", "c", "d"],
        title=["T", None, "", "U"],
        text=["one", " two ", "three", "four"],
        year=[1, None, 3, 4],
    )
    items = read_bytes("a.parquet", content)
    assert [(item.id, item.title, item.text, item.offset) for item in items] == [
        ("a", "T", "one", 0),
        ("b", "", "two", 1),
        ("c", "", "three", 2),
        ("d", "U", "four", 3),
    ]
    assert [item.metadata for item in items] == ['{"year":1}', "{}", '{"year":3}', '{"year":4}']


@pytest.mark.parametrize(
    "type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()], ids=str
)
def test_kinds_of_strings(read_bytes: Read, type: pa.DataType) -> None:
    content = pack(_id=pa.array(["é", "2"], type), text=pa.array(["texté", None], type))
    document, rejected = read_bytes("a.parquet", content)
    assert (document.id, document.text) == ("é", "texté")
    assert (rejected.reason, rejected.id) == (Reason.EMPTY_TEXT, "2")


def test_dictionaries_of_strings(read_bytes: Read) -> None:
    content = pack(_id=["1", "2", "3"], text=pa.array(["a", None, "a"]).dictionary_encode())
    items = read_bytes("a.parquet", content)
    assert [getattr(item, "reason", item.text) for item in items] == ["a", Reason.EMPTY_TEXT, "a"]


@pytest.mark.parametrize("type", [pa.int8(), pa.int32(), pa.int64(), pa.uint64()])
def test_integers_are_ids(read_bytes: Read, type: pa.DataType) -> None:
    items = read_bytes("a.parquet", pack(_id=pa.array([0, 7, None], type), text=["a", "b", "c"]))
    assert [getattr(item, "reason", item.id) for item in items] == ["0", "7", Reason.NO_ID]


@pytest.mark.parametrize(
    "column",
    [pa.array([1, 2]), pa.array([1.5, 2.5]), pa.array([["a"], ["b"]]), pa.array([{"a": 1}, {"a": 2}])],
    ids=str,
)
def test_text_of_another_type_is_rejected(read_bytes: Read, column: pa.Array) -> None:
    items = read_bytes("a.parquet", pack(_id=["1", "2"], text=column))
    assert [(item.reason, item.id) for item in items] == [(Reason.WRONG_TYPE, "1"), (Reason.WRONG_TYPE, "2")]


def test_floats_are_no_ids(read_bytes: Read) -> None:
    items = read_bytes("a.parquet", pack(_id=[1.0, float("nan")], text=["a", "b"]))
    assert [item.reason for item in items] == [Reason.WRONG_TYPE, Reason.WRONG_TYPE]


NANOSECOND = 1_700_000_000_000_000_001


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.5]), 1.5),
        (pa.array([float("nan")]), None),
        (pa.array([True]), True),
        (pa.array([2**63], pa.uint64()), 2**63),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array([date(2024, 2, 29)]), "2024-02-29"),
        (pa.array([NANOSECOND], pa.timestamp("ns")), "2023-11-14T22:13:20.000000001"),
        (pa.array([0], pa.timestamp("s", tz="UTC")), "1970-01-01T00:00:00.000Z"),
        (pa.array([253_402_300_800_000], pa.timestamp("ms")), "10000-01-01T00:00:00.000"),
        (pa.array([timedelta(seconds=90)]), "0:01:30"),
        (pa.array([b"\xff\x00"]), "/wA="),
        (pa.array([["a", None]]), ["a", None]),
        (pa.array([{"a": 1, "b": [1.5]}]), {"a": 1, "b": [1.5]}),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
        (pa.array([[[0.5, 1.5]]], pa.list_(pa.list_(pa.float32(), 2))), [[0.5, 1.5]]),
        (pa.nulls(1), None),
    ],
    ids=str,
)
def test_metadata_are_what_a_reader_expects(read_bytes: Read, column: pa.Array, expected: object) -> None:
    (item,) = read_bytes("a.parquet", pack(_id=["1"], text=["a"], m=column))
    assert json.loads(item.metadata) == ({} if expected is None else {"m": expected})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NANOSECOND] * 2, pa.duration("ns")),
        pa.array([1, 2], pa.time64("ns")),
        pa.array([[NANOSECOND]] * 2, pa.list_(pa.timestamp("ns"))),
        pa.array([[10**15]] * 2, pa.list_(pa.timestamp("ms"))),
        pa.array([{"at": NANOSECOND}] * 2, pa.struct([("at", pa.timestamp("ns"))])),
        pa.array([10**9] * 2, pa.date32()),
        pa.array([10**18] * 2, pa.duration("s")),
        pa.ListArray.from_arrays([0, 1, 2], bad_strings([BAD, b"good"])),
        pa.StructArray.from_arrays([bad_strings([BAD, b"good"])], ["inner"]),
        bad_strings([BAD, b"good"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_values_that_python_lacks_stop_nothing(read_bytes: Read, column: pa.Array) -> None:
    """Metadata that cannot be kept may cost the document, never the file."""
    items = read_bytes("a.parquet", pack(_id=["1", "2"], text=["a", "b"], m=column))
    assert [(item.id, item.offset) for item in items] == [("1", 0), ("2", 1)]
    assert {item.reason for item in items if isinstance(item, Rejected)} <= {Reason.NOT_UTF8}


def test_what_surrounds_an_unconvertible_value_is_kept(read_bytes: Read) -> None:
    type = pa.struct([("at", pa.list_(pa.timestamp("ms"))), ("day", pa.date32()), ("name", pa.string())])
    column = pa.array([{"at": [0, 10**15], "day": 10**9, "name": "n"}], type)
    (item,) = read_bytes("a.parquet", pack(_id=["1"], text=["a"], m=column))
    expected = {"m": {"at": ["1970-01-01T00:00:00", 10**15], "day": 10**9, "name": "n"}}
    assert json.loads(item.metadata) == expected


def test_a_bad_string_inside_a_list_is_named(read_bytes: Read) -> None:
    column = pa.ListArray.from_arrays([0, 1, 2], bad_strings([BAD, b"good"]))
    bad, good = read_bytes("a.parquet", pack(_id=["1", "2"], text=["a", "b"], m=column))
    assert (bad.reason, good.metadata) == (Reason.NOT_UTF8, '{"m":["good"]}')


@pytest.mark.parametrize("type", [pa.string(), pa.large_string()])
def test_a_string_that_is_no_utf8_costs_only_its_row(read_bytes: Read, type: pa.DataType) -> None:
    content = pack(_id=["1", "2", "3", "4"], text=bad_strings([b"one", BAD, None, "é".encode()], type))
    items = read_bytes("a.parquet", content)
    assert [getattr(item, "reason", item.text) for item in items] == [
        "one", Reason.NOT_UTF8, Reason.EMPTY_TEXT, "é",
    ]  # fmt: skip


def test_binary_that_is_no_utf8_costs_only_its_row(read_bytes: Read) -> None:
    items = read_bytes("a.parquet", pack(_id=["1", "2"], text=[BAD, b"two"]))
    assert [getattr(item, "reason", item.text) for item in items] == [Reason.NOT_UTF8, "two"]


def test_a_text_too_long_costs_only_its_row(read_bytes: Read) -> None:
    items = read_bytes("a.parquet", pack(_id=["1", "2"], text=["x" * 1_001, "two"]), max_text_chars=1_000)
    assert [getattr(item, "reason", item.text) for item in items] == [Reason.TOO_LONG, "two"]


def test_columns_that_are_not_asked_for_are_left_unread(read_bytes: Read) -> None:
    content = pack(_id=["1"], text=["a"], url=["u"], other=["o"])
    (item,) = read_bytes("a.parquet", content, FieldMap(text="text", id="_id", metadata=("url", "absent")))
    assert item.metadata == '{"url":"u"}'


def test_a_column_with_a_dot_in_its_name(read_bytes: Read) -> None:
    content = pack(**{"_id": ["1"], "body.text": ["a"], "body": ["b"]})
    (item,) = read_bytes("a.parquet", content, FieldMap(text="body.text", id="_id", metadata=()))
    assert (item.text, item.metadata) == ("a", "{}")


def test_no_such_column_rejects_every_row(read_bytes: Read) -> None:
    content = pack(other=["a", "b"])
    for fields in (FieldMap(text="text"), FieldMap(text="text", metadata=())):
        assert [item.reason for item in read_bytes("a.parquet", content, fields)] == [Reason.NO_TEXT] * 2


@pytest.mark.parametrize("content", [b"", pack(_id=pa.array([], pa.string()), text=pa.array([], pa.string()))])
def test_no_rows_are_no_items(read_bytes: Read, content: bytes) -> None:
    assert read_bytes("a.parquet", content) == []


def test_a_file_that_is_not_parquet_is_one_rejection(read_bytes: Read) -> None:
    content = pack(_id=["1"], text=["a"])
    for broken in (b"PAR1", b"no parquet at all", content[:-1], content[: len(content) // 2]):
        (item,) = read_bytes("a.parquet", broken)
        assert (item.reason, item.offset) == (Reason.UNREADABLE, 0)


def test_damage_in_the_middle_gives_what_was_read_and_one_rejection(read_bytes: Read) -> None:
    numbers = [str(i * 2_654_435_761 % 2**24) for i in range(9)]
    content = bytearray(pack(_id=numbers, text=[f"text {number}" for number in numbers]))
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0).dictionary_page_offset
    content[start : start + 40] = b"\xff" * 40
    *read, last = read_bytes("a.parquet", bytes(content))
    assert [item.id for item in read] == numbers[:3]
    assert (last.reason, last.offset) == (Reason.UNREADABLE, 3)
