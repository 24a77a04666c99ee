"""`t1 eval`."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from jobs.reason import ENGINES, FIELDS


@click.command(name="eval")
@click.argument("folders", nargs=-1, required=True)
@click.option("--db", required=True, help="Folder or URI of tables, one a collection, or of one database.")
@click.option("--mode", "modes", multiple=True, help="bm25, plain, reasoned, hybrid or reasoned-hybrid; several times.")
@click.option("--task", "tasks", multiple=True, help="Only this collection or task; several times.")
@click.option("--long", is_flag=True, help="BRIGHT's long documents; their tables are TASK_long.")
@click.option("--queries", default="examples", show_default=True, help="Which of BRIGHT's sets of queries.")
@click.option("--model", help="Encoder of tables that are not there yet.")
@click.option("--settings", "settings_file", help="TOML file with tables as for `t1 index` and `t1 reason`.")
@click.option("--no-index", is_flag=True, help="Every table has to be there.")
@click.option("--no-generate", is_flag=True, help="Use the trajectories that are cached, and no others.")
@click.option("--engine", type=click.Choice(ENGINES), help="What generates.  [default: transformers]")
@click.option("--reasoner", help="Model that reasons, or the source of an import; the encoder's when left out.")
@click.option("--endpoint", help="Base URL of an OpenAI-compatible server.")
@click.option("--samples", type=int, help="Trajectories a query; their vectors are averaged.  [default: 1]")
@click.option("--max-tokens", type=int, help="Longest trajectory.  [default: 256]")
@click.option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--runs", default="", help="Folder or URI for TREC run files.")
@click.option("--rows", help="Path or URI of a Parquet file: one row a query and mode.")
@click.option("--report", help="Path or URI of an HTML file for people.")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr.")
def eval_(folders: tuple[str, ...], modes: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Measure modes of search on BEIR and BRIGHT folders, side by side.

    Ranks as BRIGHT does: a query's excluded documents dropped, 1,000 kept, nDCG@10 by pytrec_eval. The means of every
    collection, and the plain mean over collections, are one JSON line on stdout.
    """
    from jobs.display import print_evaluation, sayer
    from pipeline.query_settings import load_query_settings
    from pipeline.settings import load_settings

    file, device = options["settings_file"], options["device"]
    indexing = {"db": options["db"], "encoder.model": options["model"], "pool.device": device}
    named = ("db", "engine", "reasoner", "endpoint", "samples", "max_tokens", "temperature", "device", "model")
    index = load_settings(file, indexing)
    query = load_query_settings(file, {FIELDS[name]: options[name] for name in named})
    from pipeline.flows.eval_modes import EvalSettings, evaluate_collections
    from pipeline.flows.evaluate import Outputs, find_collections, write_outputs

    collections = find_collections(
        *folders, tasks=options["tasks"] or None, long=options["long"], queries=options["queries"]
    )
    settings = EvalSettings(
        index,
        query,
        device=device,
        indexes=not options["no_index"],
        generates=not options["no_generate"],
        quiet=quiet,
    )
    places = {name: options[name] or "" for name in ("runs", "rows", "report")}
    outputs = Outputs(**places, say=sayer(quiet=quiet))
    evaluation = evaluate_collections(collections, settings, modes=modes or ("bm25", "plain"), outputs=outputs)
    if not quiet:
        print_evaluation(evaluation, say=partial(click.echo, err=True))
    # before these files: a place that can no longer be written loses nothing
    shown = ("measures", "means", "mean_over_collections", "costs", "collections", "facts")
    found = {name: getattr(evaluation, name) for name in shown}
    click.echo(json.dumps(found | {"comparisons": [asdict(row) for row in evaluation.comparisons]}))
    write_outputs(evaluation, outputs)
