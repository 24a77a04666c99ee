"""`t1 search`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from jobs.finite import FiniteRange
from jobs.reason import ENGINES, FIELDS

_REASONING = (
    "db", "engine", "reasoner", "revision", "adapter", "endpoint", "samples", "max_tokens", "max_query_tokens",
    "temperature", "top_p", "seed", "stop", "device", "model",
)  # fmt: skip


@click.command()
@click.argument("queries", nargs=-1)
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option("--file", "queries_file", help="Queries: one a line, JSONL, Parquet, or a BEIR folder; - for stdin.")
@click.option("-k", "--top-k", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Documents a query.")
@click.option("--where", help="SQL filter over id, title, text, shard and metadata.NAME.")
@click.option("--exact", is_flag=True, help="Compare every vector, though the table has an index.")
@click.option("--words", is_flag=True, help="Rank by words alone (BM25); no model is loaded.")
@click.option("--hybrid", is_flag=True, help="Fuse the rankings by vectors and by words (reciprocal ranks).")
@click.option(
    "--reason", type=click.Choice(["auto", "always", "cached", "never"]), default="never", show_default=True,
    help="Embed a query with what a model wrote about it: what is cached, and with auto and always what is not, too.",
)  # fmt: skip
@click.option("--deadline", type=FiniteRange(min=0), default=30.0, show_default=True, help="Seconds, of auto.")
@click.option("--explain", is_flag=True, help="Show the trajectory, and each hit's rank without it.")
@click.option("--task", help="Task of the queries, such as biology.")
@click.option("--engine", type=click.Choice(ENGINES), help="What generates.  [default: transformers]")
@click.option("--reasoner", help="Model that reasons, or the source of an import; the table's own when left out.")
@click.option("--revision", help="Of the reasoner, as `t1 reason` was given it.")
@click.option("--adapter", help="Folder or URI of the reasoner's peft adapter.")
@click.option("--endpoint", help="Base URL of an OpenAI-compatible server.")
@click.option("--samples", type=int, help="Trajectories a query; their vectors are averaged.  [default: 1]")
@click.option("--max-tokens", type=int, help="Longest trajectory.  [default: 256]")
@click.option("--max-query-tokens", type=int, help="A longer query is cut.  [default: 1024]")
@click.option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0]")
@click.option("--top-p", type=float, help="Share of the likeliest tokens that are drawn from.")
@click.option("--seed", type=int, help="Of the draws.")
@click.option("--stop", multiple=True, help="Text that ends the reasoning; may be given several times.")
@click.option("--settings", "settings_file", help="TOML file with a table [reason]; flags override it.")
@click.option(
    "--instruction",
    help="Told to the encoder about a query that is embedded as it is; what the reasoner is told, `t1 reason "
    "--instruction`, is `instruction` in the table [reason] of --settings.",
)
@click.option("--version", "table_version", help="Version number or tag.  [default: live]")
@click.option("--model", help="Where the table's model is now, if it moved.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON line a query on stdout, also on a terminal.")
def search(queries: tuple[str, ...], queries_file: str | None, as_json: bool, **options: Any) -> None:
    """Ask a published table questions.

    Prints a table on a terminal, and one JSON line a query otherwise.
    """
    from pipeline.errors import SettingsError
    from pipeline.query_settings import load_query_settings

    if options["words"] and (options["hybrid"] or options["reason"] != "never"):
        raise SettingsError("--words ranks by words alone; leave it out to reason or to fuse")
    files = [] if queries_file is None else [sys.stdin if queries_file == "-" else queries_file]
    settings = load_query_settings(options["settings_file"], {FIELDS[name]: options[name] for name in _REASONING})
    from pipeline.flows.ask import read_asked

    asked = read_asked(queries, files, task=options["task"], own=settings.reason.tasks)
    answers, version = _answer(asked, settings, options)
    if as_json or not sys.stdout.isatty():
        for answer in answers:
            click.echo(json.dumps(_as_json(answer, version, options)))
        return
    from jobs.display import print_answer

    for answer in answers:
        print_answer(answer, explains=options["explain"])


def _answer(asked: list[Any], settings: Any, options: dict[str, Any]) -> tuple[list[Any], int]:
    from pipeline.flows.reasoned_search import How, ReasonedSearcher
    from pipeline.flows.search import Filters, Searcher

    version = options["table_version"] or "live"
    searcher = Searcher.open(
        options["db"], device=options["device"], version=int(version) if version.isdigit() else version,
        instruction=options["instruction"], model=options["model"], encodes=not options["words"],
    )  # fmt: skip
    how = How(
        options["reason"], options["deadline"], vectors=not options["words"],
        words=options["words"] or options["hybrid"], filters=Filters(options["where"], options["exact"]),
        compares=options["explain"],
    )  # fmt: skip
    reasoned = ReasonedSearcher(searcher, settings, device=options["device"])
    try:
        return reasoned.answer(asked, top_k=options["top_k"], how=how), searcher.version
    finally:
        reasoned.close()


def _as_json(answer: Any, version: int, options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"id": answer.query.id, "query": answer.query.text, "version": version}
    if options["reason"] != "never":
        found |= {"reasoned": not answer.fell_back, "trajectory": answer.trajectory, "note": answer.note}
    ranks = answer.plain_ranks if options["explain"] and options["reason"] != "never" else None
    return found | {"hits": [_hit_as_json(hit, ranks) for hit in answer.hits]}


def _hit_as_json(hit: Any, ranks: dict[str, int] | None) -> dict[str, Any]:
    return {
        "id": hit.id, "chunk": hit.chunk, "score": round(hit.score, 6), "title": hit.title, "text": hit.text,
        "metadata": json.loads(hit.metadata), "shard": hit.shard,
    } | ({} if ranks is None else {"plain_rank": ranks.get(hit.id)})  # fmt: skip
