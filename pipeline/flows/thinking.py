"""Queries to trajectories and vectors, and both into the cache as they finish.

A reasoner and an encoder in one process. Knows nothing of Ray; called by the reasoning flow's actors and by searches.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.model.bundle import ModelBundle
from pipeline.model.encoder import Encoder
from pipeline.model.reasoner import Completion, Reasoner, Request
from pipeline.model.reasoning import ReasonerBundle
from pipeline.query_settings import SamplingSettings
from pipeline.records import FinishReason, Query, Reason, Trajectory
from pipeline.store.trajectories import Cached, TrajectoryCache

# The second attempt at a query that came to nothing: what was likeliest has been tried.
RETRY_TEMPERATURE = 0.7
# Written at least so often: what a kill loses is in flight or this young. Each write is a commit, some 30 ms.
_FLUSH_TRAJECTORIES = 16
_FLUSH_SECONDS = 2.0
_TRIED_AGAIN = (FinishReason.LENGTH, FinishReason.EMPTY)

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One trajectory that is not there yet: of which query, which sample, under which key."""

    query: Query
    sample: int
    key: str


def encode_reasoned(
    encoder: Encoder, bundle: ModelBundle, reasoner: ReasonerBundle, pairs: Sequence[tuple[Query, str]]
) -> list[Vector | Reason]:
    """Vectors of queries with their trajectories, float32 [dim] each; or why one cannot be encoded.

    Args:
        encoder: Whose vectors the documents have.
        bundle: Its model.
        reasoner: Knows what the model was told.
        pairs: A query and the text of a usable trajectory.
    """
    bodies = [
        bundle.reasoned_body(
            query.text, text, instruction=reasoner.instruction(query), max_query_tokens=reasoner.max_query_tokens
        )
        for query, text in pairs
    ]
    if not bodies:
        return []
    encoded = encoder.encode([np.asarray(body, np.int32) for body in bodies], role="reasoned")
    return [encoded.failures.get(i, vector) for i, vector in enumerate(encoded.vectors)]


def vectors_to_keep(keys: Sequence[str], encoded: Sequence[Vector | Reason]) -> dict[str, Vector | None]:
    """What the cache is to hold of an encoder's answers, by key: None where no machine could do better.

    A text that did not fit in memory is left out: a larger machine may encode it.
    """
    return {
        key: None if isinstance(found, Reason) else found
        for key, found in zip(keys, encoded, strict=True)
        if found is not Reason.OUT_OF_MEMORY
    }


