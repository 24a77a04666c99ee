"""Packed attention on CPU: plain matrix products over blocks of queries.

For texts of some hundred tokens this was faster than PyTorch's flash kernel. Called by `packed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Queries that attend together on CPU: scores of a block stay in the cache, and no block computes much of what causality
# then hides.
_BLOCK_QUERIES = 128


def attend_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    lengths: Sequence[int],
    shared: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """Causal attention within each sequence of a row.

    Args:
        query: [1, heads, tokens, head_dim].
        key: [1, kv_heads, tokens, head_dim].
        value: Like `key`.
        lengths: Tokens of each sequence.
        shared: Keys and values of a prefix that stands before every sequence, each [1, kv_heads, prefix, head_dim].
        scale: Of the scores.

    Returns:
        [1, tokens, heads, head_dim].
    """
    heads, width = query.shape[1], query.shape[3]
    kv_heads = key.shape[1]
    scaled = query[0] * scale
    grouped = scaled.reshape(kv_heads, heads // kv_heads, *scaled.shape[1:])
    out = torch.empty((query.shape[2], heads, width), dtype=query.dtype)
    begin = 0
    for length in lengths:
        part = slice(begin, begin + length)
        keys, values = key[0, :, part], value[0, :, part]
        if shared is not None:
            keys, values = torch.cat([shared[0][0], keys], 1), torch.cat([shared[1][0], values], 1)
        _attend_sequence(grouped[:, :, part], keys.transpose(1, 2), values, out[part])
        begin += length
    return out.unsqueeze(0)


def _attend_sequence(query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
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
