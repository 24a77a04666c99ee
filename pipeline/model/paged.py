"""Attention over the paged cache of transformers' continuous batching: each request meets its own keys only.

transformers' own SDPA path lays the keys of all requests end to end and masks what belongs to others: each request pays
for everybody's keys, which are first repeated for every group of query heads. Here, on CPU, `paged_cpu` reads the
cache's pages for few calls a layer; on CUDA one call of `attention_cuda` takes all requests, once it was seen to be
right; else they come one after another. Registered with transformers' `AttentionInterface`; `continuous` switches to
it. Knows nothing of requests or text.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from pipeline.model.attention_cuda import attend_between
from pipeline.model.paged_cpu import attend_one, attend_pages, current_step

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
    cache, layer = kwargs.pop("cache"), module.layer_idx
    scale = kwargs.get("scaling")
    slots, in_one_call = kwargs["read_index"], takes_varlen(query, key)
    reads = query.device.type == "cpu" and slots[0].numel() > 0 and not in_one_call
    if reads:  # given nothing to read, the cache only writes
        kwargs["read_index"] = [index[:0] for index in slots]
    key, value = cache.update(key_states=key, value_states=value, layer_idx=layer, kwargs=kwargs)
    starts = kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"]
    if reads:
        pages = cache.layer_to_allocator[layer].get_cache_for_block_table(layer)
        step = current_step(*starts, slots[0], page_tokens=pages[0].shape[1])
        return attend_pages(query, pages[0], pages[1], step, scale=scale), None
    if in_one_call:
        rows = [states[0].transpose(0, 1).contiguous() for states in (query, key, value)]
        longest = kwargs["max_length_q"], kwargs["max_length_k"]
        return attend_between(rows, starts, longest, scale=scale or query.shape[3] ** -0.5).unsqueeze(0), None
    return _attend_in_turn(query, key, value, starts, scale=scale), None


class _Kept(threading.local):
    """What an engine's thread keeps of its step: reading bounds off a device in every layer would wait for it."""

    starts: Tensor | None = None
    slices: Sequence[tuple[slice, slice]] = ()


_kept = _Kept()


def _attend_in_turn(
    query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], *, scale: float | None
) -> Tensor:
    """One request after another, keys and values [1, kv_heads, keys, size] laid end to end."""
    result = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    if _kept.starts is not starts[0]:
        bounds = ([slice(*pair) for pair in pairwise(tensor.tolist())] for tensor in starts)
        _kept.starts, _kept.slices = starts[0], list(zip(*bounds, strict=True))
    for rows, own in _kept.slices:
        result[:, rows] = attend_one(query[:, :, rows], key[:, :, own], value[:, :, own], scale=scale).transpose(1, 2)
    return result


def takes_varlen(query: Tensor, key: Tensor) -> bool:
    """Whether one call may take all requests: on CUDA, in 16 bits, where it gives what they give in turn."""
    if query.device.type != "cuda" or query.dtype is torch.float32:
        return False
    return _varlen_is_right(query.device, query.dtype, (query.shape[1], key.shape[1], query.shape[3]))


@lru_cache(maxsize=16)
def _varlen_is_right(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> bool:
    """Tried once on random rows, some with more keys than queries: kernels differ in what they take, and mask."""
    heads, kv_heads, size = shape
    query_starts, key_starts = (
        torch.tensor(n, dtype=torch.int32, device=device) for n in ([0, 1, 6, 9], [0, 7, 12, 30])
    )
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(*n, size, generator=generator).to(device, dtype) for n in ((9, heads), *[(30, kv_heads)] * 2)]
    states = [row.transpose(0, 1).unsqueeze(0) for row in rows]
    expected = _attend_in_turn(states[0], states[1], states[2], (query_starts, key_starts), scale=None)[0]
    try:
        got = attend_between(rows, (query_starts, key_starts), (5, 18), scale=size**-0.5)
        found = f"differs by {float((got - expected).abs().max()):.2g}"
        if torch.allclose(got, expected, atol=0.05, rtol=0.05):
            return True
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        found = next(iter(str(error).splitlines()), type(error).__name__)
    warnings.warn(f"attention of all requests in one call is left out, which is slower: it {found}", stacklevel=2)
    return False


def _no_mask(*_: Any, **__: Any) -> None:
    return None
