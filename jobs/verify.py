"""`t1 verify`."""

from __future__ import annotations

import json

import click

from jobs.version_number import check_version


@click.command()
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option("--version", type=int, callback=check_version, help="Version to check; the live one when left out.")
@click.option("--settings", "settings_file", help="TOML file whose [publish] table sets the floors.")
def verify(db: str, version: int | None, settings_file: str | None) -> None:
    """Make every check of the gate on a version, and change nothing.

    Reads every key and every vector. What was found is one JSON line on stdout; exits with 4 when a check fails.
    """
    from pipeline.settings import load_settings

    settings = load_settings(settings_file, {"db": db}).publish
    from pipeline.flows.publish import verify as run_verify

    click.echo(json.dumps(run_verify(db, version=version, settings=settings)))
