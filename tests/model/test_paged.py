"""Attention over pages: the layout of a step, and results that are plain causal attention's, request by request."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.model import paged
from pipeline.model.paged_cpu import attend_pages, current_step, lay_out
from tests.model import test_continuous as continuous

PAGE = 4
HEADS, KV_HEADS, SIZE = 6, 2, 8
# (new tokens, all tokens): writing one each, a prompt from its beginning, and one in the middle
MIXED = [(1, 9), (1, 1), (7, 7), (1, 600), (3, 11), (1, 12), (1, 10), (1, 530)]


def _starts(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _slots(lengths: Sequence[int], *, seed: int = 0) -> tuple[list[int], int]:
    """Where each token lies, pages in no order, and how many pages there are."""
    num_pages = sum(-(-length // PAGE) for length in lengths)
    free = iter(torch.randperm(num_pages, generator=torch.Generator().manual_seed(seed)).tolist())
    tables = [[next(free) for _ in range(-(-length // PAGE))] for length in lengths]
    slots = [
        table[n // PAGE] * PAGE + n % PAGE for table, length in zip(tables, lengths, strict=True) for n in range(length)
    ]
    return slots, num_pages


def _plain(rows: list[Tensor], bounds: Sequence[Any], scale: float, *, first_to_first: bool = False) -> Tensor:
    """Causal attention by plain matrix products, a sequence's last query seeing its last key, or first the first."""
    query, key, value = rows
    out = torch.empty_like(query)
    for (low, high), (first, last) in zip(*(pairwise(map(int, b)) for b in bounds), strict=True):
        ahead = 0 if first_to_first else (last - first) - (high - low)
        for n in range(low, high):
            seen = slice(first, first + ahead + (n - low) + 1)
            for head in range(query.shape[1]):
                own = head // (query.shape[1] // key.shape[1])
                weights = torch.softmax(key[seen, own] @ query[n, head] * scale, 0)
                out[n, head] = weights @ value[seen, own]
    return out


@pytest.mark.parametrize("lengths", [MIXED, MIXED[:1], [(1, 8), (1, 8)], [(5, 5)]])
def test_pages_give_what_plain_products_give(lengths: list[tuple[int, int]]) -> None:
    new, all_of = zip(*lengths, strict=True)
    slots, num_pages = _slots(all_of)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(sum(new), HEADS, SIZE, generator=generator)
    pages = [torch.randn(num_pages, PAGE, KV_HEADS, SIZE, generator=generator) for _ in range(2)]
    bounds = _starts(new), _starts(all_of)
    own = [stored.view(-1, KV_HEADS, SIZE)[slots] for stored in pages]
    step = lay_out(*bounds, slots, page_tokens=PAGE)
    for scale in (None, 0.3):
        expected = _plain([query, *own], bounds, scale or SIZE**-0.5)
        got = attend_pages(query.transpose(0, 1)[None], pages[0], pages[1], step, scale=scale)
        torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-4)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 200)), min_size=1, max_size=40))
@settings(deadline=None)
def test_every_request_is_in_a_step_once_and_padding_is_bounded(drawn: list[tuple[int, int]]) -> None:
    new = [n for n, _ in drawn]
    all_of = [n + before for n, before in drawn]
    slots, _ = _slots(all_of)
    step = lay_out(_starts(new), _starts(all_of), slots, page_tokens=PAGE)
    rows = [int(row) for group in step.groups for row in group.rows]
    rows += [n for chunk in step.chunks for n in range(chunk.rows.start, chunk.rows.stop)]
    assert sorted(rows) == list(range(sum(new)))
    real = sum(math.ceil(length / PAGE) for n, length in zip(new, all_of, strict=True) if n == 1)
    assert sum(len(group.pages) for group in step.groups) * 7 / 8 <= real


def test_a_step_is_laid_out_once_for_all_layers() -> None:
    starts = torch.tensor([0, 1]), torch.tensor([0, 3])
    slots = torch.arange(3)
    first = current_step(*starts, slots, page_tokens=PAGE)
    assert current_step(*starts, slots, page_tokens=PAGE) is first
    assert current_step(starts[0].clone(), starts[1], slots, page_tokens=PAGE) is not first


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What torch's kernel promises, and refuses."""
    assert window_size == (-1, 0)
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert all(states.is_contiguous() for states in (query, key, value))
    assert all(starts.dtype is torch.int32 for starts in (cu_seq_q, cu_seq_k))
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
    assert (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max())) == (max_q, max_k)
    return _plain([query, key, value], (cu_seq_q, cu_seq_k), scale or query.shape[2] ** -0.5)


def test_one_call_for_all_requests_writes_what_generate_writes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _varlen)
    monkeypatch.setattr(paged, "takes_varlen", lambda *_: True)
    bundle = continuous._open(tiny)
    reasoner = continuous.ContinuousReasoner(bundle, device="cpu", threads=1)
    requests = continuous._requests(bundle, [6, 3, 5, 1, 4, 2])
    texts = [completion.text for completion in continuous._all(reasoner, requests)]
    reasoner.close()
    assert texts == continuous._alone(bundle, requests, reasoner.end_tokens)


@pytest.mark.parametrize("kernel", ["right", "aligned to the top", "refuses"])
def test_one_call_is_taken_only_where_it_is_right(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(_varlen)
    def call(query: Tensor, key: Tensor, value: Tensor, *bounds: Any, **options: Any) -> Tensor:
        if kernel == "refuses":
            raise RuntimeError("FlashAttention only supports fp16 and bf16")
        if kernel == "right":
            return _varlen(query, key, value, *bounds, **options)
        return _plain([query, key, value], bounds[:2], options["scale"], first_to_first=True)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", call)
    paged._varlen_is_right.cache_clear()
    ask = torch.device("cpu"), torch.float32, (HEADS, KV_HEADS, SIZE)
    try:
        if kernel == "right":
            assert paged._varlen_is_right(*ask)
        else:
            with pytest.warns(UserWarning, match="left out"):
                assert not paged._varlen_is_right(*ask)
    finally:
        paged._varlen_is_right.cache_clear()


def test_one_call_is_only_for_cuda() -> None:
    assert not paged.takes_varlen(torch.zeros(1, HEADS, 1, SIZE), torch.zeros(1, KV_HEADS, 1, SIZE))
