"""Tries again what a store may do the next time, and says plainly what it will never do.

Tells failures apart by what the client libraries raise (s3fs, botocore, aiohttp, Lance), without importing any: by
errno, by the answer's status, by name, and by text where there is nothing else. Knows nothing of what is tried: it
must be safe to do twice. Called by corpus and store; `model.endpoint` takes its `Patience`.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from pipeline.errors import StorageError, T1Error
from pipeline.storage import redact

Result = TypeVar("Result")


class Failure(StrEnum):
    """What an error says of trying again."""

    TRANSIENT = "transient"  # may well work: a reset, a timeout, an overloaded store, an answer cut short
    FULL = "full"  # no room on a disk
    REFUSED = "refused"  # wrong credentials, or none, or no right to do this
    PERMANENT = "permanent"  # will not work, or is no failure of a store at all


_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED_STATUS = frozenset({401, 403})
_TRANSIENT_CODES = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError"})
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TRANSIENT_ERRNOS = frozenset(
    # s3fs gives 503 as EBUSY and 500 as EREMOTEIO (121 on Linux, which other systems lack)
    {errno.EBUSY, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, 121}
)
_TRANSIENT_NAMES = frozenset(
    {
        *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),  # botocore
        *("HTTPClientError", "IncompleteReadError", "ResponseStreamingError", "ResponseParserError"),
        *("ClientPayloadError", "ServerDisconnectedError", "ClientConnectionError"),  # aiohttp
        *("ClientConnectorError", "ClientOSError", "ServerTimeoutError", "ContentLengthError"),
        *("FSTimeoutError", "IncompleteRead", "ProtocolError"),  # fsspec, http.client, urllib3
    }
)
_REFUSED_NAMES = frozenset({"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"})

# Lance hands on the text of object_store and of the operating system.
_STATUS_TEXT = re.compile(r"status code: (\d{3})\b")
_FULL_TEXT = re.compile(r"\(os error (?:28|122|27)\)|No space left on device")
_REFUSED_TEXT = re.compile(
    r"lacked the necessary privileges|Permission denied|lacked valid authentication|\(os error 13\)"
    r"|no providers in chain provided credentials|credential provider was not enabled",
    re.IGNORECASE,
)
_TRANSIENT_TEXT = re.compile(
    r"error sending request|error decoding response body|request or response body error|operation timed out"
    r"|connection closed before message completed|connection reset|broken pipe|after \d+ retries|end of file before"
    r"|\(os error (?:32|104|110|111)\)|incomplete message|content-length mismatch|SlowDown",
    re.IGNORECASE,
)


def classify(error: BaseException) -> Failure:
    """What an error, or the first of its causes that says anything, means for trying again."""
    for link in _chain(error):
        if isinstance(link, T1Error):
            return Failure.PERMANENT  # somebody who knew more has decided already
        found = _by_answer(link) or _by_kind(link) or _by_text(link)
        if found is not None:
            return found
    return Failure.PERMANENT


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well work a little later."""
    return classify(error) is Failure.TRANSIENT


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The causes, innermost last; what a client was told says more than what s3fs makes of it, so it comes first."""
    cause = error.__cause__
    if cause is not None and hasattr(cause, "response"):
        yield cause
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _by_answer(error: BaseException) -> Failure | None:
    """Botocore's ClientError carries the answer."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status in _TRANSIENT_STATUS or response.get("Error", {}).get("Code") in _TRANSIENT_CODES:
        return Failure.TRANSIENT
    return Failure.REFUSED if status in _REFUSED_STATUS else Failure.PERMANENT


def _by_kind(error: BaseException) -> Failure | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL_ERRNOS:
        return Failure.FULL
    if isinstance(error, PermissionError) or names & _REFUSED_NAMES:
        return Failure.REFUSED
    if isinstance(error, (ConnectionError, TimeoutError)) or number in _TRANSIENT_ERRNOS or names & _TRANSIENT_NAMES:
        return Failure.TRANSIENT
    if isinstance(error, FileNotFoundError):
        return Failure.PERMANENT
    return None


