"""Moments of an index run that have a name, so that a test can end the run exactly there.

Production code has no hooks for this: functions are replaced by name, and a name that is gone is an error here, not a
test that silently kills nothing. A point is "STEP:WHEN" or "STEP:WHEN:NUMBER": before or after the NUMBERth call of a
step, counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

import lance

from pipeline.flows import compaction, finish
from pipeline.flows import index as flow
from pipeline.flows.scan import CorpusScan
from pipeline.store import gate, lease, live
from pipeline.store.database import LIVE, Database
from pipeline.store.lease_record import HELD, RELEASED

Bomb = Callable[[str], None]
# Whether a call of a function is the step that is meant, by its arguments.
Meant = Callable[..., bool]

_TAGS = import_module("lance.dataset").Tags  # `lance.dataset` itself is a function


def _any(*_: Any, **__: Any) -> bool:
    return True


def _commits(operation: str) -> Meant:
    def meant(uri: str, transaction: Any, **_: Any) -> bool:
        return uri.endswith("documents.lance") and type(transaction.operation).__name__ == operation

    return meant


def _appends(table: str) -> Meant:
    return lambda _database, name, rows: name == table and rows.num_rows > 0


def _tags(*, live: bool) -> Meant:
    return lambda _tags, name, _version: (name == LIVE) == live


def _calls(function: Callable[..., Any]) -> Meant:
    return lambda called, *_, **__: called is function


def _writes(state: str) -> Meant:
    return lambda _database, record, **_: record.state == state


# Where each step is: what holds the function, its name there, and which of its calls count. In the order of a run.
STEPS: dict[str, tuple[Any, str, Meant]] = {
    "lease": (lease, "swap_record", _writes(HELD)),
    "fence": (lance.LanceDataset, "commit", _commits("Restore")),
    "quarantine": (Database, "append", _appends("quarantine")),
    "decide": (flow, "decide_remotely", _any),
    "scan-cache": (CorpusScan, "store", _any),
    "begin": (lance.LanceDataset, "commit", _commits("Overwrite")),
    "append": (lance.LanceDataset, "commit", _commits("Append")),
    "deletion-file": (lance.LanceFragment, "delete", _any),
    "delete": (lance.LanceDataset, "commit", _commits("Delete")),
    "merge": (compaction, "commit_rewrites", _any),
    "compact": (compaction, "call_remotely", _calls(compaction._commit)),
    "indexes": (flow, "call_remotely", _calls(finish._refresh)),
    "gate": (flow, "call_remotely", _calls(gate.check)),
    "tag": (_TAGS, "create", _tags(live=False)),
    "first-live": (_TAGS, "create", _tags(live=True)),
    "live": (_TAGS, "update", _tags(live=True)),
    "upkeep": (live, "drop_old", _any),
    "runs": (Database, "append", _appends("runs")),
    "release": (lease, "swap_record", _writes(RELEASED)),
}


@contextmanager
def armed(point: str, bomb: Bomb) -> Iterator[None]:
    """Calls `bomb` at a point that the block comes to."""
    step, when, number = (*point.split(":"), "1")[:3]
    owner, name, meant = STEPS[step]
    assert when in {"before", "after"}, point
    countdown = [int(number)]
    original = owner.__dict__[name]  # not getattr: a name inherited or gone is not what was meant
    function = original.__func__ if isinstance(original, staticmethod) else original

    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        is_it = meant(*args, **kwargs)
        countdown[0] -= is_it
        is_now = is_it and countdown[0] == 0
        if is_now and when == "before":
            bomb(point)
        result = function(*args, **kwargs)
        if is_now and when == "after":
            bomb(point)
        return result

    setattr(owner, name, staticmethod(watched) if isinstance(original, staticmethod) else watched)
    try:
        yield
    finally:
        setattr(owner, name, original)
