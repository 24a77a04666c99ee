"""Attention without padding: sequences of any length laid end to end, a shared prefix computed once.

A decoder of transformers runs unchanged over one long row of tokens; only its attention function is ours. It is
registered under `ATTENTION` with transformers' `AttentionInterface`, and finds out from `packing()` where one sequence
ends and the next begins. `attention_cpu` and `attention_cuda` do the arithmetic.

Knows nothing of prompts or vectors. Called by `decoder`; `decoder` checks its results against a plain forward pass
before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from pipeline.model.attention_cpu import attend_blocks
from pipeline.model.attention_cuda import attend_varlen

ATTENTION = "t1_packed"

# What some models' attention does beside softmax(q.k) v: a window, a cap on scores, sinks. Not computed here; a window
# longer than the probe would not show when the result is checked.
_NOT_COMPUTED = ("sliding_window", "softcap", "s_aux")


@dataclass(slots=True)
class PrefixState:
    """Keys and values of the constant prefix, one pair a layer, in the layout that the device's attention takes."""

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
        calls: Attention calls since `packing()` began, which is the layer's number: layers come in order. Kept here and
            not read off the module, so that a compiled layer does not depend on which layer it is.
    """

    lengths: Sequence[int]
    prefix: PrefixState | None = None
    record: PrefixState | None = None
    bounds: Tensor | None = None
    key_bounds: Tensor | None = None
    own_slots: Tensor | None = None
    prefix_slots: Tensor | None = None
    calls: int = 0


# A context variable, because lanes of one encoder run side by side.
_active: ContextVar[Packing | None] = ContextVar("packing", default=None)


@contextmanager
def packing(layout: Packing) -> Iterator[None]:
    """Makes `layout` the one that attention follows in this thread, from the first layer on."""
    layout.calls = 0
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
    _module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, heads, tokens, head_dim], key and value [1, kv_heads, ...].

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.

    Raises:
        ValueError: the model's attention is of a kind that is not computed here.
    """
    for name in _NOT_COMPUTED:
        if options.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")
    scale = options.get("scaling")
    scale = query.shape[3] ** -0.5 if scale is None else float(scale)
    if query.device.type == "cpu":
        layout, shared = _next_layer(key, value)
        return attend_blocks(query, key, value, lengths=layout.lengths, shared=shared, scale=scale), None
    # Laid out here, where a compiled layer writes them so in the first place, and not inside the operator.
    rows = [states[0].transpose(0, 1).contiguous() for states in (query, key, value)]
    return _attend_rows(*rows, scale).unsqueeze(0), None


def _next_layer(key: Tensor, value: Tensor) -> tuple[Packing, tuple[Tensor, Tensor] | None]:
    """The active layout and this layer's shared keys and values; records the layer's own where that is asked for."""
    layout = _active.get()
    if layout is None:
        raise RuntimeError("packed attention was called outside packing()")
    layer = layout.calls
    layout.calls += 1
    if layout.record is not None:
        layout.record.layers[layer] = (key.clone(), value.clone())
    return layout, layout.prefix.layers[layer] if layout.prefix else None


# An operator of its own, so that torch.compile takes it as it is.
@torch.library.custom_op("t1::attend_rows", mutates_args=())
def _attend_rows(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    layout, shared = _next_layer(key, value)
    return attend_varlen([query, key, value], layout, shared=shared, scale=scale)


@_attend_rows.register_fake
def _(query: Tensor, _key: Tensor, _value: Tensor, _scale: float) -> Tensor:
    return torch.empty_like(query)


AttentionInterface.register(ATTENTION, attend)
