"""A table of a collection's documents that answers in every mode of an evaluation: indexed, reasoned about, searched.

Called by `t1 eval` through `evaluate_collections`; `evaluate` has the procedure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.corpus.collections import Collection
from pipeline.errors import CorpusError, SettingsError
from pipeline.evaluation.results import Evaluation
from pipeline.flows.eval_outputs import Outputs
from pipeline.flows.eval_record import (
    encoder_of,
    query_instruction,
    record_reasoner,
    record_settings,
    record_table,
)
from pipeline.flows.evaluate import Found, evaluate
from pipeline.flows.reasoned_search import Answer, How, ReasonedSearcher
from pipeline.flows.report import RunReport
from pipeline.flows.search import Filters, Searcher
from pipeline.model.reasoning import open_reasoner
from pipeline.query_settings import QuerySettings
from pipeline.records import Query
from pipeline.settings import IndexSettings
from pipeline.storage import join
from pipeline.store.database import LIVE, Database
from pipeline.store.search import Hit

# Every document is compared: an index's misses are not the model's.
_EXACT = Filters(exact=True)
MODES: Mapping[str, How] = {
    "bm25": How(vectors=False, words=True, filters=_EXACT),
    "plain": How(filters=_EXACT),
    "reasoned": How("cached", filters=_EXACT),
    "hybrid": How(words=True, filters=_EXACT),
    "reasoned-hybrid": How("cached", words=True, filters=_EXACT),
}
_QUERIES_AT_ONCE = 32
_NUM_SHOWN, _SHOWN_CHARS = 10, 600

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What an evaluation needs beside its collections.

    Attributes:
        index: How documents are indexed; `db` is the folder of the tables, one a collection, or a database, whose
            table is searched as it is.
        query: How queries are reasoned about; `db` is where trajectories are.
        device: Where queries are encoded, "cpu" or "cuda".
        indexes: Index what is not, and what changed; else every table has to be there.
        generates: Generate trajectories that are not cached.
        quiet: Indexing and reasoning say nothing on stderr.
    """

    index: IndexSettings
    query: QuerySettings
    device: str = "cpu"
    indexes: bool = True
    generates: bool = True
    quiet: bool = False


def evaluate_collections(
    collections: Sequence[Collection], settings: EvalSettings, *, modes: Sequence[str], outputs: Outputs
) -> Evaluation:
    """Measures modes on collections, indexing and reasoning first where that is missing.

    Args:
        collections: From `find_collections`.
        settings: How.
        modes: Keys of `MODES`; the others are compared with the first.
        outputs: What is written and said on the way.

    Raises:
        SettingsError: an unknown mode, or settings of a reasoner that do not fit.
        CorpusError: a collection has no documents here, or two have one name, which is that of a table; or a table that
            is searched as it is has none of the relevant documents.
        T1Error: any of `pipeline.errors` from indexing, reasoning or searching.
    """
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise SettingsError(f"there is no mode {unknown[0]!r}; choose from {', '.join(MODES)}")
    reasons = any(MODES[mode].reason != "never" for mode in modes)
    _check(collections, settings, reasons=reasons)

    def open_searching(collection: Collection) -> TableSearching:
        return TableSearching.open(collection, settings, reasons=reasons, say=outputs.say)

    found = evaluate(collections, open_searching, modes=modes, outputs=outputs)
    more = {"index_settings": record_settings(settings.index), "query_settings": record_settings(settings.query)}
    return replace(found, facts={**found.facts, **more})


def _check(collections: Sequence[Collection], settings: EvalSettings, *, reasons: bool) -> None:
    """Finds before anything is encoded what would stop the evaluation after it."""
    bare = [collection.name for collection in collections if not collection.corpus]
    if bare:
        raise CorpusError(f"{', '.join(bare[:12])} have queries and judgements but no documents to search")
    names = [collection.name for collection in collections]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CorpusError(f"{', '.join(twice)} came more than once; expected collections of different names, each once")
    encoders = []
    for collection in collections:
        db, is_made_here = _place(collection, settings)
        if is_made_here:
            encoders.append(settings.index.encoder)
            continue
        dataset = Database.at(db).open("documents", version=LIVE)
        record_table(dataset, collection)
        encoders.append(encoder_of(dataset))
    for encoder in dict.fromkeys(encoders) if reasons else ():
        open_reasoner(settings.query.reason, encoder, device=settings.device)


