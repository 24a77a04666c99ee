"""HTTP/1.1 messages off a stream, whole and byte for byte, as a proxy passes them on.

Knows framing (lengths, chunks, answers without a body) and nothing of S3. Called by `infra.s3.faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_MAX_LINE_BYTES = 64 * 2**10


class MessageError(Exception):
    """The stream ended within a message, or holds something that is no HTTP."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer.

    Attributes:
        method: Of the request, or of the request that was answered.
        target: Of the request, as it was sent; "" for an answer.
        head: First line, headers and the empty line, as they came.
        body: What followed, chunk framing included, as it came.
        closes: Whether the sender ends the connection after it.
    """

    method: str
    target: str
    head: bytes
    body: bytes
    closes: bool

    @property
    def raw(self) -> bytes:
        """What came, as it came."""
        return self.head + self.body


def read_request(stream: BinaryIO, answer_expect: Callable[[], None]) -> Message | None:
    """The next request; None where the client ended the connection in order.

    Args:
        stream: Of the client.
        answer_expect: Called where the client waits for leave to send its body; the header is then dropped, because
            the leave was given. No client's signature covers it.
    """
    found = _read_head(stream)
    if found is None:
        return None
    lines, fields = found
    parts = lines[0].decode("latin-1").split()
    if len(parts) != 3:
        raise MessageError(f"expected a request line, found {lines[0][:80]!r}")
    if fields.get("expect", "").lower() == "100-continue":
        answer_expect()
        lines = [line for line in lines if not line.lower().startswith(b"expect:")]
    has_body = "content-length" in fields or "transfer-encoding" in fields
    body = _read_body(stream, fields) if has_body else b""
    return Message(parts[0], parts[1], b"".join(lines), body, _closes(fields))


def read_response(stream: BinaryIO, *, method: str) -> Message:
    """The final answer to a request of this method; interim answers (1xx) are passed over."""
    while True:
        found = _read_head(stream)
        if found is None:
            raise MessageError("the server ended the connection without an answer")
        lines, fields = found
        status = lines[0].split()[1:2]
        if not status or not status[0].isdigit():
            raise MessageError(f"expected a status line, found {lines[0][:80]!r}")
        if not status[0].startswith(b"1"):
            break
    without_body = method == "HEAD" or status[0] in (b"204", b"304")
    body = b"" if without_body else _read_body(stream, fields)
    unbounded = not without_body and "content-length" not in fields and "transfer-encoding" not in fields
    return Message(method, "", b"".join(lines), body, unbounded or _closes(fields))


def _read_head(stream: BinaryIO) -> tuple[list[bytes], dict[str, str]] | None:
    """The lines up to and including the empty one, and the headers by lower-case name."""
    lines: list[bytes] = []
    fields: dict[str, str] = {}
    while (line := stream.readline(_MAX_LINE_BYTES)) not in (b"\r\n", b"\n"):
        if not line.endswith(b"\n"):
            if not lines and not line:
                return None
            raise MessageError("the stream ended within a message's head")
        if lines:
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        lines.append(line)
    if not lines:
        raise MessageError("expected a message, found an empty line")
    return [*lines, line], fields


def _read_body(stream: BinaryIO, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(stream)
    if "content-length" in fields:
        return _read_exactly(stream, int(fields["content-length"]))
    return stream.read()


def _read_chunks(stream: BinaryIO) -> bytes:
    pieces = []
    while True:
        line = stream.readline(_MAX_LINE_BYTES)
        pieces.append(line)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError as error:
            raise MessageError(f"expected the length of a chunk, found {line[:80]!r}") from error
        if not size:
            break
        pieces.append(_read_exactly(stream, size + 2))
    while pieces[-1] not in (b"\r\n", b"\n", b""):  # trailers
        pieces.append(stream.readline(_MAX_LINE_BYTES))
    return b"".join(pieces)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise MessageError(f"expected {size} bytes, found {len(data)} before the stream ended")
    return data


def _closes(fields: dict[str, str]) -> bool:
    return fields.get("connection", "").lower() == "close"
