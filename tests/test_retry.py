"""What is tried again, how often and how long, and what is said where it is not. No test waits."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from fsspec.exceptions import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError, StorageError
from pipeline.retry import Clock, Failure, Patience, classify, explain, retrying

_PLACE = ", /build/lance/rust/lance-io/src/object_store.rs:1589:50"


def _answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _lance(text: str) -> OSError:
    return OSError(f"LanceError(IO): Generic S3 error: Error performing GET http://127.0.0.1:503/500/x in 2 ms{text}")


TRANSIENT = [
    _lance(", after 10 retries, max_retries: 10, retry_timeout: 180s  - HTTP error: error sending request" + _PLACE),
    _lance(" - HTTP error: error sending request"),
    ValueError(f"{_lance('')} - Server returned non-2xx status code: 503 Service Unavailable: <?xml"),
    _lance(" - Server returned non-2xx status code: 500 Internal Server Error: "),
    _lance(" - Server returned non-2xx status code: 429 Too Many Requests"),
    RuntimeError("External error: Generic S3 error: HTTP error: request or response body error"),
    OSError("LanceError(IO): Generic S3 error: error decoding response body, operation timed out"),
    _answer(503, "SlowDown"),
    _answer(500, "InternalError"),
    _answer(400, "RequestTimeout"),
    _because(OSError(errno.EINVAL, "what s3fs made of it"), _answer(503, "SlowDown")),
    OSError(errno.EBUSY, "Service Unavailable"),
    OSError(121, "Internal Server Error"),
    EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
    ConnectTimeoutError(endpoint_url="http://127.0.0.1:9"),
    ReadTimeoutError(endpoint_url="http://127.0.0.1:9"),
    ClientPayloadError("Response payload is not completed"),
    ServerDisconnectedError(),
    FSTimeoutError(),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    BrokenPipeError(),
    TimeoutError(),
]
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)" + _PLACE),
    OSError("LanceError(IO): File too large (os error 27)"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
]
REFUSED = [
    PermissionError("Forbidden"),
    _because(PermissionError("Access Denied"), _answer(403, "AccessDenied")),
    _answer(403, "SignatureDoesNotMatch"),
    _lance(" - Server returned non-2xx status code: 403 Forbidden: <?xml"),
    OSError("LanceError(IO): The operation lacked the necessary privileges to complete for path x: Error performing"),
    NoCredentialsError(),
]
PERMANENT = [
    FileNotFoundError("no such key"),
    _because(FileNotFoundError("The specified bucket does not exist"), _answer(404, "NoSuchBucket")),
    _lance(" - Server returned non-2xx status code: 404 Not Found: <?xml"),
    ValueError("Dataset at path db/503 was not found: Not found: db/503/_versions"),
    OSError(errno.EINVAL, "Invalid argument"),
    KeyError("x"),
    RuntimeError("a bug"),
    _because(CorpusError("said already"), ConnectionResetError()),
    _because(StorageError("given up already"), ConnectionResetError()),
]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        *((error, Failure.TRANSIENT) for error in TRANSIENT),
        *((error, Failure.FULL) for error in FULL),
        *((error, Failure.REFUSED) for error in REFUSED),
        *((error, Failure.PERMANENT) for error in PERMANENT),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_failures_are_told_apart(error: Exception, failure: Failure) -> None:
    assert classify(error) is failure


class _Time:
    """A clock whose sleeps cost nothing, and whose draws are the longest waits."""

    def __init__(self, draw: Callable[[], float] = lambda: 1.0) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []
        self.clock = Clock(lambda: self.now_s, self._sleep, draw)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


def _failing(*errors: Exception, cost_s: float = 0.0, time: _Time | None = None) -> Callable[[], str]:
    waiting = iter(errors)

    def operation() -> str:
        if time is not None:
            time.now_s += cost_s
        error = next(waiting, None)
        if error is not None:
            raise error
        return "done"

    return operation


def test_it_goes_on_until_it_works() -> None:
    time, seen = _Time(), list[BaseException]()
    operation = _failing(TimeoutError(), ConnectionResetError(), TimeoutError())
    assert retrying(operation, what="reading", clock=time.clock, on_retry=seen.append) == "done"
    assert time.waits == [0.5, 1.0, 2.0]
    assert [type(error) for error in seen] == [TimeoutError, ConnectionResetError, TimeoutError]


def test_it_gives_up_after_so_many_attempts() -> None:
    time = _Time()
    with pytest.raises(StorageError, match=r"^reading s3://b/k: the store did not answer .*3 attempts in 2 s.*again"):
        retrying(
            _failing(*[TimeoutError("slow")] * 9), what="reading s3://b/k", patience=Patience(attempts=3),
            clock=time.clock,
        )  # fmt: skip
    assert len(time.waits) == 2


def test_no_attempt_begins_after_the_deadline() -> None:
    time = _Time()
    operation = _failing(*[TimeoutError()] * 99, cost_s=40, time=time)
    with pytest.raises(StorageError, match="3 attempts in 122 s"):
        retrying(operation, what="reading", patience=Patience(attempts=50, deadline_s=100), clock=time.clock)


@given(st.integers(1, 12), st.floats(0, 1), st.floats(0.1, 100))
def test_waits_stay_in_their_bounds(attempts: int, draw: float, deadline_s: float) -> None:
    time = _Time(lambda: draw)
    patience = Patience(attempts=attempts, deadline_s=deadline_s, first_wait_s=0.5, max_wait_s=4)
    with pytest.raises(StorageError):
        retrying(_failing(*[TimeoutError()] * 99), what="reading", patience=patience, clock=time.clock)
    assert len(time.waits) < attempts
    assert all(wait <= min(4, 0.5 * 2**number) for number, wait in enumerate(time.waits))
    assert time.now_s <= deadline_s


@pytest.mark.parametrize("error", PERMANENT, ids=lambda error: type(error).__name__)
def test_what_will_not_work_is_raised_as_it_is(error: Exception) -> None:
    time = _Time()
    with pytest.raises(type(error)) as caught:
        retrying(_failing(error), what="reading", clock=time.clock)
    assert caught.value is error
    assert not time.waits


@pytest.mark.parametrize(
    ("error", "words"),
    [
        *((error, "no room left .* make room and run the same command again") for error in FULL),
        *((error, "no permission .* check the credentials") for error in REFUSED),
    ],
)
def test_a_full_disk_and_wrong_credentials_are_said_at_once(error: Exception, words: str) -> None:
    time = _Time()
    with pytest.raises(StorageError, match=f"^writing to db: {words}") as caught:
        retrying(_failing(error), what="writing to db", clock=time.clock)
    assert not time.waits
    assert "\n" not in str(caught.value)


def test_a_sentence_holds_no_secret_and_no_place_in_a_library() -> None:
    error = _lance("?X-Amz-Signature=abcdef - HTTP error: error sending request" + _PLACE)
    said = explain(error, "reading s3://user:pass@bucket/key", attempts=2, elapsed_s=3)
    assert "abcdef" not in said
    assert "pass" not in said
    assert "/rust/" not in said
    assert "2 attempts in 3 s" in said


def test_a_keyboard_interrupt_is_nobodys_failure() -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrying(interrupted, what="reading")
