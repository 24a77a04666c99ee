"""Search with reasoning: the trajectory of each query from the cache or written now, words and vectors fused.

Python's way to what `t1 search --reason` does:

    searcher = ReasonedSearcher.open(QuerySettings(db="./db"))
    for answer in searcher.answer([Query("1", "why do moths circle lamps?")], how=How("auto")):
        print(answer.trajectory, [hit.id for hit in answer.hits])

No Ray; one process. Called by `t1 search` and the evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.errors import ModelError, T1Error
from pipeline.flows.patient_load import PatientLoad
from pipeline.flows.reasoned import Notes
from pipeline.flows.search import Filters, Searcher
from pipeline.flows.thinking import Thinker, Vector, Wanted, encode_reasoned
from pipeline.model.reasoner import Reasoner, load_reasoner
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import QuerySettings
from pipeline.records import FinishReason, Query, Reason, Trajectory
from pipeline.store.database import LIVE, Database
from pipeline.store.fusion import DEPTH, fuse
from pipeline.store.search import Hit
from pipeline.store.trajectories import TrajectoryCache

Mode = Literal["auto", "always", "cached", "never"]
# Documents of the ranking without reasoning among which a hit is looked for.
_COMPARED = 100


@dataclass(frozen=True, slots=True)
class How:
    """How queries are answered.

    Attributes:
        reason: "cached" uses what is there, "auto" also generates what is not, within the deadline, "always" without
            one, "never" neither.
        deadline_s: Of "auto", from the call on, loading the model included.
        vectors: Rank by vectors.
        words: Rank by words (BM25); with both, the two are fused.
        filters: Which rows count.
        compares: Also rank without reasoning, to say what reasoning moved.
    """

    reason: Mode = "never"
    deadline_s: float = 30.0
    vectors: bool = True
    words: bool = False
    filters: Filters = field(default_factory=Filters)
    compares: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query found.

    Attributes:
        query: As it was asked.
        hits: Best first.
        trajectories: What was written about it, by sample; empty where nothing was.
        fell_back: Reasoning was asked for, and it was searched without.
        note: Why, in a few words; "" where it did not.
        plain_ranks: Id -> rank, from 1, without reasoning; only what `compares` asked for.
        seconds: Of searching, reasoning left out.
    """

    query: Query
    hits: list[Hit]
    trajectories: list[Trajectory] = field(default_factory=list)
    fell_back: bool = False
    note: str = ""
    plain_ranks: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def trajectory(self) -> str:
        """The first usable one's text, or ""."""
        return next((t.text for t in self.trajectories if t.is_usable), "")


