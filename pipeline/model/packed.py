"""Attention without padding: sequences of any length laid end to end, a shared prefix computed once.

A decoder of transformers runs unchanged over one long row of tokens; only its attention function is ours. It is
registered under `ATTENTION` with transformers' `AttentionInterface`, and finds out from `packing()` where one sequence
ends and the next begins. On CUDA it is `torch.nn.attention.varlen.varlen_attn`; on CPU it is plain matrix products over
blocks of queries, which for texts of some hundred tokens were faster than PyTorch's flash kernel.

Knows nothing of prompts or vectors. Called by `decoder`; `decoder` checks its results against a plain forward pass
before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "t1_packed"

# What some models' attention does beside softmax(q.k) v: a window, a cap on scores, sinks. Not computed here; a window
# longer than the probe would not show when the result is checked.
_NOT_COMPUTED = ("sliding_window", "softcap", "s_aux")


@dataclass(slots=True)
class PrefixState:
    """Keys and values of the constant prefix, one pair a layer, each [1, kv_heads, prefix_tokens, head_dim]."""

    num_tokens: int
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(slots=True)
class Packing:
    """Where sequences lie in the row, and what they share.

    Attributes:
        lengths: Tokens of each sequence, in order.
        prefix: State of the shared prefix, or None.
        record: Filled with keys and values when the row is the prefix itself.
        bounds: [sequences + 1] int32 on the model's device: where sequences begin and end (CUDA only).
        key_bounds: The same for keys, each sequence's prefix included (CUDA only).
        own_slots: [tokens] int64: where the row's own keys go among the keys (CUDA with a prefix only).
        prefix_slots: [sequences * prefix_tokens] int64: where the prefix's keys go.
    """

    lengths: Sequence[int]
    prefix: PrefixState | None = None
    record: PrefixState | None = None
    bounds: Tensor | None = None
    key_bounds: Tensor | None = None
    own_slots: Tensor | None = None
    prefix_slots: Tensor | None = None


# A context variable, because lanes of one encoder run side by side.
_active: ContextVar[Packing | None] = ContextVar("packing", default=None)


@contextmanager
def packing(layout: Packing) -> Iterator[None]:
    """Makes `layout` the one that attention follows in this thread."""
    token = _active.set(layout)
    try:
        yield
    finally:
        _active.reset(token)


def lay_out(lengths: Sequence[int], *, prefix: PrefixState | None, device: torch.device) -> Packing:
    """The packing of sequences of these lengths (prefix excluded)."""
    layout = Packing(lengths, prefix)
    if device.type == "cuda":
        own = torch.tensor(lengths, device=device)
        shared = prefix.num_tokens if prefix else 0
        layout.bounds = _starts(own)
        layout.key_bounds = _starts(own + shared)
        if prefix:
            sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), own)
            layout.own_slots = torch.arange(int(sum(lengths)), device=device) + (sequence + 1) * shared
            begin = layout.key_bounds[:-1].long()
            layout.prefix_slots = (begin[:, None] + torch.arange(shared, device=device)).flatten()
    return layout


def _starts(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, heads, tokens, head_dim], key and value [1, kv_heads, ...].

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.

    Raises:
        ValueError: the model's attention is of a kind that is not computed here.
    """
    layout = _active.get()
    if layout is None:
        raise RuntimeError("packed attention was called outside packing()")
    for name in _NOT_COMPUTED:
        if options.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - not an attribute of nn.Module's type
    if layout.record is not None:
        layout.record.layers[layer] = (key.clone(), value.clone())
    scale = options.get("scaling")
    shared = layout.prefix.layers[layer] if layout.prefix else None
    compute = _attend_cuda if query.device.type == "cuda" else _attend_cpu
    return compute(layout, query, key, value, shared=shared, scale=scale), None


# Queries that attend together on CPU: scores of a block stay in the cache, and no block computes much of what causality
# then hides.
_BLOCK_QUERIES = 128


