"""Limits that stop a run before it does harm: too many bad documents, too many deletions."""

from __future__ import annotations

from pipeline.errors import QuarantineExceeded, SettingsError
from pipeline.flows.compare import PlanSummary
from pipeline.flows.report import RunReport
from pipeline.storage import redact

# Bad rows are tolerated, whatever their share, in a corpus of at most this many rows.
_GRACE_ROWS = 100


def check_quarantine(report: RunReport, *, allowed: float, db: str) -> None:
    """Compares the share of bad rows with what is allowed.

    Raises:
        QuarantineExceeded: it is more.
    """
    bad, read = report.documents_quarantined, report.documents_read
    if read > _GRACE_ROWS and bad > allowed * read:
        raise QuarantineExceeded(
            f"{bad:,} of {read:,} rows were bad, more than --max-quarantine {allowed:g} allows; "
            f"`t1 status --db {redact(db)}` counts the reasons; mend the corpus or raise the limit"
        )


def check_deletions(summary: PlanSummary, *, allowed: float) -> None:
    """Compares the share of the table that would vanish with what is allowed: a listing that failed deletes nothing.

    Raises:
        SettingsError: it is more.
    """
    gone, known = summary.num_deleted, summary.num_known
    if gone > allowed * known:
        raise SettingsError(
            f"{gone:,} of {known:,} documents in the table are not in this corpus and would be deleted, more than "
            f"--max-delete {allowed:g} allows; pass --keep-missing to keep them, or raise --max-delete if that is meant"
        )
