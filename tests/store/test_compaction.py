"""The policy: every row once and in order, never too large, done when it says so, and cheap over the nights."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.compaction import MAX_ROWS, CompactionBounds, FragmentSize, choose_runs

BOUNDS = CompactionBounds(max_bytes=2 * 2**30)
ROW_BYTES = 2_000
# What covers a fragment: nothing, or the parts of its indexes.
SEGMENTS = st.sampled_from([frozenset[str](), frozenset({"a"}), frozenset({"a", "b"})])


@st.composite
def sizes(draw: st.DrawFn) -> FragmentSize:
    num_rows = draw(st.one_of(st.integers(1, 200), st.integers(1, 2 * MAX_ROWS)))
    num_deleted = draw(st.one_of(st.just(0), st.integers(0, num_rows)))
    num_bytes = num_rows * draw(st.sampled_from([1, 500, ROW_BYTES, 20_000]))
    return FragmentSize(0, num_rows, num_deleted, num_bytes, draw(SEGMENTS))


@st.composite
def tables(draw: st.DrawFn) -> list[FragmentSize]:
    """Stretches of like fragments, as runs write them, with others between."""
    stretches = draw(st.lists(st.tuples(sizes(), st.integers(1, 60)), max_size=8))
    every = [size for size, times in stretches for _ in range(times)]
    return [replace(size, number=number) for number, size in enumerate(every)]


bounds = st.builds(
    CompactionBounds,
    max_bytes=st.sampled_from([2**20, 2**31]),
    max_rows=st.sampled_from([1_000, MAX_ROWS]),
    min_fragments=st.sampled_from([2, 4, 16]),
)


def applied(table: Sequence[FragmentSize], runs: Sequence[tuple[int, ...]]) -> list[FragmentSize]:
    """What the table is afterwards."""
    first = {run[0]: run for run in runs}
    gone = {number for run in runs for number in run}
    by_number = {size.number: size for size in table}
    after = []
    for size in table:
        if size.number in first:
            after.append(_merged([by_number[number] for number in first[size.number]]))
        elif size.number not in gone:
            after.append(size)
    return after


def _merged(some: Sequence[FragmentSize]) -> FragmentSize:
    num_bytes = sum(round(size.num_bytes * size.num_left / size.num_rows) for size in some)
    return FragmentSize(some[0].number, sum(size.num_left for size in some), 0, num_bytes, some[0].segments)


def is_due(size: FragmentSize, found: CompactionBounds) -> bool:
    return size.num_deleted > found.max_deleted * size.num_rows


@given(table=tables(), found=bounds)
def test_runs_are_neighbours_of_one_kind_each_once_and_never_too_large(
    table: list[FragmentSize], found: CompactionBounds
) -> None:
    runs = choose_runs(table, found)
    taken = [number for run in runs for number in run]
    assert len(set(taken)) == len(taken)
    for run in runs:
        some = table[run[0] : run[-1] + 1]
        assert [size.number for size in some] == list(run)
        assert len({size.segments for size in some}) == 1
        if len(run) == 1:
            assert is_due(some[0], found)
        else:
            assert sum(size.num_left for size in some) <= found.max_rows * (1 + 1e-9) + 1
            assert sum(size.num_left * size.num_bytes / size.num_rows for size in some) <= found.max_bytes * (1 + 1e-9) + len(some)  # fmt: skip  # noqa: E501
    assert sum(size.num_left for size in applied(table, runs)) == sum(size.num_left for size in table)


@given(table=tables(), found=bounds)
def test_once_done_there_is_nothing_left_to_do(table: list[FragmentSize], found: CompactionBounds) -> None:
    table = [size for size in table if size.num_left]  # Lance drops the others as they are emptied
    after = applied(table, choose_runs(table, found))
    assert choose_runs(after, found) == []


@given(table=tables(), found=bounds)
def test_a_row_is_written_again_only_for_a_fragment_that_is_much_larger(
    table: list[FragmentSize], found: CompactionBounds
) -> None:
    def share(some: Sequence[FragmentSize]) -> float:
        num_bytes = sum(size.num_left * size.num_bytes / size.num_rows for size in some)
        return max(num_bytes / found.max_bytes, sum(size.num_left for size in some) / found.max_rows)

    for run in choose_runs(table, found):
        some = [table[number] for number in run]
        if any(is_due(size, found) for size in some):
            continue
        # bytes and rows are both counted, so a mixture may fill up by half of either
        assert share(some) >= found.min_fragments / 2 * max(share([size]) for size in some) * (1 - 1e-9)


def fresh(first: int, num_rows: int, window: int) -> Iterator[FragmentSize]:
    for place, begin in enumerate(range(0, num_rows, window)):
        rows = min(window, num_rows - begin)
        yield FragmentSize(first + place, rows, 0, rows * ROW_BYTES)


@pytest.mark.parametrize(("window", "most"), [(64, 4), (2_048, 4), (4_096, 4)])
def test_of_a_first_run_few_fragments_are_left(window: int, most: int) -> None:
    table = list(fresh(0, 1_000_000, window))
    after = applied(table, choose_runs(table, BOUNDS))
    assert len(after) == most
    assert max(size.num_rows for size in after) <= MAX_ROWS


@pytest.mark.parametrize("num_fragments", [0, 1, 15])
def test_few_are_left_alone(num_fragments: int) -> None:
    assert choose_runs(list(fresh(0, num_fragments * 64, 64)), BOUNDS) == []


def test_bytes_bound_a_fragment_whose_rows_are_long() -> None:
    table = [replace(size, num_bytes=size.num_rows * 20_000) for size in fresh(0, 1_000_000, 2_048)]
    after = applied(table, choose_runs(table, BOUNDS))
    assert 10 <= len(after) <= 11
    assert max(size.num_bytes for size in after) <= BOUNDS.max_bytes


def test_what_is_mostly_deleted_is_rewritten_and_neighbours_of_it_join() -> None:
    full, holey = FragmentSize(0, 100_000, 0, 2**28), FragmentSize(0, 100_000, 30_001, 2**28)
    table = [replace(size, number=number) for number, size in enumerate([full, holey, full, holey, holey])]
    assert choose_runs(table, BOUNDS) == [(1,), (3, 4)]
    kept = [replace(size, num_deleted=min(size.num_deleted, 30_000)) for size in table]
    assert choose_runs(kept, BOUNDS) == []


def test_an_index_is_not_written_anew_for_a_few_rows() -> None:
    covered = frozenset({"one"})
    large = [FragmentSize(number, 200_000, 0, 2**29, covered) for number in range(50)]
    small = [FragmentSize(50 + number, 1_000, 0, 2**20, covered) for number in range(40)]
    assert choose_runs([*large, *small], BOUNDS) == []
    assert choose_runs([*large, *(replace(size, segments=frozenset()) for size in small)], BOUNDS) == [
        tuple(range(50, 90))
    ]
    enough = [replace(small[0], number=50 + number, num_rows=7_000) for number in range(120)]
    runs = choose_runs([*large, *enough], BOUNDS)
    assert [number for run in runs for number in run] == list(range(50, 170))


@pytest.mark.parametrize("window", [64, 2_048])
def test_over_a_year_of_nights_it_costs_little_and_fragments_stay_few(window: int) -> None:
    """One document in a hundred changes each night; indexes get a part a night, and are made one every 16th."""
    draw = random.Random(1)
    table = list(fresh(0, 1_000_000, window))
    written, rewritten, most, nightly = 1_000_000, 0, 0, []
    number, num_segments = len(table), 0
    for night in range(365):
        if night:
            table = [_some_deleted(size, draw) for size in table]
            table += fresh(number, 10_000, window)
            number += math.ceil(10_000 / window)
            written += 10_000
        runs = choose_runs(table, BOUNDS)
        cost = sum(size.num_left for size in table for run in runs if size.number in run)
        rewritten += cost
        nightly.append(cost)
        table = applied(table, runs)
        num_segments = 1 if num_segments >= 16 else num_segments + 1
        whole = num_segments == 1
        table = [
            replace(size, segments=frozenset({f"merged {night}" if whole else f"added {night}"}))
            if whole or not size.segments
            else size
            for size in table
        ]
        most = max(most, len(table))
    assert most <= 120
    # of 4.6 million written rows, and as many deleted
    assert rewritten <= (3 if window == 64 else 1) * written + 2.4 * 3_640_000
    # four nights of five rewrite at most what they have written
    assert sum(cost > 10_000 for cost in nightly) <= 365 / 4


def _some_deleted(size: FragmentSize, draw: random.Random) -> FragmentSize:
    gone = round(size.num_left * 0.01 + draw.random() - 0.5)
    return replace(size, num_deleted=size.num_deleted + max(0, gone))
