"""What every engine that writes trajectories offers: prompt ids in, completions out as they finish.

Knows nothing of queries, caches or Ray. `load_reasoner` makes one; the reasoning flow and searches call `generate`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import SettingsError
from pipeline.model.reasoning import ReasonerBundle
from pipeline.query_settings import SamplingSettings
from pipeline.records import FinishReason


@dataclass(frozen=True, slots=True)
class Request:
    """One trajectory that is wanted.

    Attributes:
        prompt_ids: Token ids of the whole prompt, the assistant's turn opened.
        sampling: How to draw it; `max_tokens` bounds what is written.
        seed: Of this draw; differs between the samples of a query.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingSettings
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine wrote.

    Attributes:
        text: Without the token or text that ended it, stripped.
        num_tokens: Tokens written, the one that ended it left out.
        finish_reason: STOP where the model or a stop text ended it, LENGTH where `max_tokens` did, EMPTY where nothing
            was said, ERROR where the engine gave this one up.
        detail: Of an ERROR, one sentence.
    """

    text: str
    num_tokens: int
    finish_reason: FinishReason
    detail: str = ""


class Reasoner(Protocol):
    """An engine with a model in it."""

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Completions with the positions of their requests, each once, in the order in which they finish.

        Args:
            requests: What is wanted.
            cancelled: Set from another thread, it ends this soon; what is unfinished then leaves the engine.

        Raises:
            ModelError: the engine itself is broken, or its endpoint refuses; one request alone yields an ERROR.
        """
        ...

    def close(self) -> None:
        """Gives memory, threads and connections back; may be called twice."""
        ...


def load_reasoner(
    bundle: ReasonerBundle, *, device: str, threads: int | None = None, deadline_s: float | None = None
) -> Reasoner:
    """The engine that the bundle's settings name, ready to generate.

    Args:
        bundle: From `open_reasoner`.
        device: "cpu" or "cuda"; an endpoint needs neither.
        threads: Torch threads on CPU; every core of the process when None.
        deadline_s: Seconds that an endpoint may take to say that it is there; its own patience when None.

    Raises:
        ModelError: the weights do not load, the device is absent, or the endpoint does not answer.
        SettingsError: the engine is not installed.
    """
    engine = bundle.settings.engine
    if engine == "echo":
        from pipeline.model.echo import EchoReasoner

        return EchoReasoner(bundle)
    if engine == "transformers":
        from pipeline.model.continuous import ContinuousReasoner

        return ContinuousReasoner(bundle, device=device, threads=threads)
    if engine == "vllm":
        from pipeline.model.vllm_engine import VllmReasoner

        return VllmReasoner(bundle, device=device)
    if engine == "openai":
        from pipeline.model.endpoint import EndpointReasoner

        return EndpointReasoner(bundle, deadline_s=deadline_s)
    raise SettingsError(f"engine {engine} generates nothing; write transformers, vllm or openai to have it done")
