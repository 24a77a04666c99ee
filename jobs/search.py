"""`t1 search`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click


@click.command()
@click.argument("queries", nargs=-1)
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option("--file", "queries_file", help="Queries: one a line, JSONL, Parquet, or a BEIR folder; - for stdin.")
@click.option("-k", "--top-k", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Documents a query.")
@click.option("--where", help="SQL filter over id, title, text, shard and metadata.NAME.")
@click.option("--exact", is_flag=True, help="Compare every vector, though the table has an index.")
@click.option("--instruction", help="What the model is told to do with a query.")
@click.option("--version", "table_version", help="Version number or tag.  [default: live]")
@click.option("--model", help="Where the table's model is now, if it moved.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON line a query on stdout, also on a terminal.")
def search(queries: tuple[str, ...], queries_file: str | None, as_json: bool, **options: Any) -> None:
    """Ask a published table questions.

    Prints a table on a terminal, and one JSON line a query otherwise.
    """
    from pipeline.errors import SettingsError
    from pipeline.records import Query

    asked = [Query(str(i), text) for i, text in enumerate(queries, 1) if text.strip()]
    if queries_file is not None:
        from pipeline.flows.search import read_queries

        asked += read_queries(sys.stdin if queries_file == "-" else queries_file)
    if not asked:
        raise SettingsError(
            'no query was given; write `t1 search --db DB "a question"`, or pass --file FILE (- for stdin)'
        )
    from pipeline.flows.search import Searcher

    version = options["table_version"] or "live"
    searcher = Searcher.open(
        options["db"], device=options["device"], version=int(version) if version.isdigit() else version,
        instruction=options["instruction"], model=options["model"],
    )  # fmt: skip
    results = searcher.search(
        [q.text for q in asked],
        top_k=options["top_k"],
        where=options["where"],
        excluded=[q.excluded_ids for q in asked],
        exact=options["exact"],
    )
    if as_json or not sys.stdout.isatty():
        for query, hits in zip(asked, results, strict=True):
            found = [_as_json(hit) for hit in hits]
            click.echo(json.dumps({"id": query.id, "query": query.text, "version": searcher.version, "hits": found}))
        return
    from jobs.display import print_hits

    for query, hits in zip(asked, results, strict=True):
        print_hits(query.text, hits)


def _as_json(hit: Any) -> dict[str, Any]:
    return {
        "id": hit.id, "chunk": hit.chunk, "score": round(hit.score, 6), "title": hit.title, "text": hit.text,
        "metadata": json.loads(hit.metadata), "shard": hit.shard,
    }  # fmt: skip
