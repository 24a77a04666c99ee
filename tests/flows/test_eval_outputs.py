"""Where an evaluation writes: tried before anything is paid for, here and in an object store."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError
from pipeline.flows.eval_outputs import Outputs, check_outputs, write_outputs, write_run
from pipeline.flows.evaluate import evaluate
from pipeline.storage import open_filesystem, replace_file
from tests.evaluation.example import make_evaluation
from tests.flows.test_evaluate import StandIn, collection


def test_every_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    outputs = Outputs(f"{tmp_path}/runs/deep", f"{tmp_path}/out/rows.parquet", f"{tmp_path}/report.html")
    check_outputs(outputs)
    assert (tmp_path / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["report.html"]


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name in ("runs", "rows", "report") for place in ("file/below", "nonsense://x/y")]
    + [("rows", "folder"), ("report", "folder"), ("runs", "file")],
)
def test_a_place_that_cannot_be_written_is_said_before_a_table_is_opened(tmp_path: Path, name: str, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    def unwanted(_: Any) -> StandIn:
        raise AssertionError("a table was opened")

    uri = place if "://" in place else f"{tmp_path}/{place}"
    with pytest.raises(StorageError, match=r"cannot (write the (run files|rows|report) to|open) .*(name|use)"):
        evaluate([collection(tmp_path / "tiny")], unwanted, modes=["plain"], outputs=Outputs(**{name: uri}))


def test_everything_goes_through_fsspec() -> None:
    evaluation, root = make_evaluation(queries_each=2), "memory://evaluations"
    outputs = Outputs(f"{root}/runs", f"{root}/rows.parquet", f"{root}/deep/report.html")
    check_outputs(outputs)
    write_run(outputs, "a/b c", "plain", {"q": {"d e": 1.0}})
    write_outputs(evaluation, outputs)
    fs, path = open_filesystem(root)
    assert sorted(name[len(path) :] for name in fs.find(path)) == [
        "/deep/report.html", "/rows.parquet", "/runs/a_b_c.plain.trec",
    ]  # fmt: skip
    assert fs.cat_file(f"{path}/deep/report.html").startswith(b"<!DOCTYPE html>")
    assert fs.cat_file(f"{path}/runs/a_b_c.plain.trec") == b"q Q0 d%20e 1 1.0 t1-plain\n"
    rows = pq.read_table(io.BytesIO(fs.cat_file(f"{path}/rows.parquet")))
    assert rows.num_rows == len(evaluation.results)
    fs.rm(path, recursive=True)


@pytest.mark.s3
def test_places_in_a_bucket_are_tried_too(s3: str) -> None:
    outputs = Outputs(f"{s3}/runs", report=f"{s3}/report.html")
    check_outputs(outputs)
    write_outputs(make_evaluation(queries_each=2), outputs)
    fs, path = open_filesystem(s3)
    assert fs.find(path) == [f"{path}/report.html"]


def test_several_evaluations_try_the_same_places_at_once(tmp_path: Path) -> None:
    outputs = Outputs(runs=str(tmp_path / "runs"), rows=str(tmp_path / "rows.parquet"))
    with ThreadPoolExecutor(4) as runs:
        for run in [runs.submit(check_outputs, outputs) for _ in range(200)]:
            run.result()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_several_write_the_same_file_at_once(tmp_path: Path) -> None:
    """The file is always one of theirs, whole."""
    uri, written = str(tmp_path / "file"), [bytes([letter]) * 100_000 for letter in b"abcd"]
    with ThreadPoolExecutor(4) as runs:
        for run in [runs.submit(replace_file, uri, written[number % 4]) for number in range(400)]:
            run.result()
            assert (tmp_path / "file").read_bytes() in written
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
