"""Fragments of the documents table written anew as fewer, by Lance's own compaction.

What was tried with pylance 14.0, and this relies on: the planner takes exactly the neighbours that are not excluded,
but never joins fragments that different segments of an index cover. Row ids are stable, so vector and full-text
indexes stay as they are; BTREE holds addresses, and the commit writes it anew, which is why `LanceOperation.Rewrite`
through `transactions.Writer` will not do. The commit is of the version that was planned, whatever handle it is given:
Lance refuses it once a `Restore` (the fence) is in the history, or a deletion in the same fragments; and a second time,
as the fragments are gone. Where it cannot even reserve numbers it deletes what was written, and would commit it all the
same when asked again; where the outcome is unknown it deletes nothing. So it is asked once: were it asked again, and
deleted the files, what the first request wrote could still become a version, one without files.

`compaction` says what to rewrite; called by the flow of that name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import lance
from lance.file import LanceFileReader
from lance.optimize import Compaction, CompactionOptions, RewriteResult

from pipeline.errors import TableError
from pipeline.retry import Patience, retrying
from pipeline.storage import lance_options, redact
from pipeline.store.compaction import CompactionBounds, FragmentSize

# What is read ahead and in one piece; Lance's own bounds are 2 GiB and 8,192 rows, whatever a row takes.
_READ_AHEAD_BYTES = 64 * 2**20
_BATCH_BYTES = 8 * 2**20
_MAX_BATCH_ROWS = 8_192

# What Lance says when somebody else has changed what a commit is about, or has dropped the version it was made from.
_REFUSED = ("Incompatible transaction", "preempted by concurrent transaction", "manifest was not found")


def measure_fragments(dataset: lance.LanceDataset) -> list[FragmentSize]:
    """The sizes of a version's fragments, in its order; reads the manifest.

    Raises:
        StorageError: the store failed for long.
    """
    segments: dict[int, set[str]] = defaultdict(set)
    for index in retrying(dataset.describe_indices, what=f"reading the indexes of {redact(dataset.uri)}"):
        for segment in index.segments:
            for number in segment.fragment_ids:
                segments[number].add(str(segment.uuid))
    return [
        FragmentSize(
            found.id, found.physical_rows, found.num_deletions,
            sum(file.file_size_bytes or 0 for file in found.files), frozenset(segments[found.id]),
        )
        for found in (fragment.metadata for fragment in dataset.get_fragments())
    ]  # fmt: skip


def rewrite_run(dataset: lance.LanceDataset, numbers: Sequence[int], *, bounds: CompactionBounds) -> list[str]:
    """Writes neighbours as one fragment, without their deleted rows; commits nothing.

    Args:
        dataset: The version they are of.
        numbers: Of the fragments.
        bounds: Of the fragment that they become.

    Returns:
        What `commit_rewrites` takes.

    Raises:
        TableError: what was written does not have as many rows as what was read.
    """
    return retrying(
        lambda: _rewrite_run(dataset, numbers, bounds), what=f"compacting fragments of {redact(dataset.uri)}"
    )


def _rewrite_run(dataset: lance.LanceDataset, numbers: Sequence[int], bounds: CompactionBounds) -> list[str]:
    wanted = frozenset(numbers)
    every = [fragment.metadata for fragment in dataset.get_fragments()]
    run = [fragment for fragment in every if fragment.id in wanted]
    num_rows = sum(fragment.physical_rows for fragment in run)
    row_bytes = sum(file.file_size_bytes or 0 for fragment in run for file in fragment.files) // max(1, num_rows)
    options = CompactionOptions(
        # more than they have: all are too small, and no part of them is enough
        target_rows_per_fragment=num_rows + 1, max_bytes_per_file=bounds.max_bytes,
        materialize_deletions=True, materialize_deletions_threshold=0.0,
        excluded_fragment_ids=[fragment.id for fragment in every if fragment.id not in wanted],
        batch_size=min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, row_bytes))), io_buffer_size=_READ_AHEAD_BYTES,
        num_threads=1, compaction_mode="reencode",
    )  # fmt: skip
    done = [task.execute(dataset) for task in Compaction.plan(dataset, options).tasks]
    for rewrite in done:
        _check_whole(rewrite, wanted)
    return [rewrite.json() for rewrite in done]


def _check_whole(rewrite: Any, wanted: frozenset[int]) -> None:
    """Nothing but what was asked for, and every row of it."""
    read = [fragment for fragment in rewrite.original_fragments if fragment.id in wanted]
    num_read = sum(fragment.physical_rows - fragment.num_deletions for fragment in read)
    num_written = sum(fragment.physical_rows for fragment in rewrite.new_fragments)
    if len(read) != len(rewrite.original_fragments) or num_read != num_written:
        raise TableError(
            f"compaction read {num_read} rows of {len(read)} fragments and wrote {num_written}; nothing of it was "
            "committed; set compaction.enabled to false and report this"
        )


def commit_rewrites(
    uri: str, rewrites: Sequence[str], *, before: Callable[[], None], patience: Patience | None = None
) -> lance.LanceDataset | None:
    """Makes the version that has rewritten fragments in the place of those that were read, and returns it.

    None where that cannot be, and is to be planned anew: what was written is gone, the store failed and the version is
    not there, or the table has changed in a way that Lance will not have. Safe to do twice: what has landed is seen by
    its files.

    Args:
        uri: Of the table.
        rewrites: From `rewrite_run`, of one version.
        before: Called right before each attempt, and when the table was changed; what it raises, such as `LeaseLost`
            where another run did that, stops here.
        patience: How long the store may fail.
    """
    files = _written(rewrites)
    is_asked = False

    def attempt() -> lance.LanceDataset | None:
        nonlocal is_asked
        before()
        current = lance.dataset(uri, storage_options=lance_options(uri))
        if files <= _held(current):
            return current  # by an attempt whose answer was lost
        if is_asked or not all(_is_there(uri, file) for file in files):
            return None
        is_asked = True
        try:
            Compaction.commit(current, [RewriteResult.from_json(text) for text in rewrites])
        except OSError as error:
            if not any(clause in str(error) for clause in _REFUSED):
                raise
            before()
            current.checkout_latest()
            # by an earlier call of this, or not at all
            return current if files <= _held(current) else None
        return lance.dataset(uri, storage_options=lance_options(uri))

    return retrying(attempt, what=f"committing compacted fragments to {redact(uri)}", patience=patience)


def _written(rewrites: Sequence[str]) -> frozenset[str]:
    fragments = (fragment for text in rewrites for fragment in json.loads(text)["new_fragments"])
    return frozenset(file["path"] for fragment in fragments for file in fragment["files"])


def _held(dataset: lance.LanceDataset) -> frozenset[str]:
    return frozenset(file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files)


def _is_there(uri: str, file: str) -> bool:
    """Whether a data file can still be read: a version would be made of one that cannot all the same."""
    try:
        LanceFileReader(f"{uri}/data/{file}", storage_options=lance_options(uri))
    except (OSError, ValueError) as error:
        if "Not found" in str(error) or "not found" in str(error):
            return False
        raise
    return True
