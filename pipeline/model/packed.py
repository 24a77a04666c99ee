"""Attention without padding: sequences of any length laid end to end, a shared prefix computed once.

A decoder of transformers runs unchanged over one long row of tokens; only its attention function is ours. It is
registered under `ATTENTION` with transformers' `AttentionInterface`, and finds out from `packing()` where one sequence
ends and the next begins. On CUDA it is `torch.nn.attention.varlen.varlen_attn`; on CPU PyTorch's flash kernel is called
once a sequence, and the prefix's share is merged in by the log-sum-exp of the two parts (as in flash attention itself,
Dao et al. 2022, arXiv 2205.14135, section 3.1).

Knows nothing of prompts or vectors. Called by `decoder`; `decoder` checks its results against a plain forward pass
before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "t1_packed"


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


_active: Packing | None = None


@contextmanager
def packing(layout: Packing) -> Iterator[None]:
    """Makes `layout` the one that attention follows. One forward pass at a time in a process."""
    global _active
    _active = layout
    try:
        yield
    finally:
        _active = None


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
    """
    layout = _active
    if layout is None:
        raise RuntimeError("packed attention was called outside packing()")
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - not an attribute of nn.Module's type
    if layout.record is not None:
        layout.record.layers[layer] = (key.clone(), value.clone())
    scale = options.get("scaling")
    shared = layout.prefix.layers[layer] if layout.prefix else None
    compute = _attend_cuda if query.device.type == "cuda" else _attend_cpu
    return compute(layout, query, key, value, shared=shared, scale=scale), None


def _attend_cpu(
    layout: Packing,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    shared: tuple[Tensor, Tensor] | None,
    scale: float | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = _repeat(key, groups), _repeat(value, groups)
    out = torch.empty(query.transpose(1, 2).shape, dtype=query.dtype).transpose(1, 2)
    if shared is None:
        begin = 0
        for length in layout.lengths:
            part = slice(begin, begin + length)
            out[:, :, part] = torch.nn.functional.scaled_dot_product_attention(
                query[:, :, part], key[:, :, part], value[:, :, part], is_causal=True, scale=scale
            )
            begin += length
        return out.transpose(1, 2)
    lse = torch.empty(query.shape[:3], dtype=torch.float32)
    begin = 0
    for length in layout.lengths:
        part = slice(begin, begin + length)
        out[:, :, part], lse[:, :, part] = _flash_cpu(
            query[:, :, part], key[:, :, part], value[:, :, part], True, scale
        )
        begin += length
    early, early_lse = _flash_cpu(query, _repeat(shared[0], groups), _repeat(shared[1], groups), False, scale)
    # softmax over both parts = each part's own softmax, weighted by its share of the sum of exponentials
    weight = torch.sigmoid(lse - early_lse).unsqueeze(-1).to(out.dtype)
    return torch.lerp(early, out, weight).transpose(1, 2)


def _flash_cpu(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """PyTorch's CPU flash kernel with its log-sum-exp, [1, heads, tokens]."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
    return out, lse


def _repeat(states: Tensor, groups: int) -> Tensor:
    """Grouped-query heads repeated to one a query head."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


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
