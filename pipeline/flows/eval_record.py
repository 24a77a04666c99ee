"""What of an evaluation is recorded, so that figures can be compared later: documents, encoder, reasoner, settings.

Called by `eval_modes`; opens no model and asks no table a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.corpus.collections import Collection
from pipeline.errors import CorpusError
from pipeline.model.reasoning import ReasonerBundle
from pipeline.prompts import bright_query_instruction
from pipeline.query_settings import QuerySettings
from pipeline.records import Query
from pipeline.settings import DEFAULT_QUERY_INSTRUCTION, IndexSettings, ModelSettings
from pipeline.storage import redact
from pipeline.store.database import Table
from pipeline.store.known import absent_ids, count_documents, hash_documents, read_known
from pipeline.store.schema import read_encoder, read_fingerprint


def record_table(dataset: Table, collection: Collection) -> dict[str, Any]:
    """Which documents and vectors a table has, and how many of the relevant documents it lacks.

    Args:
        dataset: A version of the documents table.
        collection: What is searched in it.

    Raises:
        CorpusError: it has none of the relevant documents, so it is a table of something else.
    """
    known = read_known(dataset)
    gold = {name for found in collection.qrels().values() for name, relevance in found.items() if relevance > 0}
    lacking = absent_ids(known, sorted(gold))
    if gold and len(lacking) == len(gold):
        raise CorpusError(
            f"{redact(str(dataset.uri))} has none of the {len(gold):,} relevant documents of {collection.name}, such "
            f"as {lacking[0]!r}; expected a table of its documents: name another --db, or a folder to index it into"
        )
    return {
        "num_documents": count_documents(known), "num_chunks": len(known.ids), "documents_hash": hash_documents(known),
        "num_gold": len(gold), "num_gold_missing": len(lacking), "table_version": int(dataset.version),
        "encoder": encoder_of(dataset).model, "encoder_fingerprint": read_fingerprint(dataset.schema),
    }  # fmt: skip


def encoder_of(dataset: Table) -> ModelSettings:
    """The settings of the encoder whose vectors a table holds."""
    return ModelSettings.model_validate_json(read_encoder(dataset.schema))


def record_reasoner(bundle: ReasonerBundle, queries: Sequence[Query]) -> dict[str, Any]:
    """Whose trajectories are searched with, wherever they were written."""
    return {
        "reasoner": bundle.source, "reasoner_fingerprints": sorted({bundle.fingerprint(query) for query in queries}),
        "reasoner_sampling": bundle.sampling, "num_samples": bundle.settings.num_samples,
    }  # fmt: skip


def record_settings(settings: IndexSettings | QuerySettings) -> dict[str, Any]:
    """Settings as they were resolved, without what shapes no figure and without credentials."""
    return {
        name: _redacted(value)
        for name, value in settings.model_dump(mode="json", exclude={"corpus", "publish", "commit"}).items()
    }


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redacted(item) for name, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list) else value


def query_instruction(collection: Collection, given: ModelSettings, of_table: ModelSettings) -> str:
    """What an encoder that takes an instruction is told about a query that is not reasoned about.

    What somebody chose, for this evaluation or for the table; else what BRIGHT's reference code tells it about the
    queries of the collection's task, if it is one of BRIGHT's; else our own.

    Args:
        collection: Whose queries.
        given: The evaluation's own settings.
        of_table: Those that the table was made with.
    """
    chosen = [settings.query_instruction for settings in (given, of_table)]
    usual = bright_query_instruction(collection.task) or DEFAULT_QUERY_INSTRUCTION
    return next((text for text in chosen if text != DEFAULT_QUERY_INSTRUCTION), usual)