def _place(collection: Collection, settings: EvalSettings) -> tuple[str, bool]:
    """The database of a collection's table, and whether the collection is indexed into it.

    A database that was named itself is searched as it is: indexing a collection into it would delete what else it
    holds.
    """
    db = settings.index.db
    if Database.at(db).exists("documents"):
        return db, False
    return join(db, collection.name), settings.indexes


class TableSearching:
    """`evaluate.Searching` over one published table."""

    def __init__(self, searcher: ReasonedSearcher, facts: Mapping[str, Any]) -> None:
        self._searcher = searcher
        self._facts = facts

    @classmethod
    def open(cls, collection: Collection, settings: EvalSettings, *, reasons: bool, say: Say) -> TableSearching:
        """The table of a collection's documents, made when it is not there."""
        db, is_made_here = _place(collection, settings)
        if is_made_here:
            report = _index(collection, settings.index.model_copy(update={"db": db}), quiet=settings.quiet)
            encoded, unchanged = report.documents_encoded, report.documents_unchanged
            say(f"{collection.name}: {encoded:,} documents encoded, {unchanged:,} unchanged")
        dataset = Database.at(db).open("documents", version=LIVE)
        facts, encoder = record_table(dataset, collection), encoder_of(dataset)
        if facts["num_gold_missing"]:
            say(f"{collection.name}: the table lacks {facts['num_gold_missing']:,} of {facts['num_gold']:,} relevant "
                "documents, which no mode can find")  # fmt: skip
        query = settings.query.model_copy(update={"encoder": encoder})
        if reasons and settings.generates:
            facts |= _reason(collection, query, quiet=settings.quiet)
        told = query_instruction(collection, settings.index.encoder, encoder)
        searcher = Searcher.open(db, device=settings.device, instruction=told)
        reasoned = ReasonedSearcher(searcher, query, device=settings.device)
        if reasons:
            facts |= record_reasoner(reasoned.bundle, collection.queries())
        # an encoder that takes no instruction has no prompts
        return cls(reasoned, facts | {"query_instruction": told if searcher.bundle.prompts else ""})

    def facts(self) -> Mapping[str, Any]:
        """As in `evaluate.Searching`."""
        return self._facts

    def search(self, queries: list[Query], mode: str, top_k: int) -> list[Found]:
        """As in `evaluate.Searching`."""
        found: list[Found] = []
        for begin in range(0, len(queries), _QUERIES_AT_ONCE):
            part, how = queries[begin : begin + _QUERIES_AT_ONCE], MODES[mode]
            found += [_found(answer, how) for answer in self._searcher.answer(part, top_k=top_k, how=how)]
        return found


def _index(collection: Collection, settings: IndexSettings, *, quiet: bool) -> RunReport:
    from pipeline.flows.index import index

    corpus = settings.corpus.model_copy(update={"uris": collection.corpus})
    return index(settings.model_copy(update={"corpus": corpus}), quiet=quiet)


def _reason(collection: Collection, settings: QuerySettings, *, quiet: bool) -> dict[str, Any]:
    from pipeline.flows.reason import reason

    judged = collection.qrels()
    report = reason(settings, [query for query in collection.queries() if query.id in judged], quiet=quiet)
    return {"reasoning": asdict(report)}


def _found(answer: Answer, how: How) -> Found:
    """With the texts of the hits that a report shows; the rest are names and scores."""
    hits = [_shorten(hit, rank) for rank, hit in enumerate(answer.hits)]
    tokens = sum(trajectory.num_tokens for trajectory in answer.trajectories)
    is_fused = how.vectors and how.words
    return Found(hits, answer.seconds, answer.trajectory, tokens, answer.fell_back, is_ordered=is_fused)


def _shorten(hit: Hit, rank: int) -> Hit:
    return replace(hit, text=hit.text[:_SHOWN_CHARS] if rank < 3 * _NUM_SHOWN else "", metadata="{}")
