"""Documents whose id another one had before them, read once more to be set aside with a reason.

The comparison finds them as positions only. Called by the index flow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from pipeline.corpus.read import read_shard
from pipeline.flows.shares import READ_CPUS
from pipeline.records import QUARANTINE_TEXT_CHARS, FieldMap, Reason, Rejected, Shard
from pipeline.storage import redact
from pipeline.store.diff import Plan

_ROWS_AT_ONCE = 500
_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class DuplicatesTask:
    """What every task needs.

    Attributes:
        shards: The corpus.
        fields: Which columns hold what.
        max_text_chars: As in the scan.
        fresh: Positions of the shards that this run has read: of two documents in shards that were known, one was
            set aside by the run that read them.
    """

    shards: tuple[Shard, ...]
    fields: FieldMap
    max_text_chars: int
    fresh: frozenset[int]


def read_duplicates(task: DuplicatesTask, plan: Any, positions: Sequence[int]) -> Iterator[list[Rejected]]:
    """The duplicates of some shards, a bounded number at a time.

    Args:
        task: Of the run.
        plan: Reference to a `Plan`.
        positions: Shards that hold duplicates to be set aside.
    """
    if not positions:
        return
    shared = ray.put(task)
    waiting = iter(positions)
    running: deque[Any] = deque()
    while True:
        while len(running) < _IN_FLIGHT and (position := next(waiting, None)) is not None:
            running.append(_read_duplicates.remote(shared, plan, position))
        if not running:
            return
        for rows in running.popleft():
            yield ray.get(rows)


@ray.remote(num_cpus=READ_CPUS, num_returns="streaming", _generator_backpressure_num_objects=2)  # type: ignore[untyped-decorator]
def _read_duplicates(task: DuplicatesTask, plan: Plan, position: int) -> Iterator[list[Rejected]]:
    yield from duplicates_of(task, plan, position)


def duplicates_of(task: DuplicatesTask, plan: Plan, position: int) -> Iterator[list[Rejected]]:
    """The duplicates of one shard, as rows of the quarantine."""
    numbers = np.flatnonzero(plan.duplicates[position])
    firsts = plan.first_shards[position]
    if position not in task.fresh:
        new = np.isin(firsts, list(task.fresh))
        numbers, firsts = numbers[new], firsts[new]
    first_of = dict(zip(numbers.tolist(), firsts.tolist(), strict=True))
    rows: list[Rejected] = []
    seen = 0
    for row in read_shard(task.shards[position], task.fields, max_text_chars=task.max_text_chars):
        if isinstance(row, Rejected):
            continue
        if (first := first_of.pop(seen, None)) is not None:
            detail = f"a document before it has the same id; the first is in {redact(task.shards[first].uri)}"
            excerpt = row.text[:QUARANTINE_TEXT_CHARS]
            rows.append(Rejected(row.shard, row.offset, Reason.DUPLICATE_ID, detail, row.id, excerpt))
        seen += 1
        if len(rows) == _ROWS_AT_ONCE:
            yield rows
            rows = []
        if not first_of:
            break
    if rows:
        yield rows


def holds_new_duplicates(plan: Plan, position: int, fresh: frozenset[int]) -> bool:
    """Whether a shard has duplicates that no earlier run has set aside."""
    firsts = plan.first_shards[position]
    return bool(len(firsts)) and (position in fresh or bool(np.isin(firsts, list(fresh)).any()))
