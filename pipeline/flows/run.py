"""What the steps of one index run share, from the first look at the corpus to the last commit.

Made by the index flow; knows no step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.flows.cluster import Pool
from pipeline.flows.progress import Reporter
from pipeline.flows.report import RunReport, quarantine_rows
from pipeline.model.bundle import ModelBundle
from pipeline.records import FieldMap, Reason, Rejected, Shard
from pipeline.settings import IndexSettings
from pipeline.store.database import Database
from pipeline.store.transactions import Writer


@dataclass(slots=True)
class Run:
    """What the steps of one run share.

    Attributes:
        unreadable: URIs, as rows name them, of shards that could not be read to their end.
        getting_ready: Reference to what `stages.get_ready` began, if it did.
    """

    settings: IndexSettings
    database: Database
    reporter: Reporter
    report: RunReport
    shards: list[Shard]
    fields: FieldMap
    bundle: ModelBundle
    pool: Pool
    writer: Writer
    unreadable: set[str] = field(default_factory=set)
    getting_ready: Any = None

    @property
    def sees_all(self) -> bool:
        """Whether the run has seen all of the corpus, and is to make the table the same: what is missing has gone."""
        corpus = self.settings.corpus
        return not (corpus.limit or corpus.keep_missing or self.unreadable)


def set_aside(run: Run, rejected: list[Rejected]) -> None:
    """Writes rows to the quarantine, and empties the list; remembers the shards that broke off."""
    run.unreadable.update(row.shard for row in rejected if row.reason is Reason.UNREADABLE)
    run.database.append("quarantine", quarantine_rows(rejected, run.report.run_id))
    rejected.clear()
