"""A few judged queries that every new version must answer as well as the one that is live.

Optional: `--canary FOLDER` names a BEIR folder (queries.jsonl, qrels). Counts and norms cannot see that a model was
swapped for a worse one, or that a corpus came in with its texts cut; this can.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.corpus.qrels import read_qrels
from pipeline.corpus.queries import read_queries
from pipeline.errors import CorpusError, ModelError, PublishRefused, SettingsError
from pipeline.evaluation.measures import ndcg_at_10
from pipeline.flows.search import Searcher
from pipeline.model.bundle import open_bundle
from pipeline.records import Query
from pipeline.settings import ModelSettings, PublishSettings
from pipeline.storage import redact
from pipeline.store.database import Database, Table
from pipeline.store.schema import read_encoder, read_fingerprint

_TOP_K = 10


def read_canary(folder: str, num_queries: int) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """The judged queries of a folder, the first so many, and the judgements; a run looks before it pays for anything.

    Raises:
        CorpusError: the folder has no judged query.
    """
    qrels = read_qrels(folder)
    queries = [query for query in read_queries(folder) if query.id in qrels][:num_queries]
    if not queries:
        raise CorpusError(f"no query of {redact(folder)} has a judgement; --canary needs queries.jsonl and qrels")
    return queries, qrels


def prepare_canary(database: Database, settings: PublishSettings) -> None:
    """Makes sure that the canary can be asked, before anything is paid for: of the live version too, by its own model.

    Raises:
        CorpusError: the folder has no judged query.
        ModelError: the live version's model is gone, or was trained on in its place.
    """
    if settings.canary is None:
        return
    read_canary(settings.canary, settings.canary_queries)
    version = database.live_version()
    if version is None:
        return
    schema = database.open("documents", version=version).schema
    if reason := _why_unusable(ModelSettings.model_validate_json(read_encoder(schema)), read_fingerprint(schema)):
        raise ModelError(
            f"--canary asks version {version}, which is live, as well, and its model cannot be used: {reason}; put the "
            "model back as it was, or leave --canary out of this run"
        )


def _why_unusable(encoder: ModelSettings, fingerprint: str) -> str:
    """Why a model cannot encode queries for vectors of this fingerprint; "" where it can. Loads no weights."""
    try:
        found = open_bundle(encoder, device="cpu").identity.fingerprint
    except (ModelError, SettingsError) as error:
        return str(error)
    if found == fingerprint:
        return ""
    changed = "its weights, tokenizer or prompts have changed"
    return f"{redact(encoder.model)} gives fingerprint {found[:12]} and not {fingerprint[:12]}, so {changed}"


def measure(db: str, version: int, settings: PublishSettings, *, device: str) -> float:
    """nDCG@10 of a version on the canary's queries, 0 to 1.

    Args:
        db: The database.
        version: Of its documents table; its own encoder is loaded.
        settings: Name the folder, and how many of its judged queries are asked.
        device: "cpu" or "cuda".

    Raises:
        CorpusError: the folder has no judged query.
    """
    queries, qrels = read_canary(str(settings.canary), settings.canary_queries)
    searcher = Searcher.open(db, version=version, device=device)
    found = searcher.search(
        [q.text for q in queries], top_k=_TOP_K, excluded=[frozenset(q.excluded_ids) for q in queries]
    )
    rankings = {q.id: {hit.id: hit.score for hit in hits} for q, hits in zip(queries, found, strict=True)}
    return ndcg_at_10(rankings, {q.id: qrels[q.id] for q in queries})


def check_canary(
    database: Database, dataset: Table, settings: PublishSettings, *, device: str, say: Callable[[str], None]
) -> None:
    """Compares a version with the live one on the canary, where there is one.

    Raises:
        PublishRefused: it is worse by more than the margin.
    """
    if settings.canary is None:
        return
    new = measure(database.uri, int(dataset.version), settings, device=device)
    current = database.live_version()
    old = measure(database.uri, current, settings, device=device) if current is not None else None
    say(f"canary: nDCG@10 {new:.3f}" + (f", live has {old:.3f}" if old is not None else ""))
    if old is not None and new < old - settings.canary_margin:
        raise PublishRefused(
            f"version {dataset.version} was not published: nDCG@10 on the canary fell from {old:.3f} to {new:.3f}, "
            f"more than --canary-margin {settings.canary_margin:g} allows; readers keep the version they had"
        )
