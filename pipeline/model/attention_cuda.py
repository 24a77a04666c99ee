"""Attention over sequences laid end to end on CUDA: `torch.nn.attention.varlen`, whose arguments differ by release.

Called by `packed`, and by `paged` for sequences of which only the last tokens ask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from pipeline.model.packed import Packing


def attend_varlen(rows: list[Tensor], layout: Packing, *, shared: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
    """Causal attention within each sequence of a row.

    Args:
        rows: Queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim], contiguous.
        layout: Where sequences begin and end.
        shared: Keys and values of a prefix that stands before every sequence, each [prefix, kv_heads, head_dim].
        scale: Of the scores.

    Returns:
        [tokens, heads, head_dim].
    """
    longest = max(layout.lengths)
    longest_key = longest
    if shared is not None:
        rows = [rows[0], *(_with_prefix(layout, rows[i], shared[i - 1]) for i in (1, 2))]
        longest_key += layout.prefix.num_tokens if layout.prefix else 0
    assert layout.bounds is not None
    assert layout.key_bounds is not None
    return attend_between(rows, (layout.bounds, layout.key_bounds), (longest, longest_key), scale=scale)


def _with_prefix(layout: Packing, own: Tensor, shared: Tensor) -> Tensor:
    """Keys or values [tokens, kv_heads, head_dim] with the prefix's before each sequence's own."""
    assert layout.own_slots is not None
    assert layout.prefix_slots is not None
    full = own.new_empty((own.shape[0] + layout.prefix_slots.shape[0], *own.shape[1:]))
    full[layout.own_slots] = own
    full[layout.prefix_slots] = shared.repeat(len(layout.lengths), 1, 1)
    return full


def attend_between(
    rows: list[Tensor], bounds: tuple[Tensor, Tensor], longest: tuple[int, int], *, scale: float
) -> Tensor:
    """Causal attention of each sequence's last tokens over all of its tokens: its last query sees its last key.

    Args:
        rows: Queries [tokens, heads, head_dim], keys and values [keys, kv_heads, head_dim], contiguous.
        bounds: Where the sequences' queries begin and end, and their keys, each [sequences + 1] int32.
        longest: Queries of the sequence with the most, and keys.
        scale: Of the scores.

    Returns:
        [tokens, heads, head_dim].
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = rows
    groups = query.shape[1] // key.shape[1]
    accepted = _parameters(varlen_attn)
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    if groups > 1 and "enable_gqa" in accepted:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (r.repeat_interleave(groups, dim=1) for r in (key, value))
    if "scale" in accepted:
        options["scale"] = scale
    result = varlen_attn(query, key, value, *bounds, *longest, **options)
    return result if isinstance(result, Tensor) else result[0]


@lru_cache(maxsize=8)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Looked up once, as there is a call a layer."""
    return frozenset(inspect.signature(function).parameters)
