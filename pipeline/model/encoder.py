"""What every encoder offers, and the loop they share: groups by token budget, smaller groups when memory runs out.

Knows nothing of Ray or tables. `load.load_encoder` makes one; flows and benchmarks call `encode`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.model.bundle import Role
from pipeline.records import Reason

_log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
TokenIds = NDArray[np.int32]


@dataclass(slots=True)
class Encoded:
    """What one call of `encode` gives.

    Attributes:
        vectors: float32 [texts, dim], unit length; rows of failed texts are zero.
        failures: Position of each text that cannot be encoded -> why.
        num_tokens: Tokens of bodies and frames, as a plain forward pass would count them.
        num_slots: Token positions computed, padding included and a cached prefix left out.
        flops: Floating-point operations that the wanted states need (matrix products and attention).
        seconds: Wall time.
    """

    vectors: Vectors
    failures: dict[int, Reason] = field(default_factory=dict)
    num_tokens: int = 0
    num_slots: int = 0
    flops: int = 0
    seconds: float = 0.0


class Encoder(ABC):
    """Token ids of bodies in, unit vectors out; the same text gives the same vector whatever its batch.

    Attributes:
        dim: Length of a vector.
        batch_tokens: Tokens of one forward pass; halved for good when memory runs out.
        num_lanes: Groups encoded at the same time.
    """

    dim: int
    batch_tokens: int
    num_lanes = 1
    _lanes: ThreadPoolExecutor | None = None
    _counting = threading.Lock()

    @abstractmethod
    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which texts share a forward pass, by their lengths with the frame."""

    @abstractmethod
    def _forward(self, bodies: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        """Vectors [texts, dim] of one group, the slots computed, and the useful floating-point operations."""

    @abstractmethod
    def _is_out_of_memory(self, error: Exception) -> bool:
        """Whether an error means that the group was too large for memory; frees what can be freed."""

    @abstractmethod
    def frame_tokens(self, role: Role) -> int:
        """Tokens around a body."""

    def encode(self, bodies: Sequence[TokenIds], *, role: Role) -> Encoded:
        """Vectors of texts.

        Args:
            bodies: Token ids of each body, int32 [tokens], without the frame.
            role: Whether they are documents or queries.
        """
        begin = time.perf_counter()
        frame = self.frame_tokens(role)
        lengths = [len(body) + frame for body in bodies]
        result = Encoded(np.zeros((len(bodies), self.dim), dtype=np.float32), num_tokens=sum(lengths))
        self._encode_groups(self._groups(lengths), bodies, role, result)
        bad = np.flatnonzero(~np.isfinite(result.vectors).all(axis=1))
        for position in bad:
            result.failures[int(position)] = Reason.NOT_FINITE
            result.vectors[position] = 0.0
        result.seconds = time.perf_counter() - begin
        return result

    def _encode_groups(self, groups: list[list[int]], bodies: Sequence[TokenIds], role: Role, result: Encoded) -> None:
        """All groups: side by side in lanes where there are enough of them, else one after the other."""
        if self._lanes is None or len(groups) < self.num_lanes:
            for group in groups:
                self._encode_group(group, bodies, role, result)
            return
        pending = [self._lanes.submit(self._encode_group, group, bodies, role, result) for group in groups]
        for future in pending:
            future.result()

    def open_lanes(self, count: int, prepare: Callable[[], None]) -> None:
        """From now on, encodes `count` groups at a time, each in a thread of its own.

        On CPU this beats one group on all cores: no barrier after every operation, and a core that is taken away for a
        moment holds up one lane instead of all.

        Args:
            count: Lanes, >= 1; one changes nothing.
            prepare: Called in each thread before its first group.
        """
        self.num_lanes = count
        self._lanes = ThreadPoolExecutor(count, thread_name_prefix="lane", initializer=prepare) if count > 1 else None

    def _encode_group(self, group: list[int], bodies: Sequence[TokenIds], role: Role, result: Encoded) -> None:
        try:
            vectors, slots, flops = self._forward([bodies[i] for i in group], role)
        except (RuntimeError, MemoryError) as error:
            if not self._is_out_of_memory(error):
                raise
        else:
            result.vectors[group] = vectors
            with self._counting:
                result.num_slots += slots
                result.flops += flops
            return
        if len(group) == 1:
            _log.warning("a text of %d tokens does not fit in memory even alone", len(bodies[group[0]]))
            result.failures[group[0]] = Reason.OUT_OF_MEMORY
            return
        tokens = sum(len(bodies[i]) for i in group) + len(group) * self.frame_tokens(role)
        self.batch_tokens = min(self.batch_tokens, max(64, tokens // 2))
        _log.warning("out of memory at %d tokens a batch; going on with %d", tokens, self.batch_tokens)
        middle = (len(group) + 1) // 2
        self._encode_group(group[:middle], bodies, role, result)
        self._encode_group(group[middle:], bodies, role, result)
