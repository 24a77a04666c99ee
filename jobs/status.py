"""`t1 status`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click


@click.command()
@click.option("--db", required=True, help="Folder or URI of the database.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on stdout, also on a terminal.")
def status(db: str, as_json: bool) -> None:
    """Say what is in a database: versions, who is writing, the last runs, the last run's quarantine."""
    from pipeline.flows.status import status as read_status

    found = read_status(db)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(found))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{found['db']}[/bold]")
    for name in ("live", "latest"):
        version = found[name]
        if version is None:
            console.print(f"{name}: none published yet")
        else:
            console.print(
                f"{name}: version {version['version']}, {version['num_documents']:,} documents, "
                f"{version['num_chunks']:,} chunks, "
                f"{version['dim']} x {version['vector_dtype']}, fingerprint {version['fingerprint'][:12]}"
            )
    older = [str(p["version"]) for p in found["published"] if p["version"] != (found["live"] or {}).get("version")]
    if older:
        console.print(f"kept for `t1 rollback`: {', '.join(older)}")
    if lease := found["lease"]:
        who = f"run {lease['run_id']} on {lease['host']} (process {lease['pid']}) since {lease['acquired_at']}"
        console.print(f"{'held, but silent' if lease['expired'] else 'writing now'}: {who}", markup=False)
    table = Table(title="runs", title_justify="left")
    for column in ("run", "status", "read", "encoded", "unchanged", "duplicate", "quarantined", "deleted", "version"):
        table.add_column(column, justify="left" if column in ("run", "status") else "right")
    for run in found["runs"]:
        counts = [
            f"{run[f'documents_{c}']:,}"
            for c in ("read", "encoded", "unchanged", "duplicate", "quarantined", "deleted")
        ]
        table.add_row(run["run_id"], run["status"], *counts, str(run["version"] or ""))
    console.print(table)
    for reason, count in found["quarantine"].items():
        console.print(f"quarantined by the last run: {count:,} {reason}")
    if found["runs"] and found["runs"][0]["error"]:
        console.print(f"last error: {found['runs'][0]['error']}", markup=False)
