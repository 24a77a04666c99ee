"""A document that kills its encoder: found, set aside, and the run goes on.

Some deaths leave no exception behind: a native library that crashes, a process that the system kills for its memory.
Ray starts the encoder again and gives it the same window, which kills it again. So what an encoder is working on is
written down outside its process before it begins. A window that was begun and never ended is encoded one document at a
time, each noted on its own; a document that was alone twice when its encoder died is not tried again.

Called by `stages`; `stream` starts the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import ray

from pipeline.model.encoder import Encoded, Encoder, TokenIds
from pipeline.records import Reason

# A node that is taken away kills whatever document was alone at that moment, so one death proves nothing.
MAX_DEATHS = 2


class DeathLog:
    """What is being worked on, and how often it was begun and not ended. Lives in an actor of its own."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, key: str) -> int:
        """Notes that work on `key` begins; returns how often it has begun before without an end."""
        before = self._begun.get(key, 0)
        self._begun[key] = before + 1
        return before

    def end(self, key: str) -> None:
        """Notes that work on `key` ended well."""
        self._begun.pop(key, None)


def start_log() -> Any:
    """A `DeathLog` in an actor, for as long as the handle is kept."""
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeathLog).remote()


def encode_carefully(
    encoder: Encoder, bodies: Sequence[TokenIds], *, owner: Sequence[int], ids: Sequence[str], log: Any
) -> Encoded:
    """Vectors of a window's chunks, whatever one of its documents does to the process.

    Args:
        encoder: Of documents.
        bodies: Token ids of each chunk, as `Encoder.encode` takes them.
        owner: For each chunk, the position of its document in `ids`; ascending.
        ids: Of the window's documents.
        log: A handle on a `DeathLog`.

    Returns:
        As `Encoder.encode`; chunks of a deadly document have failed with `Reason.CRASHED`.
    """
    key = blake2b("\0".join(ids).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    if not ray.get(log.begin.remote(key)):
        result = encoder.encode(bodies, role="document")
    else:
        result = _one_by_one(encoder, bodies, np.asarray(owner), [f"document {name}" for name in ids], log)
    log.end.remote(key)
    return result


def _one_by_one(encoder: Encoder, bodies: Sequence[TokenIds], owner: Any, keys: Sequence[str], log: Any) -> Encoded:
    whole = Encoded(np.zeros((len(bodies), encoder.dim), dtype=np.float32))
    for document, key in enumerate(keys):
        chunks = np.flatnonzero(owner == document).tolist()
        if ray.get(log.begin.remote(key)) >= MAX_DEATHS:
            whole.failures |= dict.fromkeys(chunks, Reason.CRASHED)
            continue
        part = encoder.encode([bodies[i] for i in chunks], role="document")
        log.end.remote(key)
        whole.vectors[chunks] = part.vectors
        whole.failures |= {chunks[i]: reason for i, reason in part.failures.items()}
        whole.num_tokens += part.num_tokens
        whole.num_slots += part.num_slots
        whole.flops += part.flops
        whole.seconds += part.seconds
    return whole
