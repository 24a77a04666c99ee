"""Shards that could not be read to their end: what is missing from them cannot be told from what was taken away.

So a run that meets one deletes nothing; half of an upload would take the other half from readers. Where a format shows
that a file breaks off its reader says so: gzip, zstd, Parquet. Called by the index flow, after the scan.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.corpus.rows import shown
from pipeline.flows.run import Run
from pipeline.records import Reason
from pipeline.store.scans import list_scans, scan_key

_NUM_NAMED = 3


def note_unreadable(run: Run, known_rejected: Mapping[str, int]) -> None:
    """Says which shards broke off, if any, and what comes of it; notes those that were not opened.

    Args:
        run: Knows the shards that it has opened itself.
        known_rejected: Reason -> bad rows of shards that were not opened.
    """
    if known_rejected.get(Reason.UNREADABLE):
        run.unreadable |= _known_unreadable(run)
    if not run.unreadable:
        return
    names = sorted(run.unreadable)
    more = f" and {len(names) - _NUM_NAMED:,} more" if len(names) > _NUM_NAMED else ""
    run.report.shards_unreadable = len(names)
    run.reporter.say(
        f"{', '.join(names[:_NUM_NAMED])}{more} could not be read to the end, so this run deletes no document: "
        "one that is missing may stand in the part that cannot be read; upload it again, or take it out of the corpus, "
        "and run the same command again"
    )


def _known_unreadable(run: Run) -> set[str]:
    """The shards that an earlier run could not read to their end, and that have not changed since."""
    _, known = list_scans(run.database)
    max_chars = run.settings.corpus.max_text_chars
    found = ((shard, known.get(scan_key(shard, run.fields, max_text_chars=max_chars))) for shard in run.shards)
    return {shown(shard.uri) for shard, scan in found if scan is not None and scan.rejected.get(Reason.UNREADABLE)}
