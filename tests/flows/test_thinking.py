"""What becomes of answers: kept as they finish, tried again, given up, or left behind by a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.flows import thinking
from pipeline.flows.reasoned import Notes
from pipeline.flows.thinking import RETRY_TEMPERATURE, Thinker, encode_reasoned
from pipeline.model.bundle import open_bundle
from pipeline.model.hashing import HashingEncoder
from pipeline.model.load import load_encoder
from pipeline.model.reasoner import Completion
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import ReasonSettings
from pipeline.records import FinishReason, Reason
from pipeline.settings import ModelSettings
from pipeline.store.trajectories import TrajectoryCache
from tests.flows.scripted import (
    Script,
    ScriptedReasoner,
    cache_at,
    echo_bundle,
    hashing,
    queries_of,
    said,
    thinker_of,
    wanted_of,
)

PATIENCE_S = 60
CUT = Completion("a thought that", 3, FinishReason.LENGTH)
NOTHING = Completion("", 0, FinishReason.EMPTY)


@pytest.fixture(scope="module")
def bundle() -> ReasonerBundle:
    return echo_bundle()


@pytest.fixture
def cache(tmp_path: Path) -> TrajectoryCache:
    return cache_at(tmp_path)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a hanging engine waits for: the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def _think(cache: TrajectoryCache, bundle: ReasonerBundle, texts: list[str], script: Script, **more: Any) -> Any:
    """What comes of these queries, by text; and the engine that was asked."""
    queries = queries_of(*texts)
    reasoner = ScriptedReasoner(bundle, queries, script)
    rows = list(thinker_of(cache, bundle, reasoner).think(wanted_of(bundle, queries), **more))
    found = {row.trajectory.query: row for row in rows}
    assert len(found) == len(rows)
    return found, reasoner


def test_a_thought_is_kept_with_its_vector(cache: TrajectoryCache, bundle: ReasonerBundle) -> None:
    found, reasoner = _think(cache, bundle, ["one", "two"], lambda text, _: said(f"about {text}"))
    model = hashing()
    for text, row in found.items():
        kept = cache.find([row.trajectory.key])[row.trajectory.key]
        assert kept.trajectory == row.trajectory
        assert (kept.trajectory.text, kept.trajectory.num_attempts) == (f"about {text}", 1)
        assert kept.encoder == model.identity.fingerprint
        body = np.asarray(model.reasoned_body(text, f"about {text}", instruction=bundle.instruction(_query(text))))
        encoded = load_encoder(model, device="cpu", threads=1).encode([body.astype(np.int32)], role="reasoned")
        np.testing.assert_array_equal(kept.vector, encoded.vectors[0])
    assert all(len(requests) == 1 for requests in reasoner.asked.values())


def test_a_query_is_embedded_as_far_as_it_was_read() -> None:
    reads = ReasonSettings(max_query_tokens=16)
    bundle = open_reasoner(reads, ModelSettings(), device="cpu")
    model = open_bundle(ModelSettings(), device="cpu")
    asked: list[Any] = []
    query = _query("why do moths circle lamps at night? " * 20)

    class Asked(HashingEncoder):
        def encode(self, bodies: Any, *, role: Any) -> Any:
            asked.extend(bodies)
            return super().encode(bodies, role=role)

    encode_reasoned(Asked(hashing()), model, bundle, [(query, "Because of light.")])
    prompt = bundle.prompt_ids(query)
    assert tuple(asked[0][: len(prompt)]) == prompt
    imported = open_reasoner(ReasonSettings(engine="imported", model="m"), ModelSettings(), device="cpu")
    assert imported.max_query_tokens is None


def _query(text: str) -> Any:
    return queries_of(text)[0]


def test_answers_are_in_the_cache_before_the_last_one_comes(cache: TrajectoryCache, bundle: ReasonerBundle) -> None:
    texts = [f"q{number}" for number in range(40)]
    seen: list[int] = []

    def script(text: str, _: int) -> Completion:
        if text == texts[-1]:
            _await(lambda: cache.count() >= 16)
            seen.append(cache.count())
        return said()

    _think(cache, bundle, texts, script)
    assert 16 <= seen[0] < 40
    assert cache.count() == 40


def _await(condition: Any) -> None:
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        pause.wait(0.01)


def test_an_answer_does_not_wait_for_a_slow_one(
    cache: TrajectoryCache, bundle: ReasonerBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinking, "_FLUSH_SECONDS", 0.05)
    counts: list[int] = []

    def script(text: str, _: int) -> Completion:
        if text == "slow":
            _await(lambda: cache.count() == 1)
            counts.append(cache.count())
        return said()

    _think(cache, bundle, ["quick", "slow"], script)
    assert counts == [1]


@pytest.mark.parametrize("first", [CUT, NOTHING], ids=["cut", "empty"])
def test_what_came_to_nothing_is_tried_once_more(
    cache: TrajectoryCache, bundle: ReasonerBundle, first: Completion
) -> None:
    found, reasoner = _think(
        cache, bundle, ["good", "bad"], lambda text, n: first if (text, n) == ("bad", 0) else said()
    )
    assert len(reasoner.asked["good"]) == 1
    one, two = reasoner.asked["bad"]
    assert (one.prompt_ids, one.sampling.max_tokens) == (two.prompt_ids, two.sampling.max_tokens)
    assert one.seed != two.seed
    assert one.sampling == bundle.settings.sampling
    assert two.sampling.temperature >= RETRY_TEMPERATURE >= 0.7
    assert {text: row.trajectory.num_attempts for text, row in found.items()} == {"good": 1, "bad": 2}
    assert all(row.trajectory.is_usable and row.vector is not None for row in found.values())
    assert {row.trajectory.sampling for row in found.values()} == {bundle.sampling}


def test_a_temperature_that_is_higher_stays(cache: TrajectoryCache) -> None:
    hot = echo_bundle(sampling={"temperature": 1.5})
    _, reasoner = _think(cache, hot, ["q"], lambda _, n: said() if n else CUT)
    assert [request.sampling.temperature for request in reasoner.asked["q"]] == [1.5, 1.5]


@pytest.mark.parametrize("each", [CUT, NOTHING], ids=["cut", "empty"])
def test_the_second_attempt_is_kept_as_it_is(cache: TrajectoryCache, bundle: ReasonerBundle, each: Completion) -> None:
    found, reasoner = _think(cache, bundle, ["q"], lambda *_: each)
    assert len(reasoner.asked["q"]) == 2
    key = found["q"].trajectory.key
    kept = cache.find([key])[key]
    assert (kept.trajectory.text, kept.trajectory.finish_reason) == (each.text, each.finish_reason)
    assert (kept.trajectory.num_attempts, kept.vector, kept.encoder) == (2, None, "")
    assert not kept.trajectory.is_usable


@pytest.mark.parametrize("attempt", [0, 1])
def test_what_the_engine_gave_up_is_told_and_not_kept(
    cache: TrajectoryCache, bundle: ReasonerBundle, attempt: int
) -> None:
    failed = Completion("", 0, FinishReason.ERROR, "no room for it")
    found, reasoner = _think(
        cache, bundle, ["good", "bad"], lambda text, n: said() if text == "good" else failed if n == attempt else CUT
    )
    assert (found["bad"].trajectory.finish_reason, found["bad"].trajectory.text) == (FinishReason.ERROR, failed.detail)
    assert found["bad"].vector is None
    assert len(reasoner.asked["bad"]) == attempt + 1
    assert list(cache.find([row.trajectory.key for row in found.values()])) == [found["good"].trajectory.key]


def test_an_engine_that_breaks_down_is_an_error_and_loses_little(
    cache: TrajectoryCache, bundle: ReasonerBundle
) -> None:
    texts = [f"q{number}" for number in range(20)]

    def script(text: str, _: int) -> Completion:
        if text == texts[-1]:
            raise ModelError("broken")
        return said()

    with pytest.raises(ModelError, match="broken"):
        _think(cache, bundle, texts, script)
    assert cache.count() == 19


@pytest.mark.parametrize("hangs_at", ["last", "second attempt"])
def test_a_deadline_leaves_out_what_hangs(
    cache: TrajectoryCache, bundle: ReasonerBundle, released: threading.Event, hangs_at: str
) -> None:
    def script(text: str, number: int) -> Completion:
        if text == "last":
            if hangs_at == "second attempt" and number == 0:
                return CUT
            assert released.wait(PATIENCE_S)
        return said()

    found, _ = _think(cache, bundle, ["first", "second", "last"], script, deadline_s=2.0)
    assert not released.is_set()
    if hangs_at == "last":
        assert set(found) == {"first", "second"}
    else:  # the first attempt is paid for
        last = found["last"].trajectory
        assert (last.finish_reason, last.text, last.num_attempts) == (FinishReason.LENGTH, CUT.text, 1)
        assert found["last"].vector is None
    assert cache.count() == len(found)


def test_a_deadline_cancels_the_engine_though_no_answer_comes(cache: TrajectoryCache, bundle: ReasonerBundle) -> None:
    ended = threading.Event()

    class Deaf(ScriptedReasoner):
        def generate(self, requests: Any, *, cancelled: Any = None) -> Any:
            assert cancelled.wait(PATIENCE_S)
            ended.set()
            yield from ()

    queries = queries_of("q")
    thinker = thinker_of(cache, bundle, Deaf(bundle, queries, lambda *_: CUT))
    assert list(thinker.think(wanted_of(bundle, queries), deadline_s=0.2)) == []
    assert ended.wait(PATIENCE_S)


def test_a_deadline_that_is_over_asks_nothing(cache: TrajectoryCache, bundle: ReasonerBundle) -> None:
    found, reasoner = _think(cache, bundle, ["q"], lambda *_: CUT, deadline_s=0.0)
    assert found == {}
    assert reasoner.asked == {}
    assert cache.count() == 0


def test_answers_that_came_while_others_were_written_are_not_late(
    cache: TrajectoryCache, bundle: ReasonerBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"q{number}" for number in range(30)]
    clock, all_said = [0.0], threading.Event()
    monkeypatch.setattr(thinking, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    add = cache.add

    def slow_add(rows: Any) -> int:
        assert all_said.wait(PATIENCE_S)
        clock[0] = 100.0
        return add(rows)

    def script(text: str, _: int) -> Completion:
        if text == texts[-1]:
            all_said.set()
        return said()

    monkeypatch.setattr(cache, "add", slow_add)
    found, _ = _think(cache, bundle, texts, script, deadline_s=50.0)
    # the last is said, but may not have been handed over
    assert set(found) >= set(texts[:-1])


@pytest.mark.parametrize("breaks_at", ["first attempt", "second attempt"])
def test_a_first_attempt_outlives_a_breakdown(cache: TrajectoryCache, bundle: ReasonerBundle, breaks_at: str) -> None:
    def script(text: str, number: int) -> Completion:
        if (text == "last" and breaks_at == "first attempt") or number == 1:
            raise ModelError("broken")
        return NOTHING

    with pytest.raises(ModelError, match="broken"):
        _think(cache, bundle, ["one", "two", "last"], script)
    kept = cache.find([one.key for one in wanted_of(bundle, queries_of("one", "two", "last"))]).values()
    expected = {"one", "two"} | ({"last"} if breaks_at == "second attempt" else set())
    assert {row.trajectory.query for row in kept} == expected
    assert {(row.trajectory.finish_reason, row.trajectory.num_attempts) for row in kept} == {(FinishReason.EMPTY, 1)}


@pytest.mark.parametrize(("why", "marked"), [(Reason.NOT_FINITE, True), (Reason.OUT_OF_MEMORY, False)])
def test_what_no_machine_could_encode_is_marked(
    cache: TrajectoryCache, bundle: ReasonerBundle, monkeypatch: pytest.MonkeyPatch, why: Reason, marked: bool
) -> None:
    monkeypatch.setattr(thinking, "encode_reasoned", lambda *arguments: [why] * len(arguments[-1]))
    found, _ = _think(cache, bundle, ["q"], lambda *_: said())
    fingerprint = hashing().identity.fingerprint
    (kept,) = cache.find([found["q"].trajectory.key]).values()
    assert (kept.vector, kept.encoder) == (None, fingerprint if marked else "")
    notes = Notes(bundle, queries_of("q"))
    notes.look_up(cache)
    assert len(notes.without_vector(fingerprint)) == (not marked)
    assert notes.is_searchable(0, encoder=fingerprint) is not marked
    assert len(notes.without_vector("another encoder")) == 1


def test_an_engine_that_breaks_down_before_the_deadline_is_an_error(
    cache: TrajectoryCache, bundle: ReasonerBundle
) -> None:
    def script(text: str, _: int) -> Completion:
        raise ModelError("broken")

    with pytest.raises(ModelError, match="broken"):
        _think(cache, bundle, ["q"], script, deadline_s=PATIENCE_S)


def test_whoever_stops_listening_takes_the_rest_out_of_the_engine(
    cache: TrajectoryCache, bundle: ReasonerBundle
) -> None:
    texts = [f"q{number}" for number in range(200)]
    queries, listening = queries_of(*texts), threading.Event()
    closed = threading.Event()

    class Closing(ScriptedReasoner):
        def generate(self, requests: Any, **options: Any) -> Any:
            try:
                yield from super().generate(requests, **options)
            finally:
                closed.set()

    def script(text: str, _: int) -> Completion:
        if text == texts[100]:
            assert listening.wait(PATIENCE_S)
        return said()

    reasoner = Closing(bundle, queries, script)
    running = thinker_of(cache, bundle, reasoner).think(wanted_of(bundle, queries))
    next(running)
    running.close()
    listening.set()
    assert closed.wait(PATIENCE_S)
    assert len(reasoner.asked) < 200


def test_two_threads_share_it(cache: TrajectoryCache, bundle: ReasonerBundle) -> None:
    texts = [f"q{number}" for number in range(30)]
    queries, both = queries_of(*texts), threading.Barrier(2, timeout=PATIENCE_S)
    meeting = {texts[0], texts[-1]}

    def script(text: str, _: int) -> Completion:
        if text in meeting:
            both.wait()  # neither thread keeps the engine for itself
        return said(f"about {text}")

    model, busy, met = hashing(), threading.Lock(), threading.Event()
    encoder = load_encoder(model, device="cpu", threads=1)
    encode = encoder.encode

    def encode_alone(*args: Any, **named: Any) -> Any:
        if not busy.acquire(blocking=False):
            met.set()
            return encode(*args, **named)
        try:
            met.wait(0.3)  # for the other thread, which has something to encode by now
            return encode(*args, **named)
        finally:
            busy.release()

    encoder.encode = encode_alone  # type: ignore[method-assign]
    thinker = Thinker(cache, bundle, ScriptedReasoner(bundle, queries, script), (encoder, model))
    wanted, found = wanted_of(bundle, queries), []
    # both want those in the middle
    parts = [wanted[:20], wanted[:9:-1]]
    threads = [threading.Thread(target=lambda p=part: found.append(list(thinker.think(p)))) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not met.is_set(), "two threads were in the encoder"
    assert sorted(len(rows) for rows in found) == [20, 20]
    assert cache.count() == 30
    kept = cache.find([one.key for one in wanted])
    assert {row.trajectory.query: row.trajectory.text for row in kept.values()} == {t: f"about {t}" for t in texts}
    assert all(row.vector is not None for row in kept.values())
