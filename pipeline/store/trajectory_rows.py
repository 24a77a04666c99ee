"""Trajectories as rows of the cache's table, and conditions on such rows.

Knows nothing of versions or files; called by `trajectories` and by what imports trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.records import FinishReason, Trajectory
from pipeline.store.schema import TRAJECTORIES


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """A trajectory and its vector.

    Attributes:
        trajectory: What was written.
        vector: float32 of shape (dim,); None where none was computed, as for a trajectory that is not usable, or where
            the encoder cannot make one.
        encoder: Fingerprint of the encoder of the vector, or of the one that cannot; "" for none.
    """

    trajectory: Trajectory
    vector: NDArray[np.float32] | None = None
    encoder: str = ""


def to_rows(cached: Sequence[Cached], *, created_at: datetime | None = None) -> pa.Table:
    """Rows in the columns of `TRAJECTORIES`.

    Args:
        cached: What they hold.
        created_at: When they were made; now when None.
    """
    now = created_at or datetime.now(UTC)
    rows = [
        {
            "key": row.trajectory.key,
            "query": row.trajectory.query,
            "task": row.trajectory.task,
            "trajectory": row.trajectory.text,
            "num_tokens": row.trajectory.num_tokens,
            "finish_reason": str(row.trajectory.finish_reason),
            "reasoner": row.trajectory.reasoner,
            "source": row.trajectory.source,
            "sampling": row.trajectory.sampling,
            "sample": row.trajectory.sample,
            "num_attempts": row.trajectory.num_attempts,
            "vector": None if row.vector is None else np.asarray(row.vector, np.float32),
            "encoder_fingerprint": row.encoder,
            "created_at": now,
        }
        for row in cached
    ]
    return pa.Table.from_pylist(rows, schema=TRAJECTORIES)


def to_cached(rows: pa.Table) -> list[Cached]:
    """What rows in the columns of `TRAJECTORIES` hold, in their order."""
    vectors = (chunk[i] for chunk in rows["vector"].chunks for i in range(len(chunk)))
    return [
        Cached(
            Trajectory(
                key=row["key"],
                query=row["query"],
                task=row["task"],
                text=row["trajectory"],
                num_tokens=row["num_tokens"],
                finish_reason=FinishReason(row["finish_reason"]),
                reasoner=row["reasoner"],
                source=row["source"],
                sampling=row["sampling"],
                sample=row["sample"],
                num_attempts=row["num_attempts"],
            ),
            vector.values.to_numpy(zero_copy_only=False) if vector.is_valid else None,
            row["encoder_fingerprint"],
        )
        for row, vector in zip(rows.drop_columns(["vector"]).to_pylist(), vectors, strict=True)
    ]


def prune_condition(
    *,
    reasoners: Sequence[str] = (),
    keep_reasoners: Sequence[str] = (),
    finish_reasons: Sequence[FinishReason] = (),
    older_than: timedelta | None = None,
) -> str:
    """SQL for rows to delete: those that meet every condition that is given.

    Args:
        reasoners: Of one of these fingerprints.
        keep_reasoners: Of none of these.
        finish_reasons: Ended in one of these ways.
        older_than: Added longer ago, by the clock of whoever added them.

    Raises:
        SettingsError: no condition is given.
    """
    parts = []
    for column, values, word in (
        ("reasoner", reasoners, "IN"),
        ("reasoner", keep_reasoners, "NOT IN"),
        ("finish_reason", finish_reasons, "IN"),
    ):
        if values:
            parts.append(f"{column} {word} ({', '.join(quote(str(value)) for value in values)})")
    if older_than is not None:
        limit = (datetime.now(UTC) - older_than).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        parts.append(f"created_at < timestamp '{limit}'")
    if not parts:
        raise SettingsError("nothing says which trajectories to delete; give a reasoner, an age or a way of ending")
    return " AND ".join(parts)


def quote(text: str) -> str:
    """A text as SQL spells it."""
    return "'" + text.replace("'", "''") + "'"
