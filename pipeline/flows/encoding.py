"""The middle of an index run: what was selected is encoded, written and committed, window by window.

By a task or a few where that is quicker than a pool, else by the pool. Called by the index flow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.corpus.sizes import text_bytes
from pipeline.flows.allowance import Allowance
from pipeline.flows.cluster import describe_room
from pipeline.flows.compaction import BackgroundCompaction
from pipeline.flows.compare import PlanSummary
from pipeline.flows.direct import encode_directly, suits_one_task
from pipeline.flows.guards import check_quarantine
from pipeline.flows.run import Run, set_aside
from pipeline.flows.stages import ReadTask
from pipeline.flows.stream import StreamSettings, choose_window, is_worth_compiling, stream
from pipeline.store.commit import Committer
from pipeline.store.fragments import WrittenFragments


def encode_selected(run: Run, plan: Any, summary: PlanSummary, committer: Committer, schema: pa.Schema) -> None:
    """Encodes, and commits in intervals; the report has the counts.

    Args:
        run: What the steps share.
        plan: Reference to a `Plan`.
        summary: Its counts.
        committer: Of the run.
        schema: Of the documents table.

    Raises:
        QuarantineExceeded: too many documents could not be encoded.
        CorpusChanged: a shard is not what was scanned.
    """
    begin, begin_at = time.monotonic(), time.time()
    report = run.report
    ready_at = math.inf
    run.reporter.start(summary.num_selected)
    results, allowance = _results(run, plan, summary, schema)
    commits = _Commits(run, committer, allowance)
    with ExitStack() as stack:
        if isinstance(results, Generator):
            # an error would keep it until the process ends; Ray Data then ends its pool by starting another Ray
            stack.enter_context(closing(results))
        stack.enter_context(run.reporter.watching(partial(describe_room, run.pool)))
        for result in results:
            commits.add(result)
            ready_at = min(ready_at, result["ready_at"] or math.inf)
            set_aside(run, report.add(result))
            run.reporter.advance(
                report.documents_encoded, num_tokens=report.num_tokens, num_slots=report.num_slots,
                num_quarantined=report.documents_quarantined,
            )  # fmt: skip
    commits.finish()
    report.stream_seconds = time.monotonic() - begin
    report.startup_seconds = max(0.0, ready_at - begin_at) if math.isfinite(ready_at) else 0.0
    check_quarantine(run.report, allowed=run.settings.corpus.max_quarantine, db=run.database.uri)


# The limit grows with the largest window that was seen; every step need not be said.
_WORTH_SAYING = 1.25


class _Commits:
    """Commits what arrives, says so to whom the encoders ask, and has small fragments merged.

    The committer's bound is half of `max_rows`, the account's all of it: so while encoders wait, enough is on its way
    for the next commit, and all that a kill can cost is `max_rows`.
    """

    def __init__(self, run: Run, committer: Committer, allowance: Allowance | None) -> None:
        self._run, self._committer, self._allowance = run, committer, allowance
        self._compaction = BackgroundCompaction(run.database, run.settings.compaction, writer=run.writer)
        self._windows: list[bytes] = []
        self._num_chunks = 0
        self._limit = run.settings.commit.max_rows

    def add(self, result: Mapping[str, Any]) -> None:
        """Takes what a writer says of a batch of fragments."""
        committer = self._committer
        done = committer.add(WrittenFragments(tuple(result["fragments"]), result["num_rows"], result["size_bytes"]))
        self._windows += map(bytes.fromhex, result["windows"])
        self._num_chunks += result["num_chunks"]
        # chunks that were set aside are not rows, but were allowed as such
        if done or self._num_chunks >= committer.bounds.max_rows:
            committer.flush()
            self._settle()
            committer.go_on_from(self._compaction.step(committer.dataset))

    def finish(self) -> None:
        """Commits the rest."""
        self._committer.flush()
        self._committer.go_on_from(self._compaction.finish(self._committer.dataset))

    def _settle(self) -> None:
        limit = self._allowance.settle(self._windows) if self._allowance is not None else 0
        if limit > _WORTH_SAYING * self._limit:
            self._limit = limit
            self._run.reporter.say(
                f"--commit-rows {self._run.settings.commit.max_rows:,} would leave encoders waiting; up to {limit:,} "
                "rows are on their way at once, and would be encoded again after a kill"
            )
        self._windows.clear()
        self._num_chunks = 0


def _results(
    run: Run, plan: Any, summary: PlanSummary, schema: pa.Schema
) -> tuple[Iterable[dict[str, Any]], Allowance | None]:
    """What is said of each batch of fragments, as it is written; and what the encoders ask, where there is a pool."""
    settings, commit_rows = _stage_settings(run, summary), run.settings.commit.max_rows
    kind, most = run.bundle.checkpoint.kind, run.settings.pool.direct_documents
    if suits_one_task(summary.num_selected, kind=kind, commit_rows=commit_rows, most=most):
        run.reporter.say(f"encoding on {run.pool.device} without a pool")
        shards, ready = summary.shards_to_read, run.getting_ready
        if (results := encode_directly(settings, plan, shards, schema=schema, ready=ready)) is not None:
            return results, None
    run.reporter.say(f"encoding on {run.pool.describe()}")
    allowance = Allowance.of(commit_rows, encoders=run.pool.max_size)
    return stream(settings, plan, summary.shards_to_read, schema=schema, allowance=allowance), allowance


def _stage_settings(run: Run, summary: PlanSummary) -> StreamSettings:
    pool = run.settings.pool
    compiles = is_worth_compiling(summary.num_selected) if pool.compile_layers is None else pool.compile_layers
    window = pool.window_documents or choose_window(
        run.pool, kind=run.bundle.checkpoint.kind, commit_rows=run.settings.commit.max_rows
    )
    read = ReadTask(
        tuple(run.shards), run.fields, run.settings.corpus.max_text_chars, run.bundle.settings, run.pool.device, window
    )
    return StreamSettings(
        read, run.pool, pool.batch_tokens, compiles, run.report.run_id, run.database.documents_uri,
        sum(map(text_bytes, run.shards)) / summary.num_documents,
    )  # fmt: skip
