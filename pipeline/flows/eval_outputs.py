"""What an evaluation writes: run files while it measures, rows and a report when it is done.

Every place is tried before anything is paid for. Knows nothing of searching; called by `evaluate` and `t1 eval`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StorageError, UserError
from pipeline.evaluation.report import write_report
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.run_files import run_lines
from pipeline.retry import retrying
from pipeline.storage import join, normalise, open_filesystem, redact, remove_file, replace_file

_PROBE = ".t1-write-probe"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where an evaluation writes, and who hears of it; paths or URIs, "" for none.

    Attributes:
        runs: Folder of run files, `COLLECTION.MODE.trec`, written while it runs, so that what was found stays found.
        rows: Parquet file of one row a query and mode.
        report: HTML file for people.
        say: Hears a sentence after every collection and mode.
    """

    runs: str = ""
    rows: str = ""
    report: str = ""
    say: Callable[[str], None] = lambda sentence: None


def check_outputs(outputs: Outputs) -> None:
    """Writes and removes a small file at every place.

    Raises:
        StorageError: one cannot be written, or is a folder where a file is meant.
    """
    if outputs.runs:
        _try("the run files", join(normalise(outputs.runs), _PROBE), outputs.runs)
    for what, uri in (("the rows", outputs.rows), ("the report", outputs.report)):
        if not uri:
            continue
        with _writing(what, uri):
            fs, path = open_filesystem(uri)
            if fs.isdir(path):
                raise StorageError(f"cannot write {what} to {redact(uri)}: it is a folder; name a file in it")
        _try(what, f"{normalise(uri)}{_PROBE}", uri)


def write_run(outputs: Outputs, collection: str, mode: str, rankings: Mapping[str, Mapping[str, float]]) -> None:
    """The run file of a mode on a collection, where run files are asked for.

    Args:
        outputs: Name the folder.
        collection: Its name.
        mode: Its name.
        rankings: Query id -> document id -> score.

    Raises:
        StorageError: it cannot be written.
    """
    if not outputs.runs:
        return
    text = "".join(run_lines(rankings, tag=f"t1-{mode}"))
    name = re.sub(r"[^\w.-]", "_", collection)
    _write("the run files", join(normalise(outputs.runs), f"{name}.{mode}.trec"), text.encode())


def write_rows(evaluation: Evaluation, uri: str) -> None:
    """One Parquet row a query and mode, each measure a column of its name.

    Args:
        evaluation: What was found.
        uri: Of the file, which is replaced.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [
        {"collection": r.collection, "query_id": r.query_id, "mode": r.mode, **r.measures, "seconds": r.seconds,
         "reasoning_tokens": r.reasoning_tokens, "fell_back": r.fell_back, "trajectory": r.trajectory}
        for r in evaluation.results
    ]  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    _write("the rows", uri, file.getvalue())


def write_outputs(evaluation: Evaluation, outputs: Outputs) -> None:
    """Writes what people and programs read once everything is measured: the rows and the report.

    Raises:
        StorageError: a file cannot be written.
    """
    if outputs.rows:
        write_rows(evaluation, outputs.rows)
    if outputs.report:
        with _writing("the report", outputs.report):
            retrying(lambda: write_report(evaluation, outputs.report), what=f"writing to {redact(outputs.report)}")


def _write(what: str, uri: str, data: bytes) -> None:
    with _writing(what, uri):
        retrying(lambda: replace_file(uri, data), what=f"writing {what} to {redact(uri)}")


def _try(what: str, probe: str, uri: str) -> None:
    with _writing(what, uri):
        retrying(lambda: replace_file(probe, b"t1"), what=f"writing {what} to {redact(uri)}")
        retrying(lambda: remove_file(probe), what=f"writing {what} to {redact(uri)}")


@contextmanager
def _writing(what: str, uri: str) -> Iterator[None]:
    """Whatever a file system raises becomes one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = redact(str(error)) or type(error).__name__
        raise StorageError(
            f"cannot write {what} to {redact(uri)}: {reason}; name another place, or check its bucket and credentials"
        ) from error