class Thinker:
    """Generates, encodes and caches; threads may share it.

    Args:
        cache: Where trajectories go.
        bundle: What is asked of the reasoner.
        reasoner: From `load_reasoner`.
        encoder: Of the table's vectors, with its bundle.
    """

    def __init__(
        self, cache: TrajectoryCache, bundle: ReasonerBundle, reasoner: Reasoner, encoder: tuple[Encoder, ModelBundle]
    ) -> None:
        self._cache = cache
        self._bundle = bundle
        self._reasoner = reasoner
        self._encoder, self._encoder_bundle = encoder
        # an actor has two batches in flight, so that the reasoner is busy when one of them ends
        self._encoding = threading.Lock()

    def think(self, wanted: Sequence[Wanted], *, deadline_s: float | None = None) -> Iterator[Cached]:
        """Trajectories with their vectors, once they are in the cache; each at most once.

        One that was cut or is empty is tried a second time, and then kept as it is, without a vector; so is the first
        attempt where there is no time for a second, or the engine breaks down before it. One that the engine gave up is
        yielded with `FinishReason.ERROR`, its text saying why, and not kept.

        Args:
            wanted: Not in the cache yet.
            deadline_s: Seconds after which generating stops; what is unfinished then is left out.

        Raises:
            ModelError: the engine broke down.
        """
        end = None if deadline_s is None else time.monotonic() + deadline_s
        cut: dict[str, tuple[Wanted, Completion]] = {}  # first attempts that came to nothing, until there is a second
        try:
            yield from self._attempt(wanted, 1, end, cut)
            if cut and (end is None or time.monotonic() < end):
                yield from self._attempt([one for one, _ in cut.values()], 2, end, cut)
        except (Exception, GeneratorExit):
            self._keep(list(cut.values()), 1)  # paid for, though nobody is told
            raise
        yield from self._keep(list(cut.values()), 1)

    def _attempt(
        self, wanted: Sequence[Wanted], attempt: int, end: float | None, cut: dict[str, tuple[Wanted, Completion]]
    ) -> Iterator[Cached]:
        requests = [self._request(one, attempt) for one in wanted]
        done: list[tuple[Wanted, Completion]] = []
        is_late = threading.Event()
        flushed = time.monotonic()
        try:
            for result in _until(self._reasoner.generate(requests, cancelled=is_late), end, is_late):
                if result is not None:
                    one, completion = wanted[result[0]], result[1]
                    if attempt == 1 and completion.finish_reason in _TRIED_AGAIN:
                        cut[one.key] = (one, completion)
                    else:
                        cut.pop(one.key, None)
                        done.append((one, completion))
                if len(done) >= _FLUSH_TRAJECTORIES or (done and time.monotonic() - flushed > _FLUSH_SECONDS):
                    rows, done = done, []
                    yield from self._keep(rows, attempt)
                    flushed = time.monotonic()
        except (Exception, GeneratorExit):
            self._keep(done, attempt)
            raise
        yield from self._keep(done, attempt)

    def _request(self, one: Wanted, attempt: int) -> Request:
        sampling = self._bundle.settings.sampling
        if attempt > 1:
            hotter = max(sampling.temperature, RETRY_TEMPERATURE)
            sampling = SamplingSettings(**sampling.model_dump() | {"temperature": hotter})
        # the key holds query, sample and seed; eight of its digits are as good as drawn
        return Request(self._bundle.prompt_ids(one.query), sampling, seed=int(one.key[:8], 16) + attempt)

    def _keep(self, done: Sequence[tuple[Wanted, Completion]], attempt: int) -> list[Cached]:
        trajectories = [self._trajectory(one, completion, attempt) for one, completion in done]
        usable = [(one.query, t) for (one, _), t in zip(done, trajectories, strict=True) if t.is_usable]
        with self._encoding:
            pairs = [(query, t.text) for query, t in usable]
            encoded = encode_reasoned(self._encoder, self._encoder_bundle, self._bundle, pairs)
        vectors = vectors_to_keep([t.key for _, t in usable], encoded)
        encoder = self._encoder_bundle.identity.fingerprint
        rows = [Cached(t, vectors.get(t.key), encoder if t.key in vectors else "") for t in trajectories]
        self._cache.add([row for row in rows if row.trajectory.finish_reason is not FinishReason.ERROR])
        return rows

    def _trajectory(self, one: Wanted, completion: Completion, attempt: int) -> Trajectory:
        text = completion.detail if completion.finish_reason is FinishReason.ERROR else completion.text
        return Trajectory(
            key=one.key, query=one.query.text, task=one.query.task, text=text,
            num_tokens=completion.num_tokens, finish_reason=completion.finish_reason,
            reasoner=self._bundle.fingerprint(one.query), source=self._bundle.source,
            sampling=self._bundle.sampling, sample=one.sample, num_attempts=attempt,
        )  # fmt: skip


def _until(
    completions: Iterator[tuple[int, Completion]], end: float | None, is_late: threading.Event
) -> Iterator[tuple[int, Completion] | None]:
    """Completions that come before `end` on the monotonic clock; None whenever none came for `_FLUSH_SECONDS`.

    `is_late` is set then, or when nobody listens any more. What comes later is nobody's. What came in time is handed
    over, however late that is.
    """
    if end is not None and time.monotonic() >= end:
        return
    results: queue.SimpleQueue[tuple[int, Completion] | BaseException | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(completions, results, is_late), name="t1-thinking", daemon=True).start()
    try:
        while True:
            left = _FLUSH_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                is_late.set()
            try:
                result = results.get(timeout=min(left, _FLUSH_SECONDS)) if left > 0 else results.get_nowait()
            except queue.Empty:
                if left <= 0:
                    return
                yield None
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        is_late.set()


def _read(
    completions: Iterator[tuple[int, Completion]],
    results: queue.SimpleQueue[tuple[int, Completion] | BaseException | None],
    is_late: threading.Event,
) -> None:
    """Hands completions over until it is late; None after the last, an error in the place of what it kept away."""
    try:
        for result in completions:
            results.put(result)
            if is_late.is_set():
                break
        results.put(None)
    except BaseException as error:  # noqa: BLE001  raised again by whoever waits for the results
        results.put(error)
    finally:
        close = getattr(completions, "close", None)
        if close is not None:
            close()  # takes what is unfinished out of the engine
