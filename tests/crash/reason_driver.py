"""One `t1 reason` in a process of its own, `python reason_driver.py ORDERS`: the orders are a JSON object.

Its reasoner is an echo, as slow as a model would be: it takes "answer_s" for each answer, and then writes a line with
the seed, which tells trajectories apart, to the file "generated".
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.cli import main
from pipeline.flows import reason as flow
from pipeline.flows.reason_stage import ReasonStage
from pipeline.model.reasoner import Completion, Reasoner, Request

ORDERS = json.loads(sys.argv[1])


class SlowReasoner:
    """Keeps an account of what was paid for."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`."""
        for position, completion in self._reasoner.generate(requests, cancelled=cancelled):
            time.sleep(ORDERS["answer_s"])
            file = os.open(ORDERS["generated"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{requests[position].seed}\n".encode())
            os.close(file)
            yield position, completion


class SlowReasonStage(ReasonStage):
    """Goes to the actors by value, as everything of `__main__` does."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        if self._thinker is not None:
            self._thinker._reasoner = SlowReasoner(self._thinker._reasoner)


if __name__ == "__main__":
    assert flow.ReasonStage is ReasonStage
    flow.ReasonStage = SlowReasonStage  # type: ignore[misc]
    sys.argv[1:] = ["reason", *ORDERS["arguments"]]
    main()
