"""Attention over pages of a cache on CPU: requests that write one token each attend together, by few calls.

Where everything lies is worked out once a step, for all layers. Whole pages are copied out of the cache, into memory
that is kept: a fresh result of some megabytes a layer costs more in page faults than the copy does. Requests of about
one length attend in one call, each padded to the longest of its group. Called by `paged`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Of what a group reads, at most this share is padding: smaller groups cost calls, larger ones memory traffic.
_PADDING = 0.125


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of about one length, one new token each.

    Attributes:
        rows: [requests] int64: their queries among the step's.
        pages: [requests * pages of the longest] int64; a shorter one's last page comes again.
        num_keys: Keys of the longest.
        mask: [requests, 1, 1, num_keys]: minus infinity after a request's last key, else 0; None where there is none.
    """

    rows: Tensor
    pages: Tensor
    num_keys: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several new tokens of one request, such as its prompt: which of the step's, its pages, all of its keys."""

    rows: slice
    pages: Tensor
    num_keys: int


@dataclass(frozen=True, slots=True)
class Step:
    """Who attends to what, in every layer of a step."""

    groups: tuple[Group, ...]
    chunks: tuple[Chunk, ...]


class _Kept(threading.local):
    """What an engine's thread keeps: the step that it is in, and memory for keys and values of a group."""

    starts: Tensor | None = None
    step: Step | None = None
    memory: tuple[Tensor, Tensor] | None = None


_kept = _Kept()


def current_step(query_starts: Tensor, key_starts: Tensor, slots: Tensor, *, page_tokens: int) -> Step:
    """The layout that `lay_out` makes, made by the step's first layer: all layers are given the same tensors."""
    if _kept.starts is not query_starts or _kept.step is None:
        _kept.step = lay_out(
            query_starts.tolist(), key_starts.tolist(), slots.tolist(), page_tokens=page_tokens,
        )  # fmt: skip
        _kept.starts = query_starts
    return _kept.step


def lay_out(query_starts: Sequence[int], key_starts: Sequence[int], slots: Sequence[int], *, page_tokens: int) -> Step:
    """Groups of requests with one new token, and the others.

    Args:
        query_starts: Where each request's new tokens begin and end in the step.
        key_starts: The same for all of its tokens in `slots`.
        slots: Where each token lies in the cache; those of a page follow each other, and begin at its first.
        page_tokens: Tokens of a page.
    """
    chunks, single = [], []
    for (low, high), (first, last) in zip(pairwise(query_starts), pairwise(key_starts), strict=True):
        pages = [slot // page_tokens for slot in slots[first:last:page_tokens]]
        if high - low == 1:
            single.append((last - first, low, pages))
        elif high > low:
            chunks.append(Chunk(slice(low, high), torch.tensor(pages), last - first))
    return Step(tuple(_group(members) for members in _by_length(single)), tuple(chunks))


_Single = tuple[int, int, list[int]]  # keys, row, pages


def _by_length(single: list[_Single]) -> list[list[_Single]]:
    """Requests in groups whose padding is bounded, shortest first."""
    groups: list[list[_Single]] = []
    total = 0
    for one in sorted(single):
        num_pages = len(one[2])
        total += num_pages
        if not groups or num_pages * (len(groups[-1]) + 1) * (1 - _PADDING) > total:
            groups.append([])
            total = num_pages
        groups[-1].append(one)
    return groups


def _group(members: list[_Single]) -> Group:
    num_keys, _, longest = members[-1]
    pages = [page for _, _, own in members for page in own + own[-1:] * (len(longest) - len(own))]
    mask = None
    if members[0][0] < num_keys:
        lengths = torch.tensor([length for length, _, _ in members])
        hidden = torch.arange(num_keys) >= lengths[:, None]
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None]
    return Group(torch.tensor([row for _, row, _ in members]), torch.tensor(pages), num_keys, mask)


def attend_pages(query: Tensor, key_pages: Tensor, value_pages: Tensor, step: Step, *, scale: float | None) -> Tensor:
    """Causal attention of each request's last tokens over all of its tokens.

    Args:
        query: [1, heads, tokens, head_dim].
        key_pages: A layer's in the cache, [pages, page_tokens, kv_heads, head_dim]; the step's keys are in it already.
        value_pages: Like `key_pages`.
        step: Whose tokens these are.
        scale: Of the scores; one over the root of `head_dim` when None.

    Returns:
        [1, tokens, heads, head_dim].
    """
    rows = query[0].transpose(0, 1)
    result = query.new_empty(rows.shape)
    for group in step.groups:
        count, kv_heads = len(group.rows), key_pages.shape[2]
        # the query heads of a group become rows that meet the group's keys together: nothing is repeated
        own = rows.index_select(0, group.rows).view(count, kv_heads, -1, rows.shape[2])
        key, value = _gather((key_pages, value_pages), group.pages, count, group.num_keys)
        mask = None if group.mask is None else group.mask.to(query.dtype)
        mixed = scaled_dot_product_attention(own, key, value, attn_mask=mask, scale=scale)
        result.index_copy_(0, group.rows, mixed.reshape(count, *rows.shape[1:]))
    for chunk in step.chunks:
        key, value = _gather((key_pages, value_pages), chunk.pages, 1, chunk.num_keys)
        result[chunk.rows] = attend_one(query[:, :, chunk.rows], key, value, scale=scale)[0].transpose(0, 1)
    return result.unsqueeze(0)


def attend_one(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
    """Causal attention of a request's last tokens over all of its tokens: [1, heads, tokens, size] to the same."""
    tokens, length = query.shape[2], key.shape[2]
    if tokens == 1:
        grouped = query.view(1, key.shape[1], -1, query.shape[3])
        return scaled_dot_product_attention(grouped, key, value, scale=scale).reshape(query.shape)
    mask = None
    if tokens != length:
        mask = query.new_ones(tokens, length, dtype=torch.bool).tril(length - tokens)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def _gather(layer: tuple[Tensor, Tensor], pages: Tensor, count: int, num_keys: int) -> tuple[Tensor, ...]:
    """Keys and values of `count` requests, each [count, kv_heads, num_keys, head_dim], until the next call."""
    memory = _kept.memory
    shape = layer[0].shape[1:]
    if (
        memory is None
        or memory[0].dtype != layer[0].dtype
        or memory[0].shape[1:] != shape
        or len(memory[0]) < len(pages)
    ):
        size = (len(pages) + len(pages) // 4, *shape)
        memory = _kept.memory = (layer[0].new_empty(size), layer[0].new_empty(size))
    found = []
    for stored, kept in zip(layer, memory, strict=True):
        own = kept[: len(pages)]
        torch.index_select(stored, 0, pages, out=own)
        found.append(own.view(count, -1, *shape[1:])[:, :num_keys].transpose(1, 2))
    return tuple(found)
