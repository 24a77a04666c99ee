"""The middle of an index run: what was selected is encoded, written and committed, window by window.

By one task where that is quicker than a pool, else by the pool. Called by the index flow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

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
    for result in _results(run, plan, summary, schema):
        committer.add(WrittenFragments(tuple(result["fragments"]), result["num_rows"], result["size_bytes"]))
        ready_at = min(ready_at, result["ready_at"] or math.inf)
        set_aside(run, report.add(result))
        run.reporter.advance(
            report.documents_encoded, num_tokens=report.num_tokens, num_slots=report.num_slots,
            num_quarantined=report.documents_quarantined,
        )  # fmt: skip
    committer.flush()
    report.stream_seconds = time.monotonic() - begin
    report.startup_seconds = max(0.0, ready_at - begin_at) if math.isfinite(ready_at) else 0.0
    check_quarantine(run.report, allowed=run.settings.corpus.max_quarantine, db=run.database.uri)


def _results(run: Run, plan: Any, summary: PlanSummary, schema: pa.Schema) -> Iterable[dict[str, Any]]:
    """What the encoders say of each batch of fragments, as it is written."""
    settings, most = _stage_settings(run, summary.num_selected), run.settings.pool.direct_documents
    kind, commit_rows = run.bundle.checkpoint.kind, run.settings.commit.max_rows
    if suits_one_task(summary.num_selected, kind=kind, commit_rows=commit_rows, most=most):
        run.reporter.say(f"encoding on {run.pool.device} in one task, without a pool")
        if (results := encode_directly(settings, plan, summary.shards_to_read, schema=schema)) is not None:
            return results
    run.reporter.say(f"encoding on {run.pool.describe()}")
    return stream(settings, plan, summary.shards_to_read, schema=schema)


def _stage_settings(run: Run, num_documents: int) -> StreamSettings:
    pool = run.settings.pool
    compiles = is_worth_compiling(num_documents) if pool.compile_layers is None else pool.compile_layers
    window = pool.window_documents or choose_window(
        run.pool, kind=run.bundle.checkpoint.kind, commit_rows=run.settings.commit.max_rows
    )
    read = ReadTask(
        tuple(run.shards), run.fields, run.settings.corpus.max_text_chars, run.bundle.settings, run.pool.device, window
    )
    return StreamSettings(read, run.pool, pool.batch_tokens, compiles, run.report.run_id, run.database.documents_uri)
