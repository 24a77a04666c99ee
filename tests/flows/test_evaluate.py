"""The flow of evaluation with a stand-in for the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import __version__
from pipeline.errors import CorpusError, SettingsError
from pipeline.evaluation.measures import per_query
from pipeline.evaluation.run_files import read_run
from pipeline.flows.eval_outputs import Outputs, write_rows
from pipeline.flows.evaluate import Collection, Found, evaluate, find_collections
from pipeline.records import Query
from pipeline.store.indexes import FULL_TEXT_COLUMNS, index_name
from pipeline.store.search import Hit, full_text


class StandIn:
    """Answers "plain" with documents in one order and "reasoned" in the other; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def search(self, queries: list[Query], mode: str, top_k: int) -> list[Found]:
        self.asked.append((mode, top_k))
        names = [f"d{n}" for n in range(4)]
        ordered = names if mode == "plain" else names[::-1]
        hits = [Hit(name, 0, f"title {name}", "text", "{}", "", 1.0 - n / 10) for n, name in enumerate(ordered)]
        reasons = mode == "reasoned"
        return [Found(hits, 0.5, "thought" * reasons, 7 * reasons, reasons and q.id == "q2") for q in queries]

    def facts(self) -> Mapping[str, Any]:
        return {"num_documents": 4, "version": 3, "fingerprint": "abc"}


def collection(folder: Path, *, qrels: str = "q1\td3\t1\nq2\td1\t1\n") -> Collection:
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "d{n}", "text": "t"}}\n' for n in range(4)))
    (folder / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "first", "excluded_ids": ["d0"]}\n{"_id": "q2", "text": "second"}\n'
        '{"_id": "q3", "text": "nobody judged"}\n'
    )
    (folder / "qrels.tsv").write_text(qrels)
    return find_collections(str(folder))[0]


