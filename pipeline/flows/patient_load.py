"""A reasoner that is loaded in a thread, so that nobody has to wait for it longer than they care to.

Called by searches; knows nothing of queries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from pipeline.model.reasoner import Reasoner


class PatientLoad:
    """One load of a reasoner, begun at once; goes on whether or not somebody waits."""

    def __init__(self, load: Callable[[], Reasoner]) -> None:
        """Begins.

        Args:
            load: Gives a reasoner, or raises.
        """
        self._loaded: Future[Reasoner] = Future()
        # a daemon: a process whose answer is out must be able to end
        threading.Thread(target=self._run, args=(load,), name="t1-loading", daemon=True).start()

    def _run(self, load: Callable[[], Reasoner]) -> None:
        try:
            self._loaded.set_result(load())
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits
            self._loaded.set_exception(error)

    def wait(self, timeout_s: float | None) -> Reasoner | None:
        """The reasoner; None where it is not there in time.

        Args:
            timeout_s: None for as long as it takes.

        Raises:
            T1Error: whatever ended the load.
        """
        try:
            return self._loaded.result(None if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX))
        except TimeoutError:
            if self._loaded.done():
                raise  # the load's own
            return None

    def close(self) -> None:
        """Gives the reasoner back, now or as soon as it is there."""
        self._loaded.add_done_callback(_close)


def _close(loaded: Future[Reasoner]) -> None:
    if loaded.exception() is None:
        loaded.result().close()
