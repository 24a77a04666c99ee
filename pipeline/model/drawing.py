"""Which token comes next: a processor of logits for continuous batching that treats each request by its settings.

Continuous batching takes the likeliest token of what this returns. A request that samples gets Gumbel noise, which
makes its likeliest token a draw from its distribution; the noise follows from the request's seed and the number of
tokens that it has written, so neighbours in the batch cannot change a draw. A request that has written a stop text gets
a token that ends it. Knows nothing of queues or models; `continuous` hands it to the manager.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from pipeline.query_settings import SamplingSettings

_NEVER = float("-inf")
_STEPS_OF_A_SEED = 1 << 20  # more than any request writes, so that two seeds share no noise


@dataclass(frozen=True, slots=True)
class Draw:
    """How one request's tokens are chosen."""

    sampling: SamplingSettings
    seed: int


class DrawProcessor(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """See the module's text. Needs continuous batching without its asynchronous mode: a step's requests are kept.

    Args:
        banned: Tokens that are never chosen.
        end: The token that ends a request.
        decode: Text of token ids, to look for stop texts in.
    """

    supported_kwargs = {"draw": Draw}  # noqa: RUF012 - the base class has it so
    ignored_kwargs = ()

    def __init__(self, *, banned: Sequence[int], end: int, decode: Callable[[Sequence[int]], str]) -> None:
        self._banned = list(banned)
        self._end = end
        self._decode = decode
        self._step: list[tuple[Draw, int, bool]] = []

    def as_list(self) -> Any:
        """As a manager's `logit_processor`."""
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self]))
        processors.tensors_required = 1
        return processors

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing is sent by tensor."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """Notes the step's requests, in the order of their logits."""
        self._step = []
        for request in requests_with_new_token:
            draw, written = request.state.logit_processor_kwargs["draw"], request.state.generated_tokens
            stopped = bool(draw.sampling.stop and written) and find_stop(self._decode(written), draw.sampling.stop) >= 0
            self._step.append((draw, len(written), stopped))
        return torch.zeros(0, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """[requests, vocabulary] float32 to the same, whose row-wise maximum is the token to take."""
        scores[:, self._banned] = _NEVER
        for row, (draw, written, stopped) in zip(scores, self._step, strict=False):
            if stopped:
                row.fill_(_NEVER)
                row[self._end] = 0.0
            elif draw.sampling.temperature > 0:
                row.copy_(_noisy(row, draw, written))
        return scores


def find_stop(text: str, stop: Sequence[str]) -> int:
    """Where the first of the stop texts begins, or -1."""
    return min((at for at in map(text.find, stop) if at >= 0), default=-1)


def _noisy(row: Tensor, draw: Draw, written: int) -> Tensor:
    sampling = draw.sampling
    row = row / sampling.temperature
    if 0 < sampling.top_k < row.numel():
        row = row.masked_fill(row < row.topk(sampling.top_k).values[-1], _NEVER)
    if sampling.top_p < 1.0:
        ordered, order = row.softmax(0).sort(descending=True)
        # a token stays while those before it have not yet reached top_p; the first always does
        row[order[ordered.cumsum(0) - ordered >= sampling.top_p]] = _NEVER
    generator = torch.Generator().manual_seed((draw.seed * _STEPS_OF_A_SEED + written) % 2**63)
    uniform = torch.rand(row.numel(), generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
    return row + noise.to(row)
