"""Which token comes next: a processor of logits for continuous batching that treats each request by its settings.

Continuous batching takes the likeliest token of what this returns. For a request that samples, that is the token drawn
from its distribution by a number which follows from the request's seed and the tokens it has written, so neighbours in
the batch cannot change a draw. A request that has written a stop text gets a token that ends it. Knows nothing of
queues or models; `continuous` hands it to the manager.
"""

from __future__ import annotations

import hashlib
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
_DRAW_BYTES = 6  # of a draw's digest: few enough that the number in the middle of the last interval is less than 1
_COLDEST = 1e-6  # a temperature below it takes the likeliest token as this one does, and float32 has no number for it
_NUMBERS_AT_ONCE = 1 << 23  # of rows that are drawn together; as float64, 64 MiB


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
        ended, drawn = [], []
        for row, (draw, _, stopped) in enumerate(self._step[: len(scores)]):
            if stopped:
                ended.append(row)
            elif draw.sampling.temperature > 0:
                drawn.append(row)
        if ended:
            _take(scores, ended, torch.full((len(ended),), self._end, device=scores.device))
        at_once = max(1, _NUMBERS_AT_ONCE // scores.shape[1])
        for low in range(0, len(drawn), at_once):
            rows = drawn[low : low + at_once]
            samplings = [self._step[row][0].sampling for row in rows]
            numbers = [uniform(self._step[row][0].seed, self._step[row][1]) for row in rows]
            _take(scores, rows, draw_tokens(scores[rows], samplings, numbers))
        return scores


def find_stop(text: str, stop: Sequence[str]) -> int:
    """Where the first of the stop texts begins, or -1."""
    return min((at for at in map(text.find, stop) if at >= 0), default=-1)


def uniform(seed: int, written: int) -> float:
    """The number between 0 and 1, neither of them, by which a request of that seed draws its next token."""
    digest = hashlib.blake2b(f"{seed}:{written}".encode(), digest_size=_DRAW_BYTES).digest()
    return (int.from_bytes(digest) + 0.5) / (1 << 8 * _DRAW_BYTES)


def draw_tokens(logits: Tensor, samplings: Sequence[SamplingSettings], numbers: Sequence[float]) -> Tensor:
    """A token for each row: the first up to which the row's probabilities add up to more than its number.

    All rows at once, since a step has as many as there are requests, and a vocabulary has a hundred thousand tokens.

    Args:
        logits: [rows, vocabulary] float32, -inf where a token may not come.
        samplings: Of each row, with a temperature above 0.
        numbers: From `uniform`, one a row.

    Returns:
        [rows] int64.
    """

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device).unsqueeze(1)

    temperatures = column([max(sampling.temperature, _COLDEST) for sampling in samplings]).to(logits.dtype)
    scaled = (logits - logits.amax(1, keepdim=True)) / temperatures
    vocabulary = logits.shape[1]
    limits = [min(sampling.top_k or vocabulary, vocabulary) for sampling in samplings]
    if (narrow := max((k for k in limits if k < vocabulary), default=0)) > 0:
        best = scaled.topk(narrow).values
        places = torch.tensor([[min(k, narrow) - 1] for k in limits], device=logits.device)
        is_limited = torch.tensor([[k < vocabulary] for k in limits], device=logits.device)
        scaled = scaled.masked_fill(is_limited & (scaled < best.gather(1, places)), _NEVER)
    nuclear = [row for row, sampling in enumerate(samplings) if sampling.top_p < 1.0]
    if nuclear:
        ordered, order = scaled[nuclear].softmax(1).sort(1, descending=True)
        # a token stays while those before it have not yet reached top_p; the first always does
        is_over = ordered.cumsum(1) - ordered >= column([samplings[row].top_p for row in nuclear])
        scaled[nuclear] = scaled[nuclear].masked_fill(is_over.gather(1, order.argsort(1)), _NEVER)
    reached = scaled.softmax(1, dtype=torch.float64).cumsum(1)
    whole = reached[:, -1:]
    drawn = torch.searchsorted(reached, column(numbers) * whole, right=True).squeeze(1)
    # a model that broke down on one request must not take the engine, and all others, with it
    return torch.where(whole.squeeze(1).isfinite(), drawn, logits.argmax(1))


def _take(scores: Tensor, rows: Sequence[int], tokens: Tensor) -> None:
    """Leaves one token to each of those rows."""
    index = torch.tensor(rows, device=scores.device)
    scores[index] = _NEVER
    scores[index, tokens] = 0.0
