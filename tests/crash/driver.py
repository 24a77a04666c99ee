"""One run of the index flow in a process of its own, `python driver.py ORDERS`: the orders are a JSON object.

It ends with the run's report on stdout, or is dead by then: by its own hand at the point named in "kill", or by its
parent's. Every document that an encoder finished is a line in "encoded" of the folder. Encoders are as slow as one with
a model would be beside the rest: they wait when more than "max_in_flight" documents are on the way to the committer,
and take "window_s" for each window at least.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pyarrow as pa

from pipeline.flows import encoding, stream
from pipeline.flows import index as flow
from pipeline.flows.stages import EncodeStage
from pipeline.settings import load_settings
from tests.crash.points import armed

ORDERS = json.loads(sys.argv[1])
ENCODED, RECEIVED = (os.path.join(ORDERS["folder"], name) for name in ("encoded", "received"))
# A block that was lost may have to be made again by the very encoder that waits for it.
_PATIENCE_S = 5


class LoggingEncodeStage(EncodeStage):
    """Keeps an account of what was paid for; goes to the actors by value, as everything of `__main__` does."""

    num_encoded = 0

    def __call__(self, block: pa.Table) -> pa.Table:
        deadline = time.monotonic() + _PATIENCE_S
        while self.num_encoded - os.stat(RECEIVED).st_size > ORDERS["max_in_flight"] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(ORDERS["window_s"])
        encoded = super().__call__(block)
        names = zip(block.column("id").to_pylist(), block.column("content_hash").to_pylist(), strict=True)
        _add_to(ENCODED, "".join(f"{name} {content.hex()}\n" for name, content in names))
        self.num_encoded += block.num_rows
        return encoded


def _add_to(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, text.encode())
    os.close(file)


def _receiving(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
    """The stream of results; a document is received, and a byte in a file, once the committer has dealt with it."""
    for result in stream.stream(*args, **kwargs):
        yield result
        _add_to(RECEIVED, "." * result["num_documents"])


def _bomb(point: str) -> None:
    """Says where, for whoever reads the log, and is gone."""
    os.write(2, f"killed at {point}\n".encode())
    os.kill(os.getpid(), 9)


def main() -> None:
    assert stream.EncodeStage is EncodeStage
    assert encoding.stream is stream.stream
    stream.EncodeStage, encoding.stream = LoggingEncodeStage, _receiving  # type: ignore[misc]
    _add_to(RECEIVED, "")
    with armed(ORDERS["kill"], _bomb) if ORDERS["kill"] else nullcontext():
        report: dict[str, Any] = flow.index(load_settings(None, ORDERS["settings"])).as_json()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
