"""The diff against a plain dictionary: whatever the corpus and the table, what is left afterwards is the corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import content_hash, id_hash
from pipeline.store.buckets import count_bits, split_documents, split_rows
from pipeline.store.diff import Plan, assemble, decide, describe
from pipeline.store.hashes import ShardScan, as_hashes
from pipeline.store.known import KnownRows
from pipeline.store.verdicts import decide_bucket

# (id, content): few of each, so that every coincidence happens
Pair = tuple[str, str]
_PAIRS = st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"))
_SHARDS = st.lists(st.lists(_PAIRS, max_size=6), max_size=4)
# a row of the table: a document's chunk
_ROWS = st.lists(st.tuples(_PAIRS, st.integers(0, 2)), max_size=14)


@dataclass(frozen=True)
class Expected:
    """The same plan, by dictionaries."""

    selected: list[list[bool]]
    duplicates: list[list[bool]]
    first_shards: list[list[int]]
    obsolete: list[int]
    num_unchanged: int
    num_deleted: int
    num_changed: int
    num_known: int


def _scan(documents: list[Pair]) -> ShardScan:
    return ShardScan(
        as_hashes(b"".join(id_hash(name) for name, _ in documents)),
        as_hashes(b"".join(content_hash("", text, "{}") for _, text in documents)),
    )


def _known(rows: list[tuple[Pair, int]]) -> KnownRows:
    scan = _scan([pair for pair, _ in rows])
    chunks = np.array([chunk for _, chunk in rows], np.int32)
    return KnownRows(scan.ids, scan.contents, chunks, np.arange(100, 100 + len(rows), dtype=np.uint64))


def _by_hand(shards: list[list[Pair]], rows: list[tuple[Pair, int]], *, delete_missing: bool) -> Expected:
    wanted: dict[str, str] = {}
    first_in: dict[str, int] = {}
    duplicates: list[list[bool]] = []
    first_shards: list[list[int]] = []
    for number, shard in enumerate(shards):
        duplicates.append([])
        first_shards.append([])
        for name, text in shard:
            duplicates[-1].append(name in wanted)
            first_shards[-1] += [first_in[name]] if name in wanted else []
            wanted.setdefault(name, text)
            first_in.setdefault(name, number)
    present = {pair for pair, _ in rows}
    in_table = {name for name, _ in present}
    kept: set[tuple[Pair, int]] = set()
    obsolete = []
    for number, ((name, text), chunk) in enumerate(rows, 100):
        stays = wanted[name] == text if name in wanted else not delete_missing
        if not stays or ((name, text), chunk) in kept:
            obsolete.append(number)
        else:
            kept.add(((name, text), chunk))
    encode = {name for name, text in wanted.items() if (name, text) not in present}
    return Expected(
        selected=[
            [name in encode and not again for (name, _), again in zip(shard, repeated, strict=True)]
            for shard, repeated in zip(shards, duplicates, strict=True)
        ],
        duplicates=duplicates,
        first_shards=first_shards,
        obsolete=obsolete,
        num_unchanged=len(wanted) - len(encode),
        num_deleted=len(in_table - wanted.keys()) if delete_missing else 0,
        num_changed=len(encode & in_table),
        num_known=len(in_table),
    )


def _as_expected(plan: Plan) -> Expected:
    return Expected(
        [mask.tolist() for mask in plan.selected], [mask.tolist() for mask in plan.duplicates],
        [firsts.tolist() for firsts in plan.first_shards],
        plan.obsolete.tolist(), plan.num_unchanged, plan.num_deleted, plan.num_changed, plan.num_known,
    )  # fmt: skip


@given(shards=_SHARDS, rows=_ROWS, delete_missing=st.booleans())
def test_it_decides_as_dictionaries_do(
    shards: list[list[Pair]], rows: list[tuple[Pair, int]], delete_missing: bool
) -> None:
    plan = decide([_scan(shard) for shard in shards], [_known(rows)], delete_missing=delete_missing)
    assert _as_expected(plan) == _by_hand(shards, rows, delete_missing=delete_missing)
    assert plan.num_selected == sum(map(sum, _as_expected(plan).selected))


_FAR = (0, 2**63 + 1, 2**64 - 1)
# these lie mixed wherever fewer than 64 bits decide their order
_NEAR = (2**63, 2**63 + 1, 2**63 + 2**16 - 1)


def _colliding(documents: list[Pair], halves: tuple[int, int, int] = _FAR) -> ShardScan:
    """As `_scan`, with hashes that agree in one half or the other, and lie in few buckets."""
    ids = [(halves["abcdef".index(name) // 2], halves["abcdef".index(name) % 2]) for name, _ in documents]
    contents = [(halves["xyz".index(text) // 2], halves["xyz".index(text) % 2]) for _, text in documents]
    return ShardScan(np.array(ids, np.uint64).reshape(-1, 2), np.array(contents, np.uint64).reshape(-1, 2))


@settings(deadline=None)  # many small buckets
@given(
    shards=_SHARDS, rows=_ROWS, delete_missing=st.booleans(), bucket=st.sampled_from([1, 4, 2**20]),
    halves=st.sampled_from([_FAR, _NEAR]),
)  # fmt: skip
def test_hashes_that_share_a_half_are_told_apart(
    shards: list[list[Pair]], rows: list[tuple[Pair, int]], delete_missing: bool, bucket: int,
    halves: tuple[int, int, int],
) -> None:  # fmt: skip
    known, hashes = _known(rows), _colliding([pair for pair, _ in rows], halves)
    known = replace(known, ids=hashes.ids, contents=hashes.contents)
    scans = [_colliding(shard, halves) for shard in shards]
    plan = decide(scans, [known], delete_missing=delete_missing, entries_a_bucket=bucket)
    assert _as_expected(plan) == _by_hand(shards, rows, delete_missing=delete_missing)


@settings(deadline=None)  # many small buckets
@given(
    shards=_SHARDS, rows=_ROWS, delete_missing=st.booleans(), at=st.integers(0, 14), bucket=st.sampled_from([2, 5, 30])
)
def test_buckets_and_parts_change_nothing(
    shards: list[list[Pair]], rows: list[tuple[Pair, int]], delete_missing: bool, at: int, bucket: int
) -> None:
    scans, known = [_scan(shard) for shard in shards], _in_parts(_known(rows), [at])
    plan = decide(scans, known, delete_missing=delete_missing, entries_a_bucket=bucket)
    assert _as_expected(plan) == _by_hand(shards, rows, delete_missing=delete_missing)


def _in_parts(rows: KnownRows, cuts: list[int]) -> list[KnownRows]:
    bounds = [0, *sorted(cuts), len(rows.ids)]
    return [
        KnownRows(rows.ids[at], rows.contents[at], rows.chunks[at], rows.row_ids[at])
        for at in map(slice, bounds, bounds[1:])
    ]


@settings(deadline=None)  # many small buckets
@given(
    data=st.data(),
    shards=_SHARDS,
    rows=_ROWS,
    num_bits=st.integers(0, 4),
    at_once=st.sampled_from([1, 3, 2**16]),
    delete_missing=st.booleans(),
    make=st.sampled_from([_scan, _colliding]),
)
def test_what_is_shuffled_comes_to_the_same_plan(
    data: st.DataObject,
    shards: list[list[Pair]],
    rows: list[tuple[Pair, int]],
    num_bits: int,
    at_once: int,
    delete_missing: bool,
    make: Callable[[list[Pair]], ShardScan],
) -> None:
    scans, hashes = [make(shard) for shard in shards], make([pair for pair, _ in rows])
    known = replace(_known(rows), ids=hashes.ids, contents=hashes.contents)
    # packs hold shards in any order, and verdicts come in any
    order = data.draw(st.permutations(list(enumerate(scans))))
    at = data.draw(st.integers(0, len(order)))
    documents = [split_documents(pack, num_bits=num_bits) for pack in (order[:at], order[at:])]
    parts = _in_parts(known, data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    table = [split_rows(part, num_bits=num_bits) for part in parts]
    verdicts = [
        decide_bucket(pieces[:2], pieces[2:], delete_missing=delete_missing, entries_at_once=at_once)
        for pieces in zip(*documents, *table, strict=True)
    ]
    assert len(verdicts) == 2**num_bits
    plan = assemble([describe(scan) for scan in scans], data.draw(st.permutations(verdicts)))
    here = decide(scans, [known], delete_missing=delete_missing)
    assert _as_expected(plan) == _as_expected(here) == _by_hand(shards, rows, delete_missing=delete_missing)
    assert plan.digests == [scan.digest() for scan in scans]
    # of what is not read again, nobody asks
    reads = [mask.any() for mask in here.selected]
    assert here.digests == [scan.digest() if is_read else b"" for scan, is_read in zip(scans, reads, strict=True)]
    for masks in (plan.selected, plan.duplicates, here.selected, here.duplicates):
        assert {mask.dtype for mask in masks} <= {np.dtype(np.bool_)}


def test_more_buckets_than_a_byte_numbers_lose_nothing() -> None:
    shards = [[(f"d{number % 400}", "x") for number in range(begin, begin + 300)] for begin in (0, 300)]
    rows = [((f"d{number}", "x" if number % 2 else "y"), 0) for number in range(350, 700)]
    plan = decide([_scan(shard) for shard in shards], [_known(rows)], delete_missing=True, entries_a_bucket=2)
    assert _as_expected(plan) == _by_hand(shards, rows, delete_missing=True)


@pytest.mark.parametrize(
    ("num_entries", "entries_a_bucket", "num_buckets"),
    [(0, 8, 1), (7, 8, 1), (8, 8, 2), (16, 8, 4), (100, 8, 16), (10**6, 1, 2**16)],
)
def test_buckets_are_as_many_as_entries_need_and_two_bytes_number(
    num_entries: int, entries_a_bucket: int, num_buckets: int
) -> None:
    assert 2 ** count_bits(num_entries, entries_a_bucket=entries_a_bucket) == num_buckets


def test_of_one_bucket_nothing_is_copied() -> None:
    scan, known = _scan([("a", "x"), ("b", "y")]), _known([(("a", "x"), 0)])
    (documents,) = split_documents([(3, scan)], num_bits=0)
    (rows,) = split_rows(known, num_bits=0)
    assert np.shares_memory(documents.ids, scan.ids)
    assert np.shares_memory(documents.contents, scan.contents)
    assert np.shares_memory(rows.ids, known.ids)
    assert documents.places.tolist() == [3 << 32, (3 << 32) + 1]


def test_a_digest_changes_with_ids_contents_and_order() -> None:
    scans = [[("a", "x"), ("b", "x")], [("b", "x"), ("a", "x")], [("a", "x"), ("b", "y")], [("a", "x")], []]
    assert len({_scan(scan).digest() for scan in scans}) == len(scans)
    assert decide([_scan(scans[0])], [_known([])], delete_missing=True).digests == [_scan(scans[0]).digest()]


@given(shards=_SHARDS, rows=_ROWS)
def test_what_is_left_is_the_corpus(shards: list[list[Pair]], rows: list[tuple[Pair, int]]) -> None:
    plan = decide([_scan(shard) for shard in shards], [_known(rows)], delete_missing=True)
    gone = set(plan.obsolete.tolist())
    left = {pair for number, (pair, _) in enumerate(rows, 100) if number not in gone}
    encoded = {
        pair
        for shard, mask in zip(shards, plan.selected, strict=True)
        for pair, chosen in zip(shard, mask, strict=True)
        if chosen
    }
    wanted: dict[str, str] = {}
    for name, text in (pair for shard in shards for pair in shard):
        wanted.setdefault(name, text)
    assert dict(sorted(left | encoded)) == dict(sorted(wanted.items()))
    assert len(left | encoded) == len(left) + len(encoded) == len(wanted)
    counts = plan.num_unchanged + plan.num_selected + sum(int(mask.sum()) for mask in plan.duplicates)
    assert counts == sum(map(len, shards))


@given(shards=_SHARDS)
def test_a_second_run_has_nothing_to_do(shards: list[list[Pair]]) -> None:
    wanted: dict[str, str] = {}
    for name, text in (pair for shard in shards for pair in shard):
        wanted.setdefault(name, text)
    rows = [(pair, chunk) for pair in wanted.items() for chunk in range(3)]
    plan = decide([_scan(shard) for shard in shards], [_known(rows)], delete_missing=True)
    assert (plan.num_selected, plan.obsolete.tolist(), plan.num_unchanged) == (0, [], len(wanted))
