"""Attention over the paged cache of transformers' continuous batching, one request after another.

transformers' own SDPA path lays the keys of all requests end to end and masks what belongs to others: each request pays
for everybody's keys, which are first repeated for every group of query heads. Here each meets its own keys only.
Registered with transformers' `AttentionInterface`; `continuous` switches to it. Knows nothing of requests or text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "t1_paged"


def is_plain(config: Any) -> bool:
    """Whether a model's attention is softmax(q.k) v over all that came before: no window, cap or sinks."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None)
    return kinds == {"full_attention"} and not windowed and not capped and config.model_type != "gpt_oss"


def register() -> None:
    """Makes `ATTENTION` a name that `set_attn_implementation` knows; it wants no mask."""
    AttentionInterface.register(ATTENTION, attend_paged)
    AttentionMaskInterface.register(ATTENTION, _no_mask)


def attend_paged(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: [1, heads, tokens, size] of all requests of a step, to [1, tokens, heads, size].

    `kwargs` hold continuous batching's cache and, by `cu_seq_lens_q` and `cu_seq_lens_k`, where each request's queries
    and keys begin.
    """
    query_starts = kwargs["cu_seq_lens_q"].tolist()
    cache = kwargs.pop("cache")
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    key_starts = kwargs["cu_seq_lens_k"].tolist()
    result = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    scale = kwargs.get("scaling")
    for n in range(len(query_starts) - 1):
        rows, keys = slice(*query_starts[n : n + 2]), slice(*key_starts[n : n + 2])
        own = query[:, :, rows], key[:, :, keys], value[:, :, keys]
        result[:, rows] = _attend_one(*own, scale=scale).transpose(1, 2)
    return result, None


def _attend_one(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
    """Causal attention of a request's last tokens over all of its tokens: [1, heads, tokens, size] to the same."""
    tokens, length = query.shape[2], key.shape[2]
    if tokens == 1:
        # the query heads of a group become rows that meet the group's keys together: nothing is repeated
        grouped = query.view(1, key.shape[1], -1, query.shape[3])
        return scaled_dot_product_attention(grouped, key, value, scale=scale).view_as(query)
    mask = None
    if tokens != length:
        mask = query.new_ones(tokens, length, dtype=torch.bool).tril(length - tokens)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def _no_mask(*_: Any, **__: Any) -> None:
    return None
