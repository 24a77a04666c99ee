"""Trajectories by number, the same in every process."""

from __future__ import annotations

import numpy as np

from pipeline.fingerprint import trajectory_key
from pipeline.records import FinishReason, Trajectory
from pipeline.store.trajectories import Cached


def cached(number: int, *, reasoner: str = "r", finish: FinishReason = FinishReason.STOP, encoder: str = "e") -> Cached:
    """The trajectory of query `number`, with the vector (number, 1)."""
    query = f"what is {number}?"
    key = trajectory_key(query, reasoner=reasoner, sampling="{}", sample=0)
    written = Trajectory(key, query, "biology", f"thought {number}", 7, finish, reasoner, "model", "{}")
    return Cached(written, np.asarray([number, 1], np.float32), encoder)


def key(number: int) -> str:
    """Its key."""
    return cached(number).trajectory.key
