"""`t1 cache`."""

from __future__ import annotations

import json

import click

from jobs.finite import FiniteRange

_DB = click.option("--db", required=True, help="Folder or URI of the database.")


@click.group()
def cache() -> None:
    """See, export, prune and import the trajectories that a database keeps."""


@cache.command()
@_DB
def stats(db: str) -> None:
    """Say what is there, by reasoner: rows, how they ended, their lengths."""
    from pipeline.flows.trajectory_cache import cache_stats

    click.echo(json.dumps(cache_stats(db)))


@cache.command()
@_DB
@click.option("--out", required=True, help="A .jsonl or .parquet file or URI; - for JSON lines on stdout.")
@click.option("--reasoner", help="Fingerprint of a reasoner, or how it begins: only its trajectories.")
def export(db: str, out: str, reasoner: str | None) -> None:
    """Write trajectories to a file."""
    from pipeline.flows.trajectory_cache import export_cache

    done = export_cache(db, out, reasoner=reasoner)
    click.echo(json.dumps(done), err=out == "-")


@cache.command()
@_DB
@click.option("--reasoner", "reasoners", multiple=True, help="Fingerprint, or how it begins: delete this reasoner's.")
@click.option(
    "--keep-reasoner", "keep", multiple=True, help="Fingerprint, or how it begins: delete all but this reasoner's."
)
@click.option("--finish", multiple=True, type=click.Choice(["stop", "length", "empty", "error"]), help="How it ended.")
@click.option("--older-than", "days", type=FiniteRange(min=0, max=36_500), help="Days since it was made.")
def prune(
    db: str, reasoners: tuple[str, ...], keep: tuple[str, ...], finish: tuple[str, ...], days: float | None
) -> None:
    """Delete trajectories that meet every condition given; at least one is needed."""
    from pipeline.flows.trajectory_cache import prune_cache

    done = prune_cache(db, reasoners=reasoners, keep_reasoners=keep, finish_reasons=finish, older_than_days=days)
    click.echo(json.dumps(done))


@cache.command(name="import")
@_DB
@click.argument("sources", nargs=-1, required=True)
@click.option("--source", help="Who generated them, such as a model's name; not needed for an export of a cache.")
@click.option("--field", help="Column of the trajectory.  [default: trajectory]")
@click.option("--query-field", help="Column of the query's text; detected when left out.")
@click.option("--task", help="Task of all; else the column task, or what the file's name begins with.")
@click.option("--settings", "settings_file", help="TOML file whose table [reason.tasks] has tasks of your own.")
def import_(
    db: str, sources: tuple[str, ...], source: str | None, field: str | None, query_field: str | None,
    task: str | None, settings_file: str | None,
) -> None:  # fmt: skip
    """Add trajectories generated elsewhere, or exported: files, folders or globs of JSON lines or Parquet."""
    from pipeline.prompts import known_task
    from pipeline.query_settings import load_query_settings

    own = load_query_settings(settings_file, {"db": db}).reason.tasks
    task = known_task(task, own=own) if task else task
    from pipeline.flows.trajectory_cache import import_trajectories
    from pipeline.flows.trajectory_import import ImportFields

    fields = ImportFields(source=source, trajectory=field, query=query_field, task=task)
    click.echo(json.dumps(import_trajectories(db, sources, fields=fields)))
