"""How much may be encoded and not yet committed: all that the death of the driver can cost.

One actor keeps the account of a run. An encoder asks before each window, and waits while too much is on its way; the
driver says what has been committed. An account by windows, not a count: a window that comes again, because its encoder
or its node died, is the same window. Called by the stages, and by the index flow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_log = logging.getLogger(__name__)
# Nothing that is on its way takes so long; what does not come at all must not stop the run.
_PATIENCE_S = 60.0
# An account that is gone most likely went with its driver, and this encoder is about to be ended too.
_ORPHAN_S = 5.0
# A window that was committed may be asked for again, by a task that Ray repeats for the sake of another window.
_REMEMBERED = 100_000


class Account:
    """What was allowed and is not committed; `Allowance` is the handle to it.

    It allows a window when that leaves no more than `rows` on their way, or less than half of it is. Whoever waits
    therefore knows at least half as much on its way to the driver, which commits as soon as it has that.

    Args:
        rows: On their way at most, but see `ask`.
        encoders: Of the pool at most.
    """

    def __init__(self, rows: int, encoders: int) -> None:
        self._limit, self._half, self._encoders = rows, rows // 2, encoders
        self._open: dict[bytes, int] = {}
        self._settled: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._known: set[bytes] = set()
        self._room = asyncio.Condition()

    async def ask(self, window: bytes, rows: int, held: int, patience_s: float = _PATIENCE_S) -> bool:
        """Waits until a window may be encoded; False where that took too long, and it is encoded all the same.

        The limit grows to what keeps every encoder busy: one window of each in work and one on its way, beside those
        that wait to be committed.

        Args:
            window: Names it.
            rows: Rows of the documents table that it makes.
            held: Rows of earlier windows that its encoder may still hold back.
            patience_s: Seconds to wait at most.
        """
        async with self._room:
            if window in self._open or window in self._known:
                return True
            self._limit = max(self._limit, 2 * self._encoders * (rows + held))
            try:
                await asyncio.wait_for(self._room.wait_for(lambda: self._has_room(rows)), patience_s)
            except TimeoutError:
                return False
            finally:
                self._open[window] = rows
        return True

    def _has_room(self, rows: int) -> bool:
        on_their_way = sum(self._open.values())
        return on_their_way < self._half or on_their_way + rows <= self._limit

    async def settle(self, windows: Sequence[bytes]) -> int:
        """Takes windows out of the account, as they are committed; returns the limit that is in force."""
        async with self._room:
            for window in windows:
                if self._open.pop(window, None) is not None:
                    if len(self._settled) == _REMEMBERED:
                        self._known.discard(self._settled[0])
                    self._settled.append(window)
                    self._known.add(window)
            self._room.notify_all()
        return self._limit


class Allowance:
    """A handle to an account, for the encoders of a run; it can be sent to them.

    Args:
        account: Reference to an `Account` actor.
    """

    def __init__(self, account: Any) -> None:
        self._account = account

    @classmethod
    def of(cls, rows: int, *, encoders: int) -> Allowance:
        """Opens an account for a run, on the driver's node: the two go together.

        Args:
            rows: As in `Account`.
            encoders: As in `Account`.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)(Account)
        return cls(actor.remote(rows, encoders))

    def ask(self, window: bytes, *, rows: int, held: int) -> bool:
        """As `Account.ask`; without an account, after a moment, whatever is asked is allowed."""
        if self._account is None:
            return False
        try:
            allowed: bool = ray.get(self._account.ask.remote(window, rows, held))
        except RayError as error:
            _log.warning("nobody keeps account of what is encoded any more: %s", str(error).partition("\n")[0])
            self._account = None
            time.sleep(_ORPHAN_S)
            return False
        return allowed

    def settle(self, windows: Sequence[bytes]) -> int:
        """As `Account.settle`; 0 without an account."""
        if self._account is None:
            return 0
        try:
            limit: int = ray.get(self._account.settle.remote(list(windows)))
        except RayError:
            return 0
        return limit