def test_modes_side_by_side(tmp_path: Path) -> None:
    tiny, searching, said = collection(tmp_path / "tiny"), StandIn(), []
    outputs = Outputs(runs=str(tmp_path / "runs"), say=said.append)
    found = evaluate([tiny], lambda _: searching, modes=["plain", "reasoned"], top_k=3, outputs=outputs)
    assert searching.asked == [("plain", 3), ("reasoned", 3)]
    by_key = {(result.mode, result.query_id): result for result in found.results}
    assert len(by_key) == 4
    first = by_key["plain", "q1"]
    assert [hit.id for hit in first.hits] == ["d1", "d2", "d3"]
    assert [hit.relevance for hit in first.hits] == [None, None, 1]
    assert (first.measures["nDCG@10"], first.measures["RR@10"], first.measures["R@1"]) == (0.5, pytest.approx(1 / 3), 0)
    assert by_key["reasoned", "q1"].measures["R@1"] == 1
    assert found.means["plain"]["tiny"]["RR@10"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found.mean_over_collections["plain"]["RR@10"] == found.means["plain"]["tiny"]["RR@10"]
    (comparison,) = found.comparisons
    assert (comparison.baseline, comparison.mode, comparison.num_queries) == ("plain", "reasoned", 2)
    assert found.costs["reasoned"] == {"seconds_a_query": 0.5, "reasoning_tokens_a_query": 7, "num_fell_back": 1}
    assert [sentence.partition(" over")[2] for sentence in said] == [" 2 queries"] * 2
    assert found.facts["package_version"] == __version__


def test_facts_say_what_was_evaluated(tmp_path: Path) -> None:
    facts = evaluate([collection(tmp_path / "tiny")], lambda _: StandIn(), modes=["plain"]).collections["tiny"]
    hashes = {name: facts[name][:12] for name in ("queries_hash", "qrels_hash")}
    assert {name: facts[name] for name in facts if name not in hashes} == {
        "num_queries": 2, "num_judgements": 2, "revision": "", "is_long": False, "task": "",
        "num_documents": 4, "version": 3, "fingerprint": "abc",
    }  # fmt: skip
    assert hashes == {"queries_hash": "c49bb8fb97c5", "qrels_hash": "2c50e953b157"}  # golden


def test_run_files_score_as_was_measured(tmp_path: Path) -> None:
    tiny = collection(tmp_path / "tiny")
    found = evaluate([tiny], lambda _: StandIn(), modes=["plain", "reasoned"], outputs=Outputs(runs=f"{tmp_path}/runs"))
    for mode in ("plain", "reasoned"):
        run = read_run((tmp_path / "runs" / f"tiny.{mode}.trec").read_text().splitlines())
        assert "d0" not in run["q1"]
        again = per_query(run, tiny.qrels())
        assert again == {r.query_id: r.measures for r in found.results if r.mode == mode}


def test_rows_as_parquet(tmp_path: Path) -> None:
    found = evaluate([collection(tmp_path / "tiny")], lambda _: StandIn(), modes=["reasoned"], measures=["nDCG@10"])
    write_rows(found, str(tmp_path / "out" / "rows.parquet"))
    table = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert table.column_names == ["collection", "query_id", "mode", "nDCG@10", "seconds", "reasoning_tokens",
                                  "fell_back", "trajectory"]  # fmt: skip
    assert table.column("trajectory").to_pylist() == ["thought"] * 2
    assert table.column("fell_back").to_pylist() == [False, True]


class Words:
    """Searches the words of a table of one row a document, as `t1 index` would have made it."""

    def __init__(self, uri: str) -> None:
        self._dataset = lance.dataset(uri)

    def search(self, queries: list[Query], mode: str, top_k: int) -> list[Found]:
        assert mode == "bm25"
        return [Found(full_text(self._dataset, query.text, top_k=top_k)) for query in queries]

    def facts(self) -> Mapping[str, Any]:
        return {"num_documents": self._dataset.count_rows()}


# nDCG@10 of other code on these files; ours repeat no query word, which long questions gain from
@pytest.mark.parametrize(("name", "reference"), [("scifact", 0.676), ("bright_theoremqa_questions_reduced", 0.159)])
def test_bm25_is_as_good_as_elsewhere(shared_data: Path, tmp_path: Path, name: str, reference: float) -> None:
    (real,) = find_collections(str(shared_data / name))
    with open(real.corpus[0]) as lines:
        rows = [json.loads(line) for line in lines]
    columns = {"id": "_id", "title": "title", "text": "text"}
    table = pa.table({ours: [row.get(theirs, "") for row in rows] for ours, theirs in columns.items()})
    table = table.append_column("chunk", pa.array([0] * len(rows), pa.int32()))
    for column in ("metadata", "shard"):
        table = table.append_column(column, pa.array([""] * len(rows)))
    dataset = lance.write_dataset(table, str(tmp_path / "documents.lance"))
    for column in FULL_TEXT_COLUMNS:
        dataset.create_scalar_index(column, "INVERTED", name=index_name(column))
    found = evaluate([real], lambda _: Words(dataset.uri), modes=["bm25"], measures=["nDCG@10"])
    mean = found.means["bm25"][name]["nDCG@10"]
    assert mean >= reference
    print(f"{name}: BM25 {mean:.4f}")


def test_mistakes_are_said_before_anything_is_searched(tmp_path: Path) -> None:
    tiny, searching = collection(tmp_path / "tiny"), StandIn()
    for how in ({"modes": []}, {"modes": ["plain", "plain"]}, {"modes": ["plain"], "measures": ["nDGC@10"]}):
        with pytest.raises(SettingsError):
            evaluate([tiny], lambda _: searching, **how)  # type: ignore[arg-type]
    unasked = collection(tmp_path / "unasked", qrels="q1\td3\t1\nq9\td1\t1\n")
    with pytest.raises(CorpusError, match=r"1 queries that are not there, such as 'q9'"):
        evaluate([unasked], lambda _: searching, modes=["plain"])
    unjudged = collection(tmp_path / "unjudged", qrels="q9\td3\t1\n")
    with pytest.raises(CorpusError, match="no query of unjudged is judged"):
        evaluate([unjudged], lambda _: searching, modes=["plain"])
    assert searching.asked == []