class ReasonedSearcher:
    """A `Searcher` with a cache of trajectories, and a reasoner that is loaded when one is missing.

    Attributes:
        searcher: What it searches with.
    """

    def __init__(self, searcher: Searcher, settings: QuerySettings, *, device: str) -> None:
        self.searcher = searcher
        self._settings = settings
        self._cache = TrajectoryCache(Database.at(settings.db))
        self._device = device
        self._load: PatientLoad | None = None

    @cached_property
    def bundle(self) -> ReasonerBundle:
        """Of the reasoner; only a search that reasons asks for it, as some tables' models cannot.

        Raises:
            SettingsError: the model cannot reason.
        """
        return open_reasoner(self._settings.reason, self.searcher.bundle.settings, device=self._device)

    @classmethod
    def open(cls, settings: QuerySettings, *, device: str = "cpu", version: int | str = LIVE) -> ReasonedSearcher:
        """Opens a database for searching.

        Raises:
            TableError: there is no such table or version.
            ModelError: a model is absent, or not the one whose vectors these are.
        """
        return cls(Searcher.open(settings.db, device=device, version=version), settings, device=device)

    def close(self) -> None:
        """Gives the reasoner back, if one was loaded."""
        if self._load is not None:
            self._load.close()
            self._load = None

    def answer(self, queries: Sequence[Query], *, top_k: int = 10, how: How | None = None) -> list[Answer]:
        """The best documents of each query.

        Args:
            queries: Asked.
            top_k: Documents a query, >= 1.
            how: Mode, fusion and filters.

        Raises:
            TableError: the filter cannot be used, or words are asked for and the table has no index of them.
            ModelError: the reasoner is not there; or, without a deadline, cannot be loaded, or broke down.
        """
        how = how or How()
        notes, failure = self._think(queries, how)
        begin = time.monotonic()
        plain: list[Vector] = list(self.searcher.encode([query.text for query in queries])) if how.vectors else []
        reasoned = self._vectors(queries, notes)
        vectors = [own if own is not None else bare for own, bare in zip(reasoned, plain, strict=False)]
        hits = self._rank(queries, vectors, top_k, how)
        shared = (time.monotonic() - begin) / max(len(queries), 1)
        before = self._rank(queries, plain, max(top_k, _COMPARED), how) if how.compares and notes else None
        return [
            Answer(
                query, hits[i], notes.trajectories(i) if notes else [], bool(notes) and reasoned[i] is None,
                _note(notes, i, how, failure) if notes and reasoned[i] is None else "",
                {hit.id: rank for rank, hit in enumerate(before[i], 1)} if before else {}, shared,
            )
            for i, query in enumerate(queries)
        ]  # fmt: skip

    def _think(self, queries: Sequence[Query], how: How) -> tuple[Notes | None, str]:
        """What there is about the queries once the mode has had its way, None if nobody asks; and what broke down."""
        if how.reason == "never" or not how.vectors:
            return None, ""
        begin = time.monotonic()
        notes = Notes(self.bundle, queries)
        notes.look_up(self._cache)
        missing = notes.missing()
        if how.reason == "cached" or not missing or self.bundle.settings.engine == "imported":
            return notes, ""
        end = begin + how.deadline_s if how.reason == "auto" else None
        try:
            self._generate(notes, missing, end)
        except ModelError as error:
            if end is None:
                raise
            notes.look_up(self._cache)  # what was written before it broke down
            return notes, str(error)
        return notes, ""

    def _generate(self, notes: Notes, missing: Sequence[Wanted], end: float | None) -> None:
        """Adds what the reasoner writes until `end` on the monotonic clock, loading included."""
        left = None if end is None else end - time.monotonic()
        reasoner = self._loaded_within(left) if left is None or left > 0 else None
        left = None if end is None else end - time.monotonic()
        if reasoner is not None and (left is None or left > 0):
            encoder = (self.searcher.encoder, self.searcher.bundle)
            notes.add(Thinker(self._cache, self.bundle, reasoner, encoder).think(missing, deadline_s=left))

    def _loaded_within(self, left_s: float | None) -> Reasoner | None:
        """The reasoner; None where it is not loaded in time: it may be when the next query comes."""
        if self._load is None:
            bundle = self.bundle  # opened here: what is wrong with the settings is said whatever the time
            self._load = PatientLoad(lambda: load_reasoner(bundle, device=self._device, deadline_s=left_s))
        try:
            return self._load.wait(left_s)
        except T1Error:
            self._load = None  # the next query tries anew
            raise

    def _vectors(self, queries: Sequence[Query], notes: Notes | None) -> list[Vector | None]:
        """Each query's with its trajectories; None where it is searched without."""
        if notes is None:
            return [None] * len(queries)
        encoder = self.searcher.bundle.identity.fingerprint
        bare = notes.without_vector(encoder)
        pairs = [(query, text) for _, query, text in bare]
        encoded = encode_reasoned(self.searcher.encoder, self.searcher.bundle, self.bundle, pairs)
        pairs_made = zip(bare, encoded, strict=True)
        computed = {key: found for (key, *_), found in pairs_made if not isinstance(found, Reason)}
        return [notes.vector(i, encoder=encoder, computed=computed) for i in range(len(queries))]

    def _rank(self, queries: Sequence[Query], vectors: Sequence[Vector], top_k: int, how: How) -> list[list[Hit]]:
        excluded = [query.excluded_ids for query in queries]
        depth = DEPTH if how.words and how.vectors else top_k
        rankings = []
        if how.vectors:
            near = self.searcher.find_near(np.asarray(vectors), top_k=depth, excluded=excluded, how=how.filters)
            rankings.append(near)
        if how.words:
            texts = [query.text for query in queries]
            rankings.append(self.searcher.find_words(texts, top_k=depth, excluded=excluded, how=how.filters))
        if len(rankings) == 1:
            return rankings[0]
        return [fuse(of_query, top_k=top_k) for of_query in zip(*rankings, strict=True)]


def _note(notes: Notes, position: int, how: How, failure: str) -> str:
    """Why a query has no vector of its own reasoning."""
    found = notes.trajectories(position)
    if not found and failure:
        return failure
    if not found:
        late = f", and none was written within {how.deadline_s:g} s" if how.reason == "auto" else ""
        return f"no trajectory of it is there{late}"
    last = found[0]
    if last.is_usable:
        return "its trajectory could not be encoded"
    why = f": {last.text}" if last.finish_reason is FinishReason.ERROR and last.text else ""
    return f"its trajectory ended as {last.finish_reason}{why}"
