"""One request to an OpenAI-compatible endpoint: sent, tried again where that may help, and explained where not.

Tells what concerns every request (`ModelError`) from what concerns one alone (`Failed`). Knows nothing of prompts or
trajectories. Called by `endpoint`, on its event loop.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from pipeline.errors import ModelError
from pipeline.model.endpoint_address import KEY_NAMES
from pipeline.retry import Patience
from pipeline.storage import redact

# One failure can be its request's own fault; so many in a row, with no answer between them, are the endpoint's.
MAX_FAILURES_IN_A_ROW = 8
_CONNECT_TIMEOUT_S = 10.0
_LOOKUP_TIMEOUT_S = 30.0  # for a question that needs no model
_LOOKUP_ATTEMPTS = 4  # somebody waits for the command to begin
_TOO_LONG = re.compile(r"context|too long|longer than|maximum.{0,20}(?:length|tokens)|exceed", re.IGNORECASE)
_ASKS_LESS = (400, 413, 422)  # the statuses with which servers refuse what is in a body


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of a request that alone is given up.

    Attributes:
        detail: One sentence.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer, or why there is none (status 0)."""

    status: int
    text: str
    retry_after_s: float = 0.0
    connected: bool = True

    @property
    def is_transient(self) -> bool:
        """Whether the same request may well work a little later; a quota that is used up stays so."""
        return self.status in (0, 408, 425) or self.status >= 500 or (self.status == 429 and not self._is_spent)

    @property
    def _is_spent(self) -> bool:
        return "insufficient_quota" in self.text


class EndpointClient:
    """Connections to one endpoint; to be used on one event loop."""

    def __init__(self, base: str, *, key: str, max_connections: int, patience: Patience) -> None:
        self._base = base
        self._key = key
        self._patience = patience
        self._answered = False
        self._failures = 0
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # `_send` bounds the whole
        )

    async def list_models(self) -> tuple[str, ...]:
        """Names that the endpoint says it serves; () where it does not say.

        Raises:
            ModelError: it cannot be reached, or refuses the key.
        """
        patience = replace(self._patience, attempts=min(_LOOKUP_ATTEMPTS, self._patience.attempts))
        reply = await self._insist(lambda: self._send("GET", "/models", None, timeout_s=_LOOKUP_TIMEOUT_S), patience)
        if reply.status == 0:
            raise ModelError(f"{self._base} does not answer ({reply.text}); is the server up, and --endpoint its URL?")
        if reply.status == 401:
            raise self._refusal(reply)
        try:
            return tuple(str(model["id"]) for model in json.loads(reply.text)["data"])
        except (ValueError, LookupError, TypeError):
            return ()

    async def tokenise(self, model: str, text: str) -> list[int] | None:
        """Token ids as the server itself makes them; None where it does not say (vLLM and SGLang do)."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        reply = await self._send("POST", "/tokenize", body, timeout_s=_LOOKUP_TIMEOUT_S)
        try:
            tokens = json.loads(reply.text)["tokens"] if reply.status == 200 else None
        except (ValueError, LookupError, TypeError):
            return None
        return tokens if isinstance(tokens, list) and all(type(token) is int for token in tokens) else None

    async def complete(self, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any] | Failed:
        """The answer's first choice, with the answer's `usage` beside its own fields.

        Args:
            body: Of POST /completions.
            timeout_s: For one attempt, in seconds, from its first byte to the answer's last.

        Raises:
            ModelError: no request of this kind can succeed.
        """
        patience = self._patience
        reply = await self._insist(lambda: self._send("POST", "/completions", body, timeout_s=timeout_s), patience)
        if reply.status == 200:
            try:
                answer = json.loads(reply.text)
                choice = {**answer["choices"][0], "usage": answer.get("usage") or {}}
            except (ValueError, LookupError, TypeError, AttributeError):
                return self._give_up(f"it answered with no completion: {self._say(reply)}", alone=self._answered)
            self._answered, self._failures = True, 0
            return choice
        if reply.status == 404:
            served = ", ".join(await self.list_models()) or "it does not say which"
            raise ModelError(
                f"{self._base} has no model {body['model']!r}, or no /completions ({self._say(reply)}); "
                f"models that it serves: {served}; name one with --reasoner"
            )
        if reply.status in _ASKS_LESS and (self._answered or _TOO_LONG.search(reply.text)):
            return Failed(f"the endpoint refused this request: {self._say(reply)}")
        if reply.is_transient:
            return self._give_up(self._say(reply), alone=reply.connected)
        raise self._refusal(reply)

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def _insist(self, send: Callable[[], Awaitable[_Reply]], patience: Patience) -> _Reply:
        """The first reply that is not transient, or the last one."""
        started = time.monotonic()
        for attempt in range(1, patience.attempts + 1):
            reply = await send()
            bound_s = min(patience.max_wait_s, patience.first_wait_s * 2 ** (attempt - 1))
            wait_s = max(reply.retry_after_s, random.random() * bound_s)  # drawn, so that not all come back at once
            late = time.monotonic() - started + wait_s > patience.deadline_s
            if not reply.is_transient or attempt == patience.attempts or late:
                return reply
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns")

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, *, timeout_s: float) -> _Reply:
        base = self._base.removesuffix("/v1") if path == "/tokenize" else self._base  # where vLLM and SGLang have it
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.request(method, f"{base}{path}", json=body)
        except TimeoutError:
            return _Reply(0, f"no answer in {timeout_s:.0f} s")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _Reply(0, f"no connection: {str(error) or type(error).__name__}", connected=False)
        except httpx2.RequestError as error:  # a reset, an answer cut short
            return _Reply(0, f"the connection broke: {str(error) or type(error).__name__}")
        return _Reply(response.status_code, response.text, _seconds(response.headers.get("Retry-After", "")))

    def _give_up(self, reason: str, *, alone: bool) -> Failed:
        self._failures += 1
        if not alone or self._failures >= MAX_FAILURES_IN_A_ROW:
            raise ModelError(
                f"{self._base} does not answer as an endpoint should ({reason}); see to its server or mend --endpoint, "
                "then run the same command again: what was answered is kept"
            )
        return Failed(f"the endpoint gave no answer to this request: {reason}")

    def _refusal(self, reply: _Reply) -> ModelError:
        if reply.status in (401, 403):
            what = "refuses the key" if self._key else "wants a key"
            return ModelError(f"{self._base} {what} ({self._say(reply)}); set {' or '.join(KEY_NAMES)}")
        advice = "give the URL that it leads to" if 300 <= reply.status < 400 else "mend the command or the server"
        return ModelError(f"{self._base} refuses such requests ({self._say(reply)}); {advice}")

    def _say(self, reply: _Reply) -> str:
        """Status and message on one line, without anything secret."""
        text = reply.text
        try:
            found = json.loads(text)
            found = found.get("error", found)
            text = str(found if isinstance(found, str) else found.get("message") or found.get("detail") or text)
        except (ValueError, AttributeError):
            pass
        text = without_surrogates(" ".join(text.split()))
        if self._key:
            text = text.replace(self._key, "***")
        return redact(f"{reply.status}: {text[:300]}" if reply.status else text[:300])


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a pair that stands alone, which JSON can spell and UTF-8 cannot store."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
