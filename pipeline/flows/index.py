"""`t1 index`: a corpus becomes a published table.

locate -> detect fields -> scan -> compare with the table -> read, tokenise, encode, write, commit -> delete what went
-> gate -> `live`. Everything up to the comparison is checked before a model is loaded; a run with nothing to do never
loads one. The table is the truth: running the same command again encodes only what is missing.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import ray

from pipeline.corpus.fields import detect_fields
from pipeline.corpus.locate import locate
from pipeline.errors import CorpusError, PublishRefused, SettingsError
from pipeline.flows.cluster import Pool, Resources, choose_device, connected, size_pool
from pipeline.flows.failures import root_cause
from pipeline.flows.guards import check_deletions, check_quarantine
from pipeline.flows.progress import Reporter, reporting
from pipeline.flows.report import RunReport, quarantine_rows
from pipeline.flows.scan import PlanSummary, decide_remotely, obsolete_rows, scan_shards
from pipeline.flows.stages import ReadTask
from pipeline.flows.stream import StreamSettings, choose_window, is_worth_compiling, stream
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.records import FieldMap, Reason, Rejected, Shard
from pipeline.settings import IndexSettings
from pipeline.storage import redact
from pipeline.store import live
from pipeline.store.commit import Committer
from pipeline.store.database import Database
from pipeline.store.fragments import WrittenFragments
from pipeline.store.schema import documents_schema

_QUARANTINE_FLUSH_ROWS = 5_000


@dataclass(slots=True)
class _Run:
    """What the steps of one run share."""

    settings: IndexSettings
    database: Database
    reporter: Reporter
    report: RunReport
    shards: list[Shard]
    fields: FieldMap
    bundle: ModelBundle
    pool: Pool


def index(settings: IndexSettings, *, quiet: bool = False) -> RunReport:
    """Indexes a corpus and publishes the result.

    Args:
        settings: What to index, with which model, where to.
        quiet: Say nothing on stderr.

    Returns:
        The run's account; also appended to the `runs` table, as is a failed run's.

    Raises:
        T1Error: any of the errors in `pipeline.errors`; the published version is then what it was.
    """
    if not settings.corpus.uris:
        raise SettingsError("no corpus was named; pass --corpus FILE, FOLDER or URI")
    database = Database.at(settings.db)
    with reporting(quiet=quiet) as reporter:
        shards = locate(settings.corpus.uris, format=settings.corpus.format, split_bytes=settings.corpus.split_bytes)
        fields, found = detect_fields(
            shards, text=settings.corpus.text_field, id=settings.corpus.id_field, title=settings.corpus.title_field,
            metadata=settings.corpus.metadata_fields,
        )  # fmt: skip
        reporter.say(f"corpus: {len(shards):,} shards, {sum(s.size_bytes for s in shards) / 1e6:,.1f} MB; {found}")
        database.check_writable()
        # a model that cannot be used is said before Ray starts; which device it gets, and so its dtype, comes after
        open_bundle(settings.encoder, device="cpu")
        with connected(settings.pool.address) as resources:
            run = _prepare(settings, database, reporter, shards, fields, resources)
            return _recorded(run, resources)


def _prepare(
    settings: IndexSettings,
    database: Database,
    reporter: Reporter,
    shards: list[Shard],
    fields: FieldMap,
    resources: Resources,
) -> _Run:
    device = choose_device(settings.pool.device, resources)
    pool = size_pool(settings.pool, resources, device=device)
    bundle = open_bundle(settings.encoder, device=device)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    report = RunReport(run_id, bundle.checkpoint.source, bundle.identity.fingerprint, started)
    reporter.say(
        f"model: {bundle.checkpoint.source}, {bundle.identity.dim} components, {bundle.settings.compute_dtype} on "
        f"{device}, "
        f"fingerprint {bundle.identity.fingerprint[:12]}; run {run_id}"
    )
    return _Run(settings, database, reporter, report, shards, fields, bundle, pool)


def _recorded(run: _Run, resources: Resources) -> RunReport:
    """Runs, and leaves a row in the `runs` table whatever happens."""
    report = run.report
    try:
        _index(run, resources)
        report.status = "published"
    except BaseException as error:
        cause = root_cause(error)
        report.status, report.error = (
            "failed",
            redact(f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"),
        )
        if cause is not error:
            raise cause from error
        raise
    finally:
        report.finished_at = datetime.now(UTC)
        run.database.append("runs", report.as_row(run.settings.model_dump_json()))
    for sentence in report.sentences():
        run.reporter.say(sentence)
    run.reporter.say(f"published version {report.version} as live in {run.database.documents_uri}")
    return report


def _index(run: _Run, resources: Resources) -> None:
    plan, summary = _scan(run, resources)
    report = run.report
    report.documents_unchanged, report.documents_duplicate = summary.num_unchanged, summary.num_duplicates
    if not summary.num_documents:
        raise CorpusError(
            f"none of the {report.documents_read:,} rows read is a document; "
            f"`t1 status --db {redact(run.database.uri)}` counts why; nothing was published"
        )
    check_deletions(summary, allowed=run.settings.corpus.max_delete)
    run.reporter.say(
        f"scan: {summary.num_documents:,} documents, {summary.num_selected:,} to encode ({summary.num_changed:,} "
        "changed), "
        f"{summary.num_unchanged:,} unchanged, {summary.num_duplicates:,} duplicate, {summary.num_deleted:,} to "
        "delete, "
        f"{report.documents_quarantined:,} quarantined"
    )
    schema = documents_schema(run.bundle.identity, encoder=run.bundle.settings.model_dump_json())
    commit = run.settings.commit
    committer = Committer(
        run.database, schema=schema, run_id=report.run_id,
        max_rows=commit.max_rows, max_bytes=commit.max_bytes, max_seconds=commit.max_seconds,
    )  # fmt: skip
    if summary.num_selected:
        _encode(run, plan, summary, committer, schema)
    if summary.num_obsolete_rows:
        committer.delete_rows(ray.get(obsolete_rows.remote(plan)))
    report.documents_deleted = summary.num_deleted
    if report.unaccounted:
        raise PublishRefused(
            f"{report.unaccounted} of {report.documents_read} documents are unaccounted for; nothing was published"
        )
    _publish(run, summary, committer)


def _publish(run: _Run, summary: PlanSummary, committer: Committer) -> None:
    if run.database.live_version() == committer.version:
        run.report.version = committer.version
        return
    whole = not (run.settings.corpus.limit or run.settings.corpus.keep_missing)
    expected = run.report.documents_encoded + summary.num_unchanged if whole else None
    live.check(committer.dataset, expected_documents=expected)
    run.report.version = live.publish(committer.dataset)


def _scan(run: _Run, resources: Resources) -> tuple[Any, PlanSummary]:
    corpus = run.settings.corpus
    scans: list[Any] = [None] * len(run.shards)
    rejected: list[Rejected] = []
    num_documents = 0
    found = scan_shards(
        run.shards, run.fields, max_text_chars=corpus.max_text_chars, limit=corpus.limit, num_cpus=resources.cpus
    )
    for position, scan, counts in found:
        scans[position] = scan
        num_documents += counts.num_documents
        rejected.extend(counts.rejected)
        run.report.documents_quarantined += len(counts.rejected)
        if len(rejected) >= _QUARANTINE_FLUSH_ROWS:
            _set_aside(run, rejected)
    _set_aside(run, rejected)
    plan, summary = decide_remotely(
        scans, run.database, fingerprint=run.report.fingerprint,
        delete_missing=not (corpus.limit or corpus.keep_missing), limit=corpus.limit,
    )  # fmt: skip
    run.report.documents_read = summary.num_documents + run.report.documents_quarantined
    check_quarantine(run.report, allowed=run.settings.corpus.max_quarantine, db=run.database.uri)
    return plan, summary


def _set_aside(run: _Run, rejected: list[Rejected]) -> None:
    run.database.append("quarantine", quarantine_rows(rejected, run.report.run_id))
    rejected.clear()


def _encode(run: _Run, plan: Any, summary: PlanSummary, committer: Committer, schema: pa.Schema) -> None:
    begin, begin_at = time.monotonic(), time.time()
    report = run.report
    ready_at = math.inf
    run.reporter.say(f"encoding on {run.pool.describe()}")
    run.reporter.start(summary.num_selected)
    for result in stream(_stage_settings(run, summary.num_selected), plan, summary.shards_to_read, schema=schema):
        committer.add(WrittenFragments(tuple(result["fragments"]), result["num_rows"], result["size_bytes"]))
        ready_at = min(ready_at, result["ready_at"] or math.inf)
        report.documents_encoded += result["num_documents"]
        report.num_chunks += result["num_rows"]
        report.num_tokens += result["tokens"]
        report.num_slots += result["slots"]
        report.flops += result["flops"]
        report.encode_seconds += result["seconds"]
        rejected = [Rejected(**row | {"reason": Reason(row["reason"])}) for row in result["rejected"]]
        report.documents_quarantined += len(rejected)
        _set_aside(run, rejected)
        run.reporter.advance(
            report.documents_encoded, num_tokens=report.num_tokens, num_slots=report.num_slots,
            num_quarantined=report.documents_quarantined,
        )  # fmt: skip
    committer.flush()
    report.stream_seconds = time.monotonic() - begin
    report.startup_seconds = max(0.0, ready_at - begin_at) if math.isfinite(ready_at) else 0.0
    check_quarantine(run.report, allowed=run.settings.corpus.max_quarantine, db=run.database.uri)


def _stage_settings(run: _Run, num_documents: int) -> StreamSettings:
    pool = run.settings.pool
    compiles = is_worth_compiling(num_documents) if pool.compile_layers is None else pool.compile_layers
    window = pool.window_documents or choose_window(run.pool)
    read = ReadTask(
        tuple(run.shards), run.fields, run.settings.corpus.max_text_chars, run.bundle.settings, run.pool.device, window
    )
    return StreamSettings(read, run.pool, pool.batch_tokens, compiles, run.report.run_id, run.database.documents_uri)
