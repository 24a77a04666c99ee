"""Which texts share a forward pass: each exactly once, within the budget, and the passes nearly full."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.batch import packed_batches, padded_batches, slots_of

lengths_of_texts = st.lists(st.integers(0, 300) | st.integers(0, 20), max_size=80)
budgets = st.integers(1, 500)
Batches = Callable[..., list[list[int]]]


@pytest.mark.parametrize("batches", [packed_batches, padded_batches])
@settings(deadline=None)
@given(lengths=lengths_of_texts, max_tokens=budgets)
def test_every_text_exactly_once(batches: Batches, lengths: list[int], max_tokens: int) -> None:
    groups = batches(lengths, max_tokens=max_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(groups)
    assert groups == batches(lengths, max_tokens=max_tokens)


@settings(deadline=None)
@given(lengths=lengths_of_texts, max_tokens=budgets)
def test_packed_within_the_budget_and_nearly_full(lengths: list[int], max_tokens: int) -> None:
    groups = packed_batches(lengths, max_tokens=max_tokens)
    sizes = [sum(lengths[index] for index in group) for group in groups]
    for group, size in zip(groups, sizes, strict=True):
        assert size <= max_tokens or len([index for index in group if lengths[index]]) == 1
    alone = [length for length in lengths if length >= max_tokens]
    others = sum(length for length in lengths if length < max_tokens)
    least = len(alone) + -(-others // max_tokens)
    assert len([size for size in sizes if size]) <= 2 * least
    assert sum(size * 2 <= max_tokens for size in sizes if size) <= 1


@settings(deadline=None)
@given(lengths=lengths_of_texts, max_tokens=budgets)
def test_padded_within_the_budget_and_little_padding(lengths: list[int], max_tokens: int) -> None:
    groups = padded_batches(lengths, max_tokens=max_tokens)
    for group in groups:
        assert len(group) * lengths[group[0]] <= max_tokens or len(group) == 1
        assert lengths[group[0]] == max(lengths[index] for index in group)
    ordered = [lengths[index] for group in groups for index in group]
    assert ordered == sorted(lengths, reverse=True)
    for group in groups[:-1]:
        assert (len(group) + 1) * lengths[group[0]] > max_tokens


@pytest.mark.parametrize("batches", [packed_batches, padded_batches])
def test_no_texts_no_groups(batches: Batches) -> None:
    assert batches([], max_tokens=64) == []


@pytest.mark.parametrize("batches", [packed_batches, padded_batches])
def test_the_longest_comes_first(batches: Batches) -> None:
    assert batches([3, 900, 5, 40], max_tokens=64)[0] == [1]


def test_texts_that_fill_a_pass_exactly() -> None:
    assert packed_batches([32, 16, 64, 16], max_tokens=64) == [[2], [0, 1, 3]]
    assert padded_batches([32, 16, 64, 16, 32], max_tokens=64) == [[2], [0, 4], [1, 3]]


def test_slots_count_the_padding() -> None:
    assert slots_of([[0, 1], [2], []], [10, 4, 7]) == 27
