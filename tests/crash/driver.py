"""One run of the index flow in a process of its own, `python driver.py ORDERS`: the orders are a JSON object.

It ends with the run's report on stdout, or is dead by then: by its own hand at the point named in "kill", or by its
parent's. Every document that an encoder finished is a line in "encoded" of the folder, with the rows it makes. Encoders
take "window_s" for each window at least.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from typing import Any

import pyarrow as pa

from pipeline.flows import index as flow
from pipeline.flows import stream
from pipeline.flows.stages import EncodeStage
from pipeline.settings import load_settings
from tests.crash.points import armed

ORDERS = json.loads(sys.argv[1])
ENCODED = os.path.join(ORDERS["folder"], "encoded")


class LoggingEncodeStage(EncodeStage):
    """Keeps an account of what was paid for; goes to the actors by value, as everything of `__main__` does."""

    def __call__(self, block: pa.Table) -> pa.Table:
        time.sleep(ORDERS["window_s"])
        encoded = super().__call__(block)
        columns = [block.column(name).to_pylist() for name in ("id", "content_hash", "texts")]
        text = "".join(f"{id} {content.hex()} {len(texts)}\n" for id, content, texts in zip(*columns, strict=True))
        file = os.open(ENCODED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, text.encode())
        os.close(file)
        return encoded


def _bomb(point: str) -> None:
    """Says where, for whoever reads the log, and is gone."""
    os.write(2, f"killed at {point}\n".encode())
    os.kill(os.getpid(), 9)


def main() -> None:
    assert stream.EncodeStage is EncodeStage
    stream.EncodeStage = LoggingEncodeStage  # type: ignore[misc]
    with armed(ORDERS["kill"], _bomb) if ORDERS["kill"] else nullcontext():
        report: dict[str, Any] = flow.index(load_settings(None, ORDERS["settings"])).as_json()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
