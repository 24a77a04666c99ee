"""The stage of a reasoning run as Ray Data sees it: an actor with a reasoner and an encoder in it.

Called by the reasoning flow. What it does lies in `thinking`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray

from pipeline.errors import T1Error
from pipeline.flows.thinking import Thinker, Wanted, encode_reasoned, vectors_to_keep
from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.model.reasoner import load_reasoner
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import ReasonSettings
from pipeline.records import FinishReason, Query, Reason
from pipeline.settings import ModelSettings
from pipeline.store.database import Database
from pipeline.store.trajectories import Cached, TrajectoryCache


class ReasonStage:
    """An actor round a `Thinker`: positions of batches in, an account of each out."""

    def __init__(
        self, db: str, reason: ReasonSettings, encoder: ModelSettings, device: str, *, threads: int | None, **refs: Any
    ) -> None:
        self._cache = TrajectoryCache(Database.at(db))
        self._bundle: ReasonerBundle = open_reasoner(reason, encoder, device=device)
        self._wanted: list[Wanted] = ray.get(refs["wanted"])
        self._bare: list[tuple[str, Query, str]] = ray.get(refs["bare"])
        self._thinker: Thinker | None = None
        self._failure: T1Error | None = None
        try:
            self._load(encoder, device, threads)
        except T1Error as error:
            # Ray starts an actor that raises here again and again; an endpoint that is absent stays absent
            self._failure = error.with_traceback(None)
        self._ready_at = time.time()

    def _load(self, encoder: ModelSettings, device: str, threads: int | None) -> None:
        model = open_bundle(encoder, device=device)
        self._encoder = (load_encoder(model, device=device, threads=threads), model)
        if self._wanted:
            reasoner = load_reasoner(self._bundle, device=device, threads=threads)
            self._thinker = Thinker(self._cache, self._bundle, reasoner, self._encoder)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """One batch of trajectories, generated or encoded; what went wrong is part of the account."""
        rows = []
        for kind, *bounds in zip(*(batch[name].tolist() for name in ("kind", "begin", "end")), strict=True):
            failure, own = self._failure, slice(*bounds)
            try:
                if failure is None:
                    rows.append(self._generate(own) if kind == "generate" else self._encode(own))
            except T1Error as error:
                failure = error
            if failure is not None:
                # raised here it would reach the driver as an error of Ray's, a hundred lines long
                rows.append(_account([]) | {"failure": type(failure).__name__, "detail": str(failure)})
        return pa.Table.from_pylist([row | {"ready_at": self._ready_at} for row in rows])

    def _generate(self, own: slice) -> dict[str, Any]:
        assert self._thinker is not None
        wanted = self._wanted[own]
        # a batch that comes again, as its actor died, has been written in part; so has what another run works on
        known = self._cache.find([one.key for one in wanted])
        made = list(self._thinker.think([one for one in wanted if one.key not in known]))
        return _account(made) | {"num_found": len(known)}

    def _encode(self, own: slice) -> dict[str, Any]:
        part = self._bare[own]
        encoder, model = self._encoder
        vectors = encode_reasoned(encoder, model, self._bundle, [(query, text) for _, query, text in part])
        kept = vectors_to_keep([key for key, *_ in part], vectors)
        self._cache.set_vectors(kept, encoder=model.identity.fingerprint)
        num_encoded = sum(not isinstance(vector, Reason) for vector in vectors)
        return _account([]) | {"num_encoded": num_encoded, "num_not_encoded": len(part) - num_encoded}


def _account(made: Sequence[Cached]) -> dict[str, Any]:
    failed = [row.trajectory for row in made if row.trajectory.finish_reason is FinishReason.ERROR]
    return {
        "num_found": 0,
        "num_generated": len(made) - len(failed),
        "num_retried": sum(row.trajectory.num_attempts > 1 for row in made),
        "num_failed": len(failed),
        "num_encoded": 0,
        "num_not_encoded": 0,
        "num_tokens": sum(row.trajectory.num_tokens for row in made),
        "failure": "",
        "detail": failed[0].text if failed else "",
    }
