"""`t1 publish`."""

from __future__ import annotations

import json

import click

from jobs.version_number import check_version


@click.command()
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option("--version", type=int, callback=check_version, help="Version to publish; the latest when left out.")
@click.option("--settings", "settings_file", help="TOML file whose [publish] table sets the gate's floors.")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr.")
def publish(db: str, version: int | None, settings_file: str | None, quiet: bool) -> None:
    """Put a version through the gate and point `live` at it.

    For a run that the gate refused, once the reason is gone; `t1 index` publishes by itself. Exits with 4 when a check
    fails; readers then keep the version they had.
    """
    from jobs.display import sayer
    from pipeline.settings import load_settings

    settings = load_settings(settings_file, {"db": db}).publish
    from pipeline.flows.publish import publish as run_publish

    click.echo(json.dumps(run_publish(db, version=version, settings=settings, say=sayer(quiet=quiet))))
