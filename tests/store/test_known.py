"""What the comparison gets of a table: every row once, whether it was read whole or in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flows.compare import divide
from pipeline.records import content_hash, id_hash
from pipeline.store.database import Database
from pipeline.store.diff import decide
from pipeline.store.hashes import ID_HASH, as_hashes, as_id_hashes
from pipeline.store.known import KnownRows, absent_ids, count_documents, hash_documents, join_known, read_known
from tests.store.sample import Row, store

_ROWS = [Row("a", 0, "", "x"), Row("a", 1, "", "x"), Row("b", 0, "", "y"), Row("é" * 40, 0, "", "z")]


def test_ids_are_hashed_by_the_table_as_they_are_in_the_corpus(database: Database) -> None:
    ids = [
        "a",
        "b\0",
        "\0",
        " ",
        "'",
        "x" * 200,
        "é" * 63,
        "e\u0301",
        "\U0001f600",
        "\ufeff",
        "NULL",
        "1",
        "doc-000000001",
    ]
    dataset = store(database, [Row(id) for id in ids])
    dataset.delete("id = '1'")
    ids.remove("1")
    assert read_known(dataset).ids.tolist() == as_hashes(b"".join(map(id_hash, ids))).tolist()
    (batch,) = dataset.scanner(columns={"id_hash": ID_HASH}).to_batches()
    for skipped in range(len(ids)):  # whatever stands before them in their buffer
        some = as_id_hashes(batch.column("id_hash").slice(skipped))
        assert some.tolist() == as_hashes(b"".join(map(id_hash, ids[skipped:]))).tolist()


def test_what_a_table_holds_is_read_back(database: Database) -> None:
    known = read_known(store(database, _ROWS))
    assert known.ids.tolist() == as_hashes(b"".join(id_hash(row.id) for row in _ROWS)).tolist()
    assert known.contents.tolist() == as_hashes(b"".join(content_hash("", r.text, "{}") for r in _ROWS)).tolist()
    assert known.chunks.tolist() == [0, 1, 0, 0]
    assert len(set(known.row_ids.tolist())) == 4


def test_parts_hold_together_what_the_table_holds(database: Database) -> None:
    for row in _ROWS:
        dataset = store(database, [row])
    dataset.delete("id = 'b'")
    whole = read_known(dataset)
    numbers = [fragment.fragment_id for fragment in dataset.get_fragments()]
    joined = join_known([read_known(dataset, fragments=part) for part in (numbers[:1], numbers[1:])])
    assert len(joined.ids) == 3
    for name in ("ids", "contents", "chunks", "row_ids"):
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist()
        assert getattr(joined, name).dtype == getattr(whole, name).dtype


def test_documents_are_counted_and_hashed_whatever_the_order_of_rows(database: Database) -> None:
    known = read_known(store(database, _ROWS))
    turned = KnownRows(known.ids[::-1], known.contents[::-1], known.chunks[::-1], known.row_ids[::-1])
    assert count_documents(known) == count_documents(turned) == 3
    assert hash_documents(known) == hash_documents(turned)
    less = KnownRows(known.ids[:2], known.contents[:2], known.chunks[:2], known.row_ids[:2])
    assert hash_documents(less) != hash_documents(known)
    other = KnownRows(known.ids, known.contents[::-1], known.chunks, known.row_ids)
    assert hash_documents(other) != hash_documents(known)


def test_ids_that_no_row_has(database: Database) -> None:
    known = read_known(store(database, _ROWS))
    assert absent_ids(known, ["z", "a", "é" * 40, "y", "b"]) == ["z", "y"]
    assert absent_ids(known, []) == []
    assert absent_ids(join_known([]), ["a"]) == ["a"]


def test_an_empty_table_knows_nothing(database: Database) -> None:
    for known in (read_known(store(database, [])), join_known([])):
        assert [len(known.ids), len(known.contents), len(known.chunks), len(known.row_ids)] == [0, 0, 0, 0]
        assert decide([], [known], delete_missing=True).num_selected == 0


@given(rows=st.lists(st.integers(0, 3_000_000), max_size=60), most=st.integers(1, 9))
def test_every_fragment_is_in_one_part(rows: list[int], most: int) -> None:
    parts = divide(rows, most=most)
    assert [place for part in parts for place in part] == list(range(len(rows)))
    assert len(parts) <= max(most, -(-sum(rows) // 2**24)), "more parts than were asked for, and none too large"
    assert all(parts)


@pytest.mark.parametrize(
    ("rows", "num_parts"), [([500_000], 1), ([10**6] * 4, 2), ([100] * 8, 1), ([10**6] * 9, 4), ([10**6] * 100, 6)]
)
def test_parts_are_worth_a_task(rows: list[int], num_parts: int) -> None:
    parts = divide(rows, most=4)
    assert len(parts) == num_parts
    held = [int(np.array(rows)[part].sum()) for part in parts]
    assert max(held) - min(held) <= max(rows)
