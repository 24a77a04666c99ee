"""Reasoners on a server on loopback, and what they are asked in tests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from pipeline.model.endpoint import EndpointReasoner
from pipeline.model.reasoner import Completion, Reasoner, Request
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.retry import Patience
from pipeline.settings import ModelSettings
from tests.model.completion_server import Reply, completed

KEY = "sk-Zq81-not-a-real-key"
QUICK = Patience(attempts=3, deadline_s=30.0, first_wait_s=0.001, max_wait_s=0.002)
SHORT = SamplingSettings(max_tokens=32)

Open = Callable[..., EndpointReasoner]


def bundle_of(base: str) -> ReasonerBundle:
    settings = ReasonSettings(engine="openai", endpoint=base, model="served")
    return open_reasoner(settings, ModelSettings(), device="cpu")


def requests(count: int) -> list[Request]:
    return [Request((1, 2, 100 + number), SHORT, seed=number) for number in range(count)]


def ask(reasoner: Reasoner, asked: list[Request]) -> list[Completion]:
    """Completions in the order of their requests, each once."""
    found = list(reasoner.generate(asked))
    assert Counter(position for position, _ in found) == Counter(range(len(asked)))
    return [completion for _, completion in sorted(found, key=lambda pair: pair[0])]


def only(*numbers: int, reply: Callable[[], Reply]) -> Callable[[dict[str, Any]], Reply]:
    """A plan in which the requests of these seeds get `reply`, and the others are answered."""
    return lambda body: reply() if body["seed"] in numbers else completed()


def first(reply: Reply) -> Callable[[dict[str, Any]], Reply]:
    """A plan in which each request's first attempt gets `reply`."""
    tried: set[int] = set()
    lock = threading.Lock()

    def plan(body: dict[str, Any]) -> Reply:
        with lock:
            again = body["seed"] in tried
            tried.add(body["seed"])
        return completed() if again else reply

    return plan
