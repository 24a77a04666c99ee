"""A judged collection of made-up words with its table and its trajectories: ties, chunks, exclusions, fall-backs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.corpus.collections import Collection, find_collections
from pipeline.flows.eval_modes import EvalSettings
from pipeline.flows.trajectory_cache import import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from pipeline.query_settings import QuerySettings, ReasonSettings
from tests.flows.corpora import MODEL, publish_table, settings_for, write_jsonl

VOCABULARY = [
    f"{first}{last}" for first in ("ba", "ko", "li", "mu", "te", "sa") for last in ("n", "r", "st", "lm", "p")
]
SOURCE = "elsewhere"


@dataclass(frozen=True)
class Judged:
    """A collection on disk, its table and its trajectories, all in one folder of tables."""

    collection: Collection
    db: str
    trajectories: Mapping[str, str]


def some(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(VOCABULARY, k=count))


def make_rows(rng: random.Random) -> list[dict[str, Any]]:
    """Chunks of 140 documents: every third has several, every fifth says what another one says, and ties with it."""
    rows: list[dict[str, Any]] = []
    for number in range(140):
        name = f"d{number}" if number % 7 else f"é/{number}"
        copied = number % 5 == 4
        text = rows[-1]["text"] if copied else some(rng, rng.randint(3, 7))
        rows.append({"_id": name, "title": "" if copied else some(rng, 1), "text": text})
        if number % 3 == 0:
            rows += [{"_id": name, "title": "", "text": some(rng, rng.randint(2, 6))} for _ in range(2)]
    return rows


def make_queries(rng: random.Random, ids: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """24 questions, of which one shares no word with a document and one is not judged."""
    queries, qrels = [], {}
    for number in range(24):
        text = "nothing of the sort" if number == 5 else some(rng, rng.randint(2, 5))
        gold, excluded = rng.sample(ids, 4), rng.sample(ids, 60 if number % 4 == 0 else number % 4)
        queries.append({"_id": f"q{number}", "text": text, "excluded_ids": [*excluded, "not-there"]})
        if number != 9:
            qrels[f"q{number}"] = {name: rank % 2 + 1 for rank, name in enumerate(gold)}
    return queries, qrels


def write_beir(folder: Path, rows: Sequence[dict[str, Any]], queries: Any, qrels: Mapping[str, Any]) -> Collection:
    write_jsonl(folder / "corpus.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", queries)
    lines = [f"{query}\t{doc}\t{value}" for query, judged in qrels.items() for doc, value in judged.items()]
    write_jsonl(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return find_collections(str(folder))[0]


def make_judged(folder: Path) -> Judged:
    """The collection with its table and its trajectories; the same every time."""
    rng = random.Random(7)
    rows = make_rows(rng)
    ids = list(dict.fromkeys(row["_id"] for row in rows))
    queries, qrels = make_queries(rng, ids)
    # what BRIGHT excludes is never what it looks for, but the procedure does not rely on it
    qrels["q0"][queries[0]["excluded_ids"][0]] = 1
    queries[8]["excluded_ids"] = []
    collection = write_beir(folder / "made-up", rows, queries, qrels)
    publish_table(folder / "tables" / "made-up", rows)
    thoughts = {query["text"]: some(rng, 8) for query in queries[:-3]}  # three have none, and fall back
    source = write_jsonl(folder / "thoughts.jsonl", [{"text": q, "trajectory": t} for q, t in thoughts.items()])
    db = str(folder / "tables")
    import_trajectories(db, [str(source)], fields=ImportFields(source=SOURCE), tokenizer=MODEL)
    return Judged(collection, db, thoughts)


def settings_of(db: str | Path, **changes: Any) -> EvalSettings:
    reason = ReasonSettings(engine="imported", model=SOURCE)
    return EvalSettings(settings_for("", db), QuerySettings(db=str(db), reason=reason), **changes)
