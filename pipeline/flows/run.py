"""What the steps of one index run share, from the first look at the corpus to the last commit.

Made by the index flow; knows no step.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.flows.cluster import Pool
from pipeline.flows.progress import Reporter
from pipeline.flows.report import RunReport, quarantine_rows
from pipeline.model.bundle import ModelBundle
from pipeline.records import FieldMap, Rejected, Shard
from pipeline.settings import IndexSettings
from pipeline.store.database import Database
from pipeline.store.transactions import Writer


@dataclass(slots=True)
class Run:
    """What the steps of one run share."""

    settings: IndexSettings
    database: Database
    reporter: Reporter
    report: RunReport
    shards: list[Shard]
    fields: FieldMap
    bundle: ModelBundle
    pool: Pool
    writer: Writer


def set_aside(run: Run, rejected: list[Rejected]) -> None:
    """Writes rows to the quarantine, and empties the list."""
    run.database.append("quarantine", quarantine_rows(rejected, run.report.run_id))
    rejected.clear()
