"""Small corpora on disk, settings that are quick, and what a published table holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.flows.finish import How, add_indexes, call_here
from pipeline.flows.writing import writing
from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.records import content_hash
from pipeline.settings import IndexesSettings, IndexSettings, ModelSettings, load_settings
from pipeline.store import live
from pipeline.store.commit import CommitBounds, Committer
from pipeline.store.database import LIVE, Database
from pipeline.store.fragments import write_rows
from pipeline.store.schema import documents_schema

MODEL = "hashing://64"


def document(name: str, text: str = "", **fields: Any) -> dict[str, Any]:
    return {"id": name, "text": text or f"what {name} is about", **fields}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """One line a row; a string is written as it is, so that broken lines can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def settings_for(corpus: Path | str, db: Path | str, **flags: Any) -> IndexSettings:
    """Settings of a run: flags are settings fields with `__` for the dot."""
    overrides = {"corpus.uris": (str(corpus),), "db": str(db), "encoder.model": MODEL}
    return load_settings(None, overrides | {name.replace("__", "."): value for name, value in flags.items()})


def table_rows(db: Path | str, *, version: int | str | None = LIVE) -> list[dict[str, Any]]:
    """Rows of a version of the documents table, by id and chunk."""
    rows = Database.at(str(db)).open("documents", version=version).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["id"], row["chunk"]))


def record_rows(db: Path | str, table: str) -> list[dict[str, Any]]:
    """Rows of the `runs` or `quarantine` table, oldest first; none when there is no such table."""
    database = Database.at(str(db))
    if not database.exists(table):
        return []
    return list(database.open(table).to_table().to_pylist())


def publish_table(db: Path | str, rows: Sequence[Mapping[str, Any]], *, model: str = MODEL) -> int:
    """A published table with its indexes of words, made without Ray; returns its version.

    Args:
        db: The database.
        rows: As `document` makes them; ids may repeat, each time as the next chunk of that document.
        model: A model that is quick.
    """
    bundle = open_bundle(ModelSettings(model=model), device="cpu")
    texts = [str(row["text"]) for row in rows]
    bodies = [np.asarray(ids, np.int32) for ids in bundle.tokenizer.encode(texts)]
    vectors = load_encoder(bundle, device="cpu").encode(bodies, role="document").vectors
    named = [str(row.get("id") or row["_id"]) for row in rows]
    extra = [{k: v for k, v in row.items() if k not in ("id", "_id", "title", "text")} for row in rows]
    columns = {
        "id": named, "chunk": pa.array([named[:i].count(name) for i, name in enumerate(named)], pa.int32()),
        "title": [str(row.get("title", "")) for row in rows], "text": texts,
        "metadata": [json.dumps(fields) for fields in extra], "shard": ["s"] * len(rows),
        "content_hash": pa.array([content_hash("", text, "{}") for text in texts], pa.binary(16)),
        "num_tokens": pa.array([len(body) for body in bodies], pa.int32()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "run_id": ["r"] * len(rows),
    }  # fmt: skip
    schema = documents_schema(bundle.identity, encoder=bundle.settings.model_dump_json())
    database = Database.at(str(db))
    with writing(database, run_id="r", say=lambda _: None) as writer:
        commits = Committer(database, writer=writer, schema=schema, bounds=CommitBounds(10**6, 10**9, 10**6))
        commits.add(write_rows(pa.table(columns), database.documents_uri, schema=schema))
        commits.flush()
        dataset = add_indexes(database, commits.dataset, IndexesSettings(), writer=writer, how=How(call_here))
        live.publish(dataset)
        return int(dataset.version)
