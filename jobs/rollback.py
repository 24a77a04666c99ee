"""`t1 rollback`."""

from __future__ import annotations

import json

import click

from jobs.version_number import check_version


@click.command()
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option(
    "--to",
    type=int,
    callback=check_version,
    help="Version that was live once; the one before the live one when left out.",
)
@click.option("--quiet", is_flag=True, help="Say nothing on stderr.")
def rollback(db: str, to: int | None, quiet: bool) -> None:
    """Point `live` back at a version that was live before.

    One tag moves and nothing is copied or deleted. `t1 status` lists the versions that are kept.
    """
    from jobs.display import sayer
    from pipeline.flows.publish import rollback as run_rollback

    click.echo(json.dumps(run_rollback(db, to=to, say=sayer(quiet=quiet))))
