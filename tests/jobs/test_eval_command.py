"""`t1 eval`: the means on stdout, people's sentences on stderr, and the files that it was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.display import print_evaluation
from tests.evaluation.example import make_evaluation
from tests.flows.corpora import write_jsonl
from tests.flows.judged import SOURCE, Judged, make_judged

MODES = ("bm25", "plain", "reasoned")
THERE = ("--no-index", "--no-generate", "--engine", "imported", "--reasoner", SOURCE)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return make_judged(tmp_path_factory.mktemp("judged"))


def folder_of(judged: Judged) -> Path:
    return Path(judged.db).parent / "made-up"


def test_means_on_stdout_and_files_beside(t1: Any, judged: Judged, tmp_path: Path) -> None:
    asked = [part for mode in MODES for part in ("--mode", mode)]
    out = tmp_path / "out"
    done = t1("eval", folder_of(judged), "--db", judged.db, *THERE, *asked, "--report", out / "report.html",
              "--rows", out / "rows.parquet", "--runs", out / "runs")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["measures"][0], set(found["means"]), set(found["costs"])) == ("nDCG@10", set(MODES), set(MODES))
    assert found["costs"]["reasoned"]["num_fell_back"] == 3
    for mode in MODES:
        assert found["mean_over_collections"][mode] == found["means"][mode]["made-up"]
    assert "reasoned against bm25" in done.stderr
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert len(rows) == 23 * len(MODES)
    for mode in MODES:
        values = [row["nDCG@10"] for row in rows if row["mode"] == mode]
        assert found["means"][mode]["made-up"]["nDCG@10"] == pytest.approx(sum(values) / len(values))
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(f"made-up.{mode}.trec" for mode in MODES)
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_quiet_says_nothing(t1: Any, judged: Judged) -> None:
    done = t1("eval", folder_of(judged), "--db", judged.db, *THERE, "--quiet")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert set(json.loads(done.stdout)["means"]) == {"bm25", "plain"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{folder}", "--mode", "bm42"], ["no mode 'bm42'", "reasoned-hybrid"]),
        (["{folder}", "--mode", "plain", "--mode", "plain"], ["once"]),
        (["{folder}", "--task", "alchemy"], ["no collection 'alchemy'", "made-up"]),
        (["{folder}", "--engine", "oracle"], ["--engine", "oracle"]),
        (["{empty}"], ["no judged collection"]),
        (["{empty}/absent"], ["is not a folder"]),
        (["{folder}", "{folder}"], ["made-up came more than once"]),
        (["{only}"], ["biology", "no documents to search"]),
        ([], ["FOLDERS"]),
        (["{folder}", "--no-index", "--db", "{empty}"], ["no table at"]),
        (["{folder}", "--mode", "reasoned", "--no-index"], ["hashing://64 cannot reason", "--reasoner"]),
        (["{folder}", "--mode", "reasoned", "--model", "minilm", "--db", "{empty}"], ["minilm cannot reason"]),
        (["{folder}", "--mode", "reasoned", "--engine", "openai", "--db", "{empty}"], ["--endpoint URL"]),
        (["{folder}", "{only}", "--task", "bilogy"], ["no collection 'bilogy'", "they have made-up, biology"]),
        (["{folder}", "--runs", "{file}/runs"], ["cannot write the run files", "name another place"]),
        (["{folder}", "--rows", "{file}/rows"], ["cannot write the rows"]),
        (["{folder}", "--report", "{empty}"], ["cannot write the report", "is a folder"]),
        (["{folder}", "--report", "s5://bucket/x.html"], ["s5://bucket/x.html"]),
        (["{folder}", "--temperature", "nan"], ["temperature"]),
        (["{folder}", "--temperature", "inf"], ["temperature"]),
        (["{folder}\udcff"], ["is not a folder"]),
        (["{folder}", "--task", "\udcff"], ["no collection"]),
        (["{folder}", "--mode", "\udcff"], ["no mode"]),
        (["{folder}", "--no-index", "--db", "{empty}/\udcff"], ["cannot open", "utf-8"]),
    ],
)
def test_a_mistake_is_one_sentence(
    t1: Any, judged: Judged, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "only" / "biology.queries.jsonl", [{"_id": "1", "text": "why?"}])
    write_jsonl(tmp_path / "only" / "biology.qrels.tsv", ["query-id\tcorpus-id\tscore", "1\td1\t1"])
    file = write_jsonl(tmp_path / "file", [])
    places = {"folder": folder_of(judged), "empty": tmp_path / "empty", "only": tmp_path / "only", "file": file}
    done = t1("eval", "--db", judged.db, *(argument.format_map(places) for argument in arguments))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert not list((tmp_path / "empty").iterdir()), "something was made before everything was checked"


def test_the_table_names_the_two_ways_to_join_collections() -> None:
    said: list[str] = []
    evaluation = make_evaluation(queries_each=3)
    print_evaluation(evaluation, say=said.append)
    (line,) = [line for line in said if line.startswith("mean over collections")]
    values = [evaluation.mean_over_collections[mode]["nDCG@10"] for mode in evaluation.modes]
    assert line.split()[3:] == [f"{value:.4f}" for value in values]
    assert any(line.startswith("queries of all collections together: plain against bm25") for line in said)
