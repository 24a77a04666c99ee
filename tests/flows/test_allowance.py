"""How much is encoded and not yet committed: bounded, and never so that everybody waits for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.flows.allowance import Account, Allowance

_AT_ONCE = 0.01


def _run(steps: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(steps)


def test_windows_are_allowed_up_to_the_limit() -> None:
    async def steps() -> None:
        account = Account(100, encoders=1)
        assert [await account.ask(bytes([i]), 20, 0, _AT_ONCE) for i in range(6)] == [True] * 5 + [False]

    _run(steps())


def test_who_waits_goes_on_when_something_is_committed() -> None:
    async def steps() -> None:
        account = Account(100, encoders=1)
        for number in range(5):
            assert await account.ask(bytes([number]), 20, 0, _AT_ONCE)
        waiting = asyncio.create_task(account.ask(b"next", 20, 0))
        await asyncio.sleep(0)
        assert not waiting.done()
        await account.settle([bytes([0])])
        assert await waiting

    _run(steps())


def test_a_window_that_comes_again_counts_once() -> None:
    async def steps() -> None:
        account = Account(100, encoders=1)
        for number in range(5):
            await account.ask(bytes([number]), 20, 0, _AT_ONCE)
        assert await account.ask(bytes([3]), 20, 0, _AT_ONCE)  # its encoder died
        await account.settle([bytes([number]) for number in range(5)])
        assert await account.ask(bytes([3]), 20, 0, _AT_ONCE)  # its task is done again for another's sake
        assert [await account.ask(b"%d" % i, 20, 0, _AT_ONCE) for i in range(6)] == [True] * 5 + [False]

    _run(steps())


def test_every_encoder_has_a_window_whatever_the_limit() -> None:
    async def steps() -> None:
        account = Account(10, encoders=3)
        assert [await account.ask(bytes([i]), 20, 5, _AT_ONCE) for i in range(8)] == [True] * 7 + [False]
        assert await account.settle([]) == 2 * 3 * 25

    _run(steps())


@settings(deadline=None)
@given(
    rows=st.integers(1, 200), encoders=st.integers(1, 4), block=st.integers(0, 40),
    windows=st.lists(st.integers(1, 60), min_size=1, max_size=60), data=st.data(),
)  # fmt: skip
def test_somebody_can_always_go_on(
    rows: int, encoders: int, block: int, windows: list[int], data: st.DataObject
) -> None:
    """Encoders hold rows back until they are a block; a driver commits when half of the limit is there."""

    async def steps() -> None:
        account = Account(rows, encoders)
        held: list[list[tuple[bytes, int]]] = [[] for _ in range(encoders)]
        arrived: list[tuple[bytes, int]] = []
        for number, size in enumerate(windows):
            mine = held[data.draw(st.integers(0, encoders - 1))]
            waiting = asyncio.create_task(account.ask(b"%d" % number, size, block))
            for _ in range(4):
                await asyncio.sleep(0)
            if not waiting.done():
                # all that is not held back arrives; that must be enough for a commit
                assert sum(size for _, size in arrived) >= rows // 2
                await account.settle([window for window, _ in arrived])
                arrived.clear()
            assert await asyncio.wait_for(waiting, 1)
            mine.append((b"%d" % number, size))
            if sum(size for _, size in mine) > block:
                arrived += mine
                mine.clear()

    _run(steps())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_account_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.flows.allowance._ORPHAN_S", 0.0)
    allowance = Allowance.of(100, encoders=1)
    assert allowance.ask(b"one", rows=10, held=0)
    assert allowance.settle([b"one"]) == 100
    assert allowance.ask(b"full", rows=100, held=0)
    ray.kill(allowance._account)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(allowance._account.ask.remote(b"never", 60, 0))  # waits for room until the kill arrives
    assert not allowance.ask(b"two", rows=10, held=0)
    assert allowance.settle([b"two"]) == 0