def _attend_cpu(
    layout: Packing,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    shared: tuple[Tensor, Tensor] | None,
    scale: float | None,
) -> Tensor:
    heads, width = query.shape[1], query.shape[3]
    kv_heads = key.shape[1]
    scaled = query[0] * (width**-0.5 if scale is None else scale)
    grouped = scaled.reshape(kv_heads, heads // kv_heads, *scaled.shape[1:])
    out = torch.empty((query.shape[2], heads, width), dtype=query.dtype)
    begin = 0
    for length in layout.lengths:
        part = slice(begin, begin + length)
        keys, values = key[0, :, part], value[0, :, part]
        if shared is not None:
            keys, values = torch.cat([shared[0][0], keys], 1), torch.cat([shared[1][0], values], 1)
        _attend_blocks(grouped[:, :, part], keys.transpose(1, 2), values, out[part])
        begin += length
    return out.unsqueeze(0)


def _attend_blocks(query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
    """Causal attention of one sequence, a block of queries at a time.

    Args:
        query: [kv_heads, groups, tokens, head_dim], scaled.
        keys: [kv_heads, head_dim, shared + tokens].
        values: [kv_heads, shared + tokens, head_dim].
        out: [tokens, heads, head_dim], written.
    """
    kv_heads, groups, length, width = query.shape
    shared = values.shape[1] - length
    for low in range(0, length, _BLOCK_QUERIES):
        high = min(low + _BLOCK_QUERIES, length)
        seen = shared + high
        rows = query[:, :, low:high].reshape(kv_heads, groups * (high - low), width)
        scores = torch.bmm(rows, keys[:, :, :seen])
        hidden = _later(high - low, scores.dtype)
        scores.view(kv_heads, groups, high - low, seen)[..., shared + low :].add_(hidden)
        mixed = torch.bmm(torch.softmax(scores, -1), values[:, :seen])
        out[low:high] = mixed.view(kv_heads * groups, high - low, width).transpose(0, 1)


@lru_cache(maxsize=256)
def _later(size: int, dtype: torch.dtype) -> Tensor:
    """[size, size]: minus infinity where a key comes after its query, else 0."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu(1)


def _attend_cuda(
    layout: Packing,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    shared: tuple[Tensor, Tensor] | None,
    scale: float | None,
) -> Tensor:
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]
    longest = max(layout.lengths)
    longest_key = longest
    if shared is not None:
        rows[1], rows[2] = (_with_prefix(layout, rows[i], shared[i - 1]) for i in (1, 2))
        longest_key += layout.prefix.num_tokens if layout.prefix else 0
    groups = query.shape[1] // key.shape[1]
    out = _varlen(rows, layout, (longest, longest_key), groups=groups, scale=scale)
    return out.unsqueeze(0)


def _with_prefix(layout: Packing, own: Tensor, shared: Tensor) -> Tensor:
    """Keys or values [tokens, kv_heads, head_dim] with the prefix's before each sequence's own."""
    assert layout.own_slots is not None
    assert layout.prefix_slots is not None
    prefix = shared[0].transpose(0, 1)
    full = own.new_empty((own.shape[0] + layout.prefix_slots.shape[0], *own.shape[1:]))
    full[layout.own_slots] = own
    full[layout.prefix_slots] = prefix.repeat(len(layout.lengths), 1, 1)
    return full


def _varlen(
    rows: list[Tensor], layout: Packing, longest: tuple[int, int], *, groups: int, scale: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    accepted = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    if groups > 1 and "enable_gqa" in accepted:
        options["enable_gqa"] = True
    elif groups > 1:
        rows = [rows[0], *(r.repeat_interleave(groups, dim=1) for r in rows[1:])]
    if scale is not None and "scale" in accepted:
        options["scale"] = scale
    assert layout.bounds is not None
    assert layout.key_bounds is not None
    query, key, value = (row.contiguous() for row in rows)
    result = varlen_attn(query, key, value, layout.bounds, layout.key_bounds, *longest, **options)
    return result if isinstance(result, Tensor) else result[0]


AttentionInterface.register(ATTENTION, attend)