def _by_text(error: BaseException) -> Failure | None:
    """Lance raises OSError, RuntimeError and ValueError; Arrow OSError; both with everything in the text."""
    if not isinstance(error, (OSError, RuntimeError, ValueError)):
        return None
    text = str(error)
    if _FULL_TEXT.search(text):
        return Failure.FULL
    statuses = {int(status) for status in _STATUS_TEXT.findall(text)}
    if statuses & _REFUSED_STATUS or _REFUSED_TEXT.search(text):
        return Failure.REFUSED
    if statuses & _TRANSIENT_STATUS or (not statuses and _TRANSIENT_TEXT.search(text)):
        return Failure.TRANSIENT
    return None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on trying.

    Attributes:
        attempts: At most so many, at least 1.
        deadline_s: No attempt begins later than this after the first one began.
        first_wait_s: The longest first wait; each later one may be twice as long.
        max_wait_s: But never longer than this.
    """

    attempts: int = 6
    deadline_s: float = 120.0
    first_wait_s: float = 0.5
    max_wait_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, so that tests have their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = field(default=random.random)


# Client libraries retry by themselves first, for about a minute; this is what comes after.
PATIENCE = Patience()
_CLOCK = Clock()


def retrying(
    operation: Callable[[], Result],
    *,
    what: str,
    patience: Patience | None = None,
    clock: Clock = _CLOCK,
    on_retry: Callable[[BaseException], None] | None = None,
) -> Result:
    """The result of `operation`, tried again after transient failures with waits drawn from [0, a doubling bound).

    Waits are drawn ("full jitter"), so that many workers that failed together do not come back together.

    Args:
        operation: Safe to do twice.
        what: What it does, as the beginning of a sentence: "reading s3://bucket/key".
        patience: How often and how long; `PATIENCE` when None.
        clock: Time and chance.
        on_retry: Called with each failure before the next attempt.

    Raises:
        StorageError: the store did not recover, refused, or a disk is full.
        BaseException: whatever else `operation` raises, as it is.
    """
    patience = patience or PATIENCE
    started = clock.now()
    for attempt in range(1, patience.attempts + 1):
        try:
            return operation()
        except Exception as error:
            failure = classify(error)
            if failure is Failure.PERMANENT:
                raise
            wait_s = clock.draw() * min(patience.max_wait_s, patience.first_wait_s * 2 ** (attempt - 1))
            elapsed_s = clock.now() - started
            last = attempt == patience.attempts or elapsed_s + wait_s > patience.deadline_s
            if failure is not Failure.TRANSIENT or last:
                raise StorageError(explain(error, what, attempts=attempt, elapsed_s=elapsed_s)) from error
            if on_retry is not None:
                on_retry(error)
        clock.sleep(wait_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


def explain(error: BaseException, what: str, *, attempts: int = 1, elapsed_s: float = 0.0) -> str:
    """One sentence: what failed, why, and what to do.

    Args:
        error: That ended it.
        what: What was tried, as the beginning of a sentence.
        attempts: How often.
        elapsed_s: For how long, in seconds.
    """
    reason, what = _reason(error), redact(what)
    failure = classify(error)
    if failure is Failure.FULL:
        return f"{what}: no room left ({reason}); make room and run the same command again, nothing published is lost"
    if failure is Failure.REFUSED:
        return f"{what}: no permission ({reason}); check the credentials in the environment and the rights they give"
    if failure is Failure.TRANSIENT:
        tried = f"{attempts} attempt{'s' * (attempts > 1)} in {elapsed_s:.0f} s"
        return f"{what}: the store did not answer as it should ({tried}; {reason}); run the same command again later"
    return f"{what} failed ({reason})"


def _reason(error: BaseException) -> str:
    """The error's text on one line, without places in Lance's source and without anything secret."""
    text = re.sub(r",? ?/[^\s,]*/rust/[^\s,]*\.rs:\d+:\d+", "", str(error))
    text = re.sub(r"<\?xml.*", "", " ".join(text.split())).strip(" .,:")
    return redact(text[:300]) or type(error).__name__
