"""`t1 index`: a corpus becomes a published table.

locate -> detect fields -> scan -> compare with the table -> read, tokenise, encode, write, commit -> delete what went
-> gate -> `live`. Everything up to the comparison is checked before a model is loaded; a run with nothing to do never
loads one. The table is the truth: running the same command again encodes only what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.corpus.fields import detect_fields
from pipeline.corpus.locate import locate
from pipeline.errors import CorpusError, PublishRefused, SettingsError
from pipeline.flows.build_indexes import choose_builder
from pipeline.flows.canary import check_canary, prepare_canary
from pipeline.flows.cluster import (
    Pool,
    Resources,
    advise_device,
    call_remotely,
    choose_device,
    connected,
    size_pool,
    start_remotely,
)
from pipeline.flows.compaction import compact
from pipeline.flows.compare import Comparison, PlanSummary, decide_remotely, read_obsolete, start_reading
from pipeline.flows.duplicates import DuplicatesTask, read_duplicates
from pipeline.flows.encoding import encode_selected
from pipeline.flows.failures import root_cause
from pipeline.flows.finish import How, add_indexes, finish
from pipeline.flows.guards import check_deletions, check_quarantine, check_shrinking
from pipeline.flows.precision import keep_dtype
from pipeline.flows.progress import reporting
from pipeline.flows.rebuild import check_unpublished, describe_rebuild
from pipeline.flows.report import RunReport
from pipeline.flows.run import Run, set_aside
from pipeline.flows.scan import CorpusScan, in_flushes
from pipeline.flows.stages import get_ready
from pipeline.flows.unreadable import note_unreadable
from pipeline.flows.writing import Say, new_run_id, writing
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.settings import IndexSettings
from pipeline.storage import redact
from pipeline.store.commit import CommitBounds, Committer
from pipeline.store.database import Database
from pipeline.store.gate import read_rows
from pipeline.store.indexes import choose_vector_index
from pipeline.store.schema import documents_schema
from pipeline.store.transactions import fence


def index(settings: IndexSettings, *, quiet: bool = False) -> RunReport:
    """Indexes a corpus and publishes the result.

    Args:
        settings: What to index, with which model, where to.
        quiet: Say nothing on stderr.

    Returns:
        The run's account; also appended to the `runs` table, as is a failed run's.

    Raises:
        T1Error: any of `pipeline.errors`; the published version is then what it was.
    """
    if not settings.corpus.uris:
        raise SettingsError("no corpus was named; pass --corpus FILE, FOLDER or URI")
    database = Database.at(settings.db)
    prepare_canary(database, settings.publish)
    with reporting(quiet=quiet) as reporter:
        shards = locate(settings.corpus.uris, format=settings.corpus.format, split_bytes=settings.corpus.split_bytes)
        fields, found = detect_fields(
            shards, text=settings.corpus.text_field, id=settings.corpus.id_field, title=settings.corpus.title_field,
            metadata=settings.corpus.metadata_fields,
        )  # fmt: skip
        reporter.say(f"corpus: {len(shards):,} shards, {sum(s.size_bytes for s in shards) / 1e6:,.1f} MB; {found}")
        database.check_writable()
        # a model that cannot be used is said before Ray starts; which device it gets, and so its dtype, comes after
        choose_vector_index(1, open_bundle(settings.encoder, device="cpu").identity.dim, kind=settings.indexes.vector)
        with (
            writing(database, run_id=new_run_id(), say=reporter.say) as writer,
            connected(settings.pool.address) as resources,
        ):
            bundle, pool = _prepare(settings, resources, say=reporter.say)
            bundle, kept = keep_dtype(bundle, database, wanted=settings.encoder.compute_dtype)
            report = RunReport(
                writer.run_id, redact(bundle.checkpoint.source), bundle.identity.fingerprint, datetime.now(UTC)
            )
            reporter.say(
                f"model: {report.model}, {bundle.identity.dim} components, {bundle.settings.compute_dtype}{kept} on "
                f"{pool.device}, fingerprint {report.fingerprint[:12]}; run {report.run_id}"
            )
            return _recorded(Run(settings, database, reporter, report, shards, fields, bundle, pool, writer), resources)


def _prepare(settings: IndexSettings, resources: Resources, *, say: Say) -> tuple[ModelBundle, Pool]:
    device = choose_device(settings.pool.device, resources)
    if advice := advise_device(settings.pool.device, resources):
        say(advice)
    return open_bundle(settings.encoder, device=device), size_pool(settings.pool, resources, device=device)


def _recorded(run: Run, resources: Resources) -> RunReport:
    """Runs, and leaves a row in the `runs` table whatever happens."""
    report = run.report
    try:
        _index(run, resources)
        report.status = "published"
    except BaseException as error:
        cause = root_cause(error)
        report.status = "refused" if isinstance(cause, PublishRefused) else "failed"
        report.error = redact(f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}")
        if cause is not error:
            raise cause from error
        raise
    finally:
        report.finished_at = datetime.now(UTC)
        run.database.append("runs", report.as_row(run.settings.model_dump_json()))
    for sentence in report.sentences():
        run.reporter.say(sentence)
    run.reporter.say(f"published version {report.version} as live in {redact(run.database.documents_uri)}")
    return report


def _index(run: Run, resources: Resources) -> None:
    if given_up := check_unpublished(run.database, run.bundle, discard=run.settings.commit.discard_unpublished):
        run.reporter.say(given_up)
    plan, summary = _scan(run, resources)
    report = run.report
    report.documents_unchanged, report.documents_duplicate = summary.num_unchanged, summary.num_duplicates
    if not summary.num_documents:
        raise CorpusError(
            f"none of the {report.documents_read:,} rows read is a document; "
            f"`t1 status --db {redact(run.database.uri)}` counts why; nothing was published"
        )
    check_deletions(summary, allowed=run.settings.corpus.max_delete)
    check_shrinking(run, summary)
    run.reporter.say(
        f"scan: {summary.num_documents:,} documents, {summary.num_selected:,} to encode ({summary.num_changed:,} "
        f"changed), {summary.num_unchanged:,} unchanged, {summary.num_duplicates:,} duplicate, "
        f"{summary.num_deleted:,} to delete, {report.documents_quarantined:,} quarantined"
    )
    schema = documents_schema(run.bundle.identity, encoder=run.bundle.settings.model_dump_json())
    # half of what a kill may cost: the other half is on its way meanwhile (see `encoding`)
    commit = run.settings.commit
    bounds = CommitBounds(max(1, commit.max_rows // 2), commit.max_bytes, commit.max_seconds)
    num = summary.num_selected
    if rebuild := describe_rebuild(run.database, run.bundle.identity, model=report.model, num_documents=num):
        run.reporter.say(rebuild)
    committer = Committer(run.database, writer=run.writer, schema=schema, bounds=bounds)
    if summary.num_selected:
        encode_selected(run, plan, summary, committer, schema)
    if summary.num_obsolete_rows:
        committer.delete_rows(read_obsolete(plan, summary))
    report.documents_deleted = summary.num_deleted
    if report.unaccounted:
        raise PublishRefused(
            f"{report.unaccounted} of {report.documents_read} documents are unaccounted for; nothing was published"
        )
    _publish(run, summary, committer)


def _publish(run: Run, summary: PlanSummary, committer: Committer) -> None:
    compaction, say = run.settings.compaction, run.reporter.say
    dataset = compact(run.database, committer.dataset, compaction, writer=run.writer, say=say)
    build = choose_builder(dataset.count_rows())
    # no row changes from here on, and no file either, so the gate reads them while indexes are built
    is_live = run.database.live_version() == dataset.version
    rows = None if is_live else start_remotely(read_rows, dataset, sample=run.settings.publish.gate_sample)
    how = How(call_remotely, build=build, say=say, rows=rows)
    indexes = partial(add_indexes, run.database, settings=run.settings.indexes, writer=run.writer, how=how)
    dataset = indexes(dataset=dataset)
    if run.database.live_version() == dataset.version:
        run.report.version = int(dataset.version)
        return
    dataset = fence(run.writer, dataset)
    # every row is in it: from here on `t1 publish` can end what this run begins
    run.report.version = int(dataset.version)
    expected = run.report.documents_encoded + summary.num_unchanged if run.sees_all else None
    check_canary(run.database, dataset, run.settings.publish, device="cpu", say=say)
    run.report.version = finish(
        run.database, dataset, writer=run.writer, settings=run.settings.publish, expected_documents=expected,
        how=replace(how, retrain=lambda: fence(run.writer, indexes(dataset=dataset, rebuild=True))),
    )  # fmt: skip


def _scan(run: Run, resources: Resources) -> tuple[Any, PlanSummary]:
    corpus, report = run.settings.corpus, run.report
    known = start_reading(run.database, report.fingerprint, num_cpus=resources.cpus)
    scan = CorpusScan(
        run.database, run.shards, run.fields, max_text_chars=corpus.max_text_chars, limit=corpus.limit,
        keeps_offsets=known.num_rows > 0,
    )  # fmt: skip
    for rows in in_flushes(scan.read(resources.cpus)):
        report.documents_quarantined += len(rows)
        set_aside(run, rows)
    report.documents_quarantined += sum(scan.known_rejected.values())
    if scan.num_known:
        run.reporter.say(f"{scan.num_known:,} of {len(run.shards):,} shards have not changed and were not opened")
    note_unreadable(run, scan.known_rejected)
    if scan.fresh and known.num_rows and run.bundle.checkpoint.kind == "hashing":
        # what has changed is perhaps so little that two tasks encode it, sooner than the second's process would start
        run.getting_ready = get_ready(run.bundle.settings, device=run.pool.device)
    how = Comparison(run.sees_all, corpus.limit, scan.num_documents, scan.fresh)
    plan, summary = decide_remotely(scan.packs, known, how, packs_with_offsets=scan.packs_with_offsets)
    report.documents_read = summary.num_documents + report.documents_quarantined
    check_quarantine(report, allowed=corpus.max_quarantine, db=run.database.uri)
    duplicates = DuplicatesTask(tuple(run.shards), run.fields, corpus.max_text_chars, scan.fresh)
    for rows in in_flushes(read_duplicates(duplicates, plan, summary.shards_with_duplicates)):
        set_aside(run, rows)
    if scan.is_worth_storing and summary.num_documents:
        # only now: a shard that is known is not set aside from again
        scan.store(lambda: locate(corpus.uris, format=corpus.format, split_bytes=corpus.split_bytes))
    return plan, summary
