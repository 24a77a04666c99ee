"""An endpoint is asked for many completions at once, in the bundle's token ids, and tried again where that helps."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from pipeline.model.endpoint import MAX_IN_FLIGHT
from pipeline.model.endpoint_client import _seconds
from pipeline.model.reasoner import Completion, Request, load_reasoner
from pipeline.model.reasoning import open_reasoner
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.records import FinishReason, Query
from pipeline.settings import ModelSettings
from tests.model.completion_server import TEXT, CompletionServer, Reply, completed, refused
from tests.model.endpoints import KEY, QUICK, Open, ask, bundle_of, first, only, requests


def test_the_server_gets_the_bundles_prompt_ids_and_what_the_settings_say(
    server: CompletionServer, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of another service")
    monkeypatch.setenv("T1_REASONER_API_KEY", KEY)
    ids = bundle_of(server.base).prompt_ids(Query("q", "Why are leaves green?", task="biology"))
    drawn = SamplingSettings(max_tokens=7, temperature=0.5, top_p=0.9, top_k=40, stop=("\n\n",))
    ask(open_endpoint(), [Request(ids, SamplingSettings(max_tokens=5), seed=3)])
    ask(open_endpoint(), [Request(ids, drawn, seed=4)])
    same = {"model": "served", "prompt": list(ids), "n": 1}
    assert server.asked[0] == same | {"max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "seed": 3}
    extra = {"top_k": 40, "stop": ["\n\n"]}
    assert server.asked[1] == same | {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 4} | extra
    assert server.keys == [f"Bearer {KEY}"] * 2


def test_an_answer_is_mapped_to_text_tokens_and_reason(server: CompletionServer, open_endpoint: Open) -> None:
    answers = [
        completed(num_tokens=9),
        completed(finish_reason="length", num_tokens=32),
        completed("  \n", num_tokens=2),
        completed(finish_reason="abort"),
        completed("half a pair \ud83d, and a whole \U0001f98b"),
    ]
    server.plan = lambda body: answers[body["seed"]]
    found = ask(open_endpoint(), requests(5))
    assert found[0] == Completion(TEXT.strip(), 8, FinishReason.STOP)
    assert found[1] == Completion(TEXT.strip(), 32, FinishReason.LENGTH)
    assert found[2] == Completion("", 1, FinishReason.EMPTY)
    assert found[3].finish_reason is FinishReason.ERROR
    assert "abort" in found[3].detail
    assert found[4].text == "half a pair \ufffd, and a whole \U0001f98b"


def test_so_many_are_in_flight_at_once_and_never_more(server: CompletionServer, open_endpoint: Open) -> None:
    full = threading.Barrier(MAX_IN_FLIGHT)

    def plan(body: dict[str, Any]) -> Reply:
        full.wait(timeout=60)  # opens only when so many have come
        return completed()

    server.plan = plan
    found = ask(open_endpoint(timeout_s=120.0), requests(2 * MAX_IN_FLIGHT))
    assert {completion.finish_reason for completion in found} == {FinishReason.STOP}
    assert server.most_in_flight == MAX_IN_FLIGHT


def test_completions_come_as_they_finish(server: CompletionServer, open_endpoint: Open) -> None:
    others_came = threading.Event()

    def plan(body: dict[str, Any]) -> Reply:
        if body["seed"] == 0:
            others_came.wait(timeout=60)
        return completed()

    server.plan = plan
    found = []
    for position, _ in open_endpoint().generate(requests(3)):
        found.append(position)
        if len(found) == 2:
            others_came.set()
    assert sorted(found[:2]) == [1, 2]
    assert found[2] == 0


@pytest.mark.parametrize(
    "reply",
    [
        refused(429, "Too many requests", Retry_After="0.01"),
        refused(500, "Internal server error"),
        refused(503, "Service Unavailable"),
        Reply(resets=True),
    ],
)
def test_what_may_pass_is_tried_again(reply: Reply, server: CompletionServer, open_endpoint: Open) -> None:
    server.plan = first(reply)
    found = ask(open_endpoint(), requests(5))
    assert {completion.text for completion in found} == {TEXT.strip()}
    assert Counter(body["seed"] for body in server.asked) == dict.fromkeys(range(5), 2)


def test_a_wait_that_the_server_asks_for_is_kept_or_not_begun(server: CompletionServer, open_endpoint: Open) -> None:
    server.plan = first(refused(429, "Too many requests", Retry_After="3600"))
    (found,) = ask(open_endpoint(), requests(1))
    assert found.finish_reason is FinishReason.ERROR
    assert len(server.asked) == 1, "a second attempt before the hour is over would be refused too"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _seconds("12") == 12.0
    assert _seconds("") == _seconds("soon") == _seconds("-5") == 0.0
    assert 3500 < _seconds(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)) <= 3600


def test_a_request_that_always_fails_is_an_error_of_its_own(server: CompletionServer, open_endpoint: Open) -> None:
    server.plan = only(2, reply=lambda: refused(500, "CUDA error in this prompt"))
    found = ask(open_endpoint(), requests(5))
    assert [c.finish_reason for c in found if c.text] == [FinishReason.STOP] * 4
    assert found[2].finish_reason is FinishReason.ERROR
    assert "500: CUDA error in this prompt" in found[2].detail


def test_a_server_that_hangs_is_given_up_in_time(server: CompletionServer, open_endpoint: Open) -> None:
    def hang() -> Reply:
        server.ended.wait()
        return completed()

    server.plan = only(1, reply=hang)
    found = ask(open_endpoint(timeout_s=0.5), requests(3))
    assert [c.finish_reason for c in found] == [FinishReason.STOP, FinishReason.ERROR, FinishReason.STOP]
    assert "no answer in" in found[1].detail
    assert Counter(body["seed"] for body in server.asked)[1] == QUICK.attempts


def test_whoever_stops_early_waits_for_nobody(server: CompletionServer, open_endpoint: Open) -> None:
    def hang() -> Reply:
        server.ended.wait()
        return completed()

    server.plan = only(1, 2, reply=hang)
    reasoner = open_endpoint(timeout_s=3600.0)
    running = reasoner.generate(requests(3))
    assert next(running)[0] == 0
    running.close()
    reasoner.close()
    reasoner.close()
    assert "endpoint" not in {thread.name for thread in threading.enumerate()}


def test_a_revision_tells_two_models_of_one_name_apart(server: CompletionServer) -> None:
    settings = ReasonSettings(engine="openai", endpoint=server.base, model="served")
    query = Query("q", "Why are leaves green?")
    plain, first, second = (
        open_reasoner(settings.model_copy(update={"revision": revision}), ModelSettings(), device="cpu")
        for revision in (None, "a", "b")
    )
    assert [bundle.source for bundle in (plain, first, second)] == ["served", "served@a", "served@b"]
    assert len({bundle.fingerprint(query) for bundle in (plain, first, second)}) == 3
    reasoner = load_reasoner(first, device="cpu")
    try:
        ask(reasoner, requests(1))
    finally:
        reasoner.close()
    assert server.asked[0]["model"] == "served"


def test_the_engine_is_found_by_its_name(server: CompletionServer) -> None:
    reasoner = load_reasoner(bundle_of(f"{server.base}/"), device="cpu")
    try:
        assert ask(reasoner, requests(1))[0].text == TEXT.strip()  # type: ignore[arg-type]
    finally:
        reasoner.close()
