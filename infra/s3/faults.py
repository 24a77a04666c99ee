"""A proxy in front of an S3 server that fails on purpose: errors, resets, lost answers, cut bodies, delays, silence.

Knows HTTP/1.1 and nothing of what is stored. A request is passed on byte for byte, `Host` included, which the client's
signature covers; only `Expect` is answered here. Called by tests:

    with running_proxy(server.endpoint, scripted(Rule(Fault.LOST, "PUT", r"_versions/"))) as proxy:
        ...                     # clients use proxy.endpoint
    assert proxy.injected()     # what was done to whom
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from infra.s3.fault_plans import PATIENCE_S, Fault, Plan, harmless
from infra.s3.http_messages import Message, MessageError, read_request, read_response

_CONNECT_TIMEOUT_S = 10
_JOIN_TIMEOUT_S = 10


_ANSWERS = {
    Fault.SLOW_DOWN: (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    Fault.INTERNAL: (500, "Internal Server Error", "InternalError", "We encountered an internal error."),
    Fault.LOST_ERROR: (500, "Internal Server Error", "InternalError", "We encountered an internal error."),
    Fault.NO_BUCKET: (404, "Not Found", "NoSuchBucket", "The specified bucket does not exist"),
    Fault.FORBIDDEN: (403, "Forbidden", "AccessDenied", "Access Denied"),
}
_AFTER_EFFECT = frozenset({Fault.LOST, Fault.LOST_ERROR, Fault.LOST_HANG, Fault.TRUNCATED, Fault.LATE})


@dataclass(frozen=True, slots=True)
class Handled:
    """One request as the proxy saw it; `fault` is None where it passed unharmed."""

    method: str
    path: str
    fault: Fault | None


class FaultProxy:
    """A running proxy; `plan` may be replaced at any time.

    Attributes:
        endpoint: "http://127.0.0.1:PORT".
        plan: What is done to the next requests.
        handled: Every request so far, in the order of arrival.
    """

    def __init__(self, upstream: str, plan: Plan) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.plan = plan
        self.handled: list[Handled] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(target=self._accept, name="fault-proxy", daemon=True)
        self._acceptor.start()

    def injected(self) -> list[Handled]:
        """The requests that something was done to."""
        with self._lock:
            return [request for request in self.handled if request.fault is not None]

    def stop(self) -> None:
        """Closes every connection and ends every thread."""
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_JOIN_TIMEOUT_S)
        self._listener.close()
        with self._lock:
            clients = dict(self._clients)
        for client in clients.values():
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in clients:
            thread.join(_JOIN_TIMEOUT_S)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(client,), name="fault-proxy-client", daemon=True)
            with self._lock:
                self._clients[thread] = client
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        """One client's connection, with one connection to the server behind it."""
        server = _Server(self._upstream)
        try:
            with client, client.makefile("rb") as reader:
                answer_expect = lambda: client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")  # noqa: E731
                while not self._stopped.is_set() and (request := read_request(reader, answer_expect)):
                    if not self._handle(client, server, request):
                        return
        except (OSError, MessageError):
            pass  # either side went away: so does the connection
        finally:
            server.close()
            with self._lock:
                self._clients.pop(threading.current_thread(), None)

    def _handle(self, client: socket.socket, server: _Server, request: Message) -> bool:
        """Answers one request; whether the connection is good for another."""
        path = unquote(request.target)
        with self._lock:
            injection = self.plan(request.method, path)
            self.handled.append(Handled(request.method, path, injection.fault if injection else None))
        if injection is None or injection.fault is Fault.LATENCY:
            if injection is not None:
                self._stopped.wait(injection.seconds)
            answer = server.exchange(request)
            client.sendall(answer.raw)
            return not (request.closes or answer.closes)
        if injection.fault is Fault.LATE:
            _reset(client)
            socket.close(client.detach())
            self._stopped.wait(injection.seconds)
        response = server.exchange(request) if injection.fault in _AFTER_EFFECT else None
        if injection.fault is Fault.LATE:
            return False
        if injection.fault in _ANSWERS:
            client.sendall(_error(injection.fault, request))
            return not request.closes
        if injection.fault is Fault.TRUNCATED and response is not None:
            client.sendall(response.head + response.body[: len(response.body) // 2])
            return False
        if injection.fault in (Fault.HANG, Fault.LOST_HANG):
            # readable: the client closed, or the proxy is stopping and shut the connection down
            select.select([client], [], [], injection.seconds)
        _reset(client)
        return False


class _Server:
    """A connection to the server behind, made when it is needed and kept while it lasts."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def exchange(self, request: Message) -> Message:
        """Sends a request once, and returns what came back."""
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # the server gave an idle connection up
        if self._socket is None:
            self._socket = socket.create_connection(self._address, _CONNECT_TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(PATIENCE_S)
        self._socket.sendall(request.raw)
        with self._socket.makefile("rb") as reader:
            response = read_response(reader, method=request.method)
        if response.closes:
            self.close()
        return response

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _error(fault: Fault, request: Message) -> bytes:
    status, phrase, code, text = _ANSWERS[fault]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>'
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + ("" if request.method == "HEAD" else body)).encode()


def _reset(client: socket.socket) -> None:
    """Makes the close that follows a reset instead of an orderly end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def running_proxy(upstream: str, plan: Plan = harmless) -> Iterator[FaultProxy]:
    """A proxy in front of the endpoint `upstream` until the block ends."""
    proxy = FaultProxy(upstream, plan)
    try:
        yield proxy
    finally:
        proxy.stop()
