"""A stand-in for a model that reasons: each answer as a test wrote it, when the test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.flows.thinking import Thinker, Wanted
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.model.load import load_encoder
from pipeline.model.reasoner import Completion, Request
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import ReasonSettings
from pipeline.records import FinishReason, Query
from pipeline.settings import ModelSettings
from pipeline.store.database import Database
from pipeline.store.trajectories import TrajectoryCache

HASHING = ModelSettings(model="hashing://64")

# The text of a query, and how often it was asked about before.
Script = Callable[[str, int], Completion]


def said(text: str = "a thought") -> Completion:
    """One that came to its end."""
    return Completion(text, len(text.split()), FinishReason.STOP)


class ScriptedReasoner:
    """Answers in order, as the script says; keeps what it was asked.

    Args:
        bundle: Makes the prompts that queries are told by.
        queries: That it may be asked about.
        script: What it says; may block, or raise.
    """

    def __init__(self, bundle: ReasonerBundle, queries: Sequence[Query], script: Script) -> None:
        self._texts = {bundle.prompt_ids(query): query.text for query in queries}
        self._script = script
        self._lock = threading.Lock()
        self.asked: dict[str, list[Request]] = {}

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`."""
        for position, request in enumerate(requests):
            text = self._texts[request.prompt_ids]
            with self._lock:
                before = self.asked.setdefault(text, [])
                number = len(before)
                before.append(request)
            yield position, self._script(text, number)

    def close(self) -> None:
        """Nothing to give back."""


def echo_bundle(**reason: object) -> ReasonerBundle:
    """A reasoner without a model, with these settings."""
    return open_reasoner(ReasonSettings.model_validate({"engine": "echo"} | reason), HASHING, device="cpu")


def hashing() -> ModelBundle:
    """The encoder's model."""
    return open_bundle(HASHING, device="cpu")


def queries_of(*texts: str, task: str = "") -> list[Query]:
    """Queries with these texts, their numbers for ids."""
    return [Query(str(number), text, task=task) for number, text in enumerate(texts)]


def wanted_of(bundle: ReasonerBundle, queries: Sequence[Query]) -> list[Wanted]:
    """The first trajectory of each."""
    return [Wanted(query, 0, bundle.key(query)) for query in queries]


def cache_at(folder: Path) -> TrajectoryCache:
    """The cache of a database in a folder."""
    return TrajectoryCache(Database.at(str(folder)))


def thinker_of(cache: TrajectoryCache, bundle: ReasonerBundle, reasoner: ScriptedReasoner) -> Thinker:
    """A thinker that encodes by hashing."""
    model = hashing()
    return Thinker(cache, bundle, reasoner, (load_encoder(model, device="cpu", threads=1), model))
