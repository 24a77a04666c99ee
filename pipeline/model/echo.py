"""A reasoner without a model: says the query's own words again. For plumbing tests and benchmarks only."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from pipeline.model.reasoner import Completion, Request
from pipeline.model.reasoning import ReasonerBundle
from pipeline.records import FinishReason


class EchoReasoner:
    """Writes the first `max_tokens` tokens of the query, in the words of the tokenizer."""

    def __init__(self, bundle: ReasonerBundle) -> None:
        self._tokenizer = bundle.tokenizer

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`; a prompt of more than `max_tokens` tokens is LENGTH, as a model's would be."""
        for position, request in enumerate(requests):
            ids = request.prompt_ids[: request.sampling.max_tokens]
            text = self._tokenizer.decode(ids).strip()
            cut = len(ids) < len(request.prompt_ids)
            reason = FinishReason.LENGTH if cut else FinishReason.STOP if text else FinishReason.EMPTY
            yield position, Completion(text, len(ids), reason)

    def close(self) -> None:
        """Nothing to give back."""
