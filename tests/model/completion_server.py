"""An HTTP server on loopback that answers POST /v1/completions in the fields and statuses of vLLM's own server.

A test says what becomes of each request with a plan; what came is kept. Not a model: it writes a constant text.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = " The post asks why leaves are green. "
Plan = Callable[[dict[str, Any]], "Reply"]


@dataclass(frozen=True)
class Reply:
    """What is answered; `resets` breaks the connection instead."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    resets: bool = False


def completed(text: str = TEXT, *, finish_reason: str = "stop", num_tokens: int = 9) -> Reply:
    """As vLLM answers: the token that ended it is counted."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
    usage = {"prompt_tokens": 5, "completion_tokens": num_tokens, "total_tokens": 5 + num_tokens}
    return Reply(body={"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": usage})


def refused(status: int, message: str, *, kind: str = "BadRequestError", **headers: str) -> Reply:
    """As vLLM refuses."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Reply(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


class CompletionServer(ThreadingHTTPServer):
    """Answers `plan` for completions, `models` for the list, `tokenise` for token ids (404 where None)."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: Plan = lambda body: completed()
        self.models = Reply(body={"object": "list", "data": [{"id": "served"}, {"id": "other"}]})
        self.tokenise: Callable[[str], list[int]] | None = None
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.ended = threading.Event()  # whatever hangs ends with the test
        self.lock = threading.Lock()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, method: str, path: str, body: dict[str, Any], key: str | None) -> Reply:
        if (method, path) == ("GET", "/v1/models"):
            return self.models
        if (method, path) == ("POST", "/tokenize") and self.tokenise is not None:
            return Reply(body={"tokens": self.tokenise(body["prompt"]), "count": 1, "max_model_len": 2048})
        if (method, path) != ("POST", "/v1/completions"):
            return refused(404, "Not Found", kind="NotFoundError")
        with self.lock:
            self.asked.append(body)
            self.keys.append(key)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self.plan(body)
        finally:
            with self.lock:
                self.in_flight -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: CompletionServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, raw: bytes) -> None:
        reply = self.server.answer(self.command, self.path, json.loads(raw), self.headers["Authorization"])
        if reply.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


@contextmanager
def running_server() -> Iterator[CompletionServer]:
    """A server that is gone after the block, with everything that hung in it."""
    server = CompletionServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
