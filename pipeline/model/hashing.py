"""A hashing encoder: token counts hashed into a fixed number of components. For plumbing tests and benchmarks only.

It finds texts that share tokens and understands nothing. Deterministic, needs no weights and next to no time
(feature hashing, Weinberger et al. 2009, arXiv 0902.2206).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.model.bundle import ModelBundle, Role
from pipeline.model.encoder import Encoder, TokenIds, Vectors

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class HashingEncoder(Encoder):
    """Signed counts of hashed tokens, damped by the square root, normalised."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.dim = bundle.identity.dim
        self.batch_tokens = 1 << 20

    def frame_tokens(self, role: Role) -> int:
        """None: a hash needs no frame."""
        return 0

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        return [list(range(len(lengths)))] if len(lengths) else []

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def _forward(self, bodies: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        ids = np.concatenate(bodies).astype(np.uint64)
        rows = np.repeat(np.arange(len(bodies)), [len(body) for body in bodies])
        mixed = (ids + np.uint64(1)) * _MULTIPLIER
        column = ((mixed >> np.uint64(33)) % np.uint64(self.dim)).astype(np.int64)
        sign = np.where(mixed >> np.uint64(63), 1.0, -1.0)
        counts = np.bincount(rows * self.dim + column, weights=sign, minlength=len(bodies) * self.dim)
        vectors = np.sign(counts) * np.sqrt(np.abs(counts))
        vectors = vectors.reshape(len(bodies), self.dim).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        # a text whose counts cancel out gets a fixed direction, so that every vector has unit length
        vectors[norms[:, 0] == 0, 0] = 1.0
        unit = vectors / np.where(norms == 0, np.float32(1), norms)
        return unit.astype(np.float32), len(ids), 0
