"""What an endpoint will never answer is one sentence without a key in it; what concerns one request stays its own."""

from __future__ import annotations

import pytest

from pipeline.errors import ModelError, SettingsError
from pipeline.model.endpoint import EndpointReasoner
from pipeline.model.endpoint_client import MAX_FAILURES_IN_A_ROW
from pipeline.records import FinishReason
from tests.model.completion_server import CompletionServer, Reply, refused, running_server
from tests.model.endpoints import KEY, QUICK, Open, ask, bundle_of, only, requests


def test_an_endpoint_that_answers_nobody_stops_the_run(server: CompletionServer, open_endpoint: Open) -> None:
    server.plan = lambda body: refused(500, "EngineDeadError")
    with pytest.raises(ModelError, match=r"does not answer as an endpoint should .500: EngineDeadError"):
        list(open_endpoint().generate(requests(4 * MAX_FAILURES_IN_A_ROW)))


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "T1_REASONER_API_KEY"])
def test_a_refused_key_is_said_and_never_shown(
    name: str, server: CompletionServer, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, KEY)
    server.plan = lambda body: refused(403, f"The key {KEY} may not do this", kind="PermissionError")
    with pytest.raises(
        ModelError, match=r"refuses the key .403: The key \*\*\* may not.*T1_REASONER_API_KEY"
    ) as caught:
        list(open_endpoint().generate(requests(2)))
    server.models = refused(401, f"Incorrect API key: {KEY}", kind="Unauthorized")
    with pytest.raises(ModelError, match="refuses the key") as earlier:
        open_endpoint()
    for error in (caught.value, earlier.value):
        assert KEY not in f"{error!r} {error.__cause__!r}"


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    open_endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T1_REASONER_API_KEY", f"{KEY}\nX")
    with pytest.raises(SettingsError, match="T1_REASONER_API_KEY holds a character") as caught:
        open_endpoint()
    assert KEY not in str(caught.value)


def test_a_model_that_is_not_served_is_answered_with_those_that_are(
    server: CompletionServer, open_endpoint: Open
) -> None:
    server.plan = lambda body: refused(404, "The model `served` does not exist.", kind="NotFoundError")
    with pytest.raises(ModelError, match=r"no model 'served'.*models that it serves: served, other; name one with"):
        list(open_endpoint().generate(requests(2)))


def test_a_request_that_is_too_long_is_an_error_of_its_own(server: CompletionServer, open_endpoint: Open) -> None:
    message = "This model's maximum context length is 64 tokens."
    server.plan = lambda body: refused(400, message)  # although nothing was answered yet
    (found,) = ask(open_endpoint(), requests(1))
    assert found.finish_reason is FinishReason.ERROR
    assert message in found.detail


def test_a_refusal_is_everybodys_until_somebody_was_answered(server: CompletionServer, open_endpoint: Open) -> None:
    server.plan = only(1, reply=lambda: refused(400, "Unrecognized request argument: top_k"))
    with pytest.raises(ModelError, match=r"refuses such requests .400: Unrecognized request argument"):
        list(open_endpoint().generate(requests(2)[1:]))
    reasoner = open_endpoint()
    ask(reasoner, requests(1))
    (found,) = ask(reasoner, requests(2)[1:])
    assert found.finish_reason is FinishReason.ERROR


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body="<html>Welcome</html>"), "answered with no completion: 200: <html>Welcome"),
        (Reply(307, "", {"Location": "http://elsewhere/"}), "refuses such requests .307.*URL that it leads to"),
        (refused(429, "You exceeded your quota; insufficient_quota"), "refuses such requests .429: You exceeded"),
    ],
)
def test_what_will_not_pass_is_asked_once(
    reply: Reply, said: str, server: CompletionServer, open_endpoint: Open
) -> None:
    server.plan = lambda body: reply
    with pytest.raises(ModelError, match=said):
        list(open_endpoint().generate(requests(1)))
    assert len(server.asked) == 1


def test_a_server_with_another_tokenizer_is_refused_before_it_is_asked(
    server: CompletionServer, open_endpoint: Open
) -> None:
    tokenizer = bundle_of(server.base).tokenizer
    server.tokenise = lambda text: tokenizer.encode([text])[0]
    ask(open_endpoint(), requests(1))
    server.tokenise = lambda text: [ord(character) for character in text]
    with pytest.raises(ModelError, match="another tokenizer than that of default"):
        open_endpoint()
    assert len(server.asked) == 1


def test_nobody_there_is_said_with_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as gone:
        base = gone.base
    with pytest.raises(ModelError, match=f"{base} does not answer .no connection"):
        EndpointReasoner(bundle_of(base), patience=QUICK)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://ann:hunter2@host:8000/v1", "user or password before host"),
        ("https://host/v1?api-key=hunter2", "query or fragment"),
        ("host:8000/hunter2", "not an http:// or https:// URL"),
        ("http://host:hunter2/v1", "not a URL"),
    ],
)
def test_a_url_that_holds_a_secret_is_refused_before_anything_is_stored(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        bundle_of(url)
    assert "hunter2" not in str(caught.value)
