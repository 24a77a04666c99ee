"""Limits that stop a run before it does harm: too many bad documents, too many deletions."""

from __future__ import annotations

from pipeline.errors import QuarantineExceeded, SettingsError
from pipeline.flows.compare import PlanSummary
from pipeline.flows.report import RunReport
from pipeline.flows.run import Run
from pipeline.retry import retrying
from pipeline.storage import redact
from pipeline.store.schema import read_fingerprint

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


def check_shrinking(run: Run, summary: PlanSummary) -> None:
    """Compares the documents that the version to be made will have with what readers have now.

    `check_deletions` goes by the rows that the run starts from. These are none under a new fingerprint, and fewer than
    readers have after a run that deleted and did not publish.

    Raises:
        SettingsError: more would vanish from what is live than is allowed.
    """
    live, others = _count_live(run, summary)
    coming = summary.num_known - summary.num_deleted + summary.num_selected - summary.num_changed
    # a new encoder has no old row to keep of a document that cannot be read
    broken = min(run.unreadable) if run.unreadable and others else ""
    allowed = 0.0 if broken else run.settings.corpus.max_delete
    if live - coming <= allowed * live:
        return
    found = f"the version that is live has {live:,} documents and the one to be made would have {coming:,}"
    if broken:
        raise SettingsError(
            f"{found}: what is missing may stand in the part of {broken} that cannot be read, and vectors of another "
            "encoder are no substitute; upload it again, or take it out of the corpus, and run the same command again"
        )
    raise SettingsError(
        f"{found}, {live - coming:,} fewer, more than --max-delete {allowed:g} allows; check that the corpus is all "
        "there, or raise --max-delete if that is meant"
    )


def _count_live(run: Run, summary: PlanSummary) -> tuple[int, bool]:
    """Documents that readers have, and whether another encoder's; none where the run starts from exactly these."""
    database = run.database
    version = database.live_version()
    if version is None or (summary.num_known and database.open("documents").version == version):
        return 0, False
    live = database.open("documents", version=version)
    what = f"counting the documents of {database.documents_uri}"
    count = retrying(lambda: int(live.count_rows(filter="chunk = 0")), what=what)
    return count, read_fingerprint(live.schema) != run.report.fingerprint
