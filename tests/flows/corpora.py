"""Small corpora on disk, settings that are quick, and what a published table holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.settings import IndexSettings, load_settings
from pipeline.store.database import LIVE, Database

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
