"""Evaluation over real tables of hashed words: what is made, kept, recorded and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import __version__
from pipeline.corpus.collections import find_collections, hash_qrels, hash_queries
from pipeline.errors import CorpusError, SettingsError, TableError
from pipeline.evaluation.results import Evaluation
from pipeline.fingerprint import imported_reasoner
from pipeline.flows import eval_modes
from pipeline.flows.eval_modes import MODES, EvalSettings, evaluate_collections
from pipeline.flows.eval_outputs import Outputs
from pipeline.flows.eval_record import query_instruction, record_settings
from pipeline.flows.reasoned_search import How, ReasonedSearcher
from pipeline.flows.search import Searcher
from pipeline.flows.trajectory_cache import import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from pipeline.query_settings import QuerySettings, ReasonSettings
from pipeline.settings import DEFAULT_QUERY_INSTRUCTION, ModelSettings
from pipeline.store.database import LIVE, Database
from pipeline.store.known import hash_documents, read_known
from tests.flows.corpora import MODEL, publish_table, settings_for, write_jsonl
from tests.flows.judged import SOURCE, VOCABULARY, Judged, make_judged, settings_of, write_beir


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return make_judged(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="module")
def measured(judged: Judged) -> Evaluation:
    settings = settings_of(judged.db, indexes=False, generates=False)
    return evaluate_collections([judged.collection], settings, modes=list(MODES), outputs=Outputs())


def test_what_reasoned_is_recorded_and_what_fell_back_is_counted(measured: Evaluation) -> None:
    evaluation = measured
    rows = {(row.mode, row.query_id): row for row in evaluation.results}
    for mode in ("reasoned", "reasoned-hybrid"):
        assert [row.query_id for row in evaluation.results if row.mode == mode and row.fell_back] == [
            "q21", "q22", "q23",
        ]  # fmt: skip
        assert evaluation.costs[mode]["num_fell_back"] == 3
        tokens = [row.reasoning_tokens for row in evaluation.results if row.mode == mode]
        assert sorted(tokens)[:4] == [0, 0, 0, min(found for found in tokens if found)]
        assert evaluation.costs[mode]["reasoning_tokens_a_query"] == pytest.approx(sum(tokens) / 23)
        assert rows[mode, "q1"].trajectory
        assert (
            rows[mode, "q23"].measures
            == rows[mode.replace("reasoned-", "").replace("reasoned", "plain"), "q23"].measures
        )
    assert not any(row.fell_back or row.trajectory for row in evaluation.results if "reasoned" not in row.mode)
    assert all(len(row.hits) == 10 for row in evaluation.results if row.mode == "plain")
    assert [found.mode for found in evaluation.comparisons] == list(MODES)[1:]


def test_facts_say_what_was_evaluated(judged: Judged, measured: Evaluation) -> None:
    facts = measured.collections["made-up"]
    table = Database.at(f"{judged.db}/made-up").open("documents", version=LIVE)
    qrels = judged.collection.qrels()
    asked = [query for query in judged.collection.queries() if query.id in qrels]
    assert (facts["num_documents"], facts["num_chunks"], facts["num_queries"]) == (140, 234, 23)
    assert facts["table_version"] == table.version
    assert (facts["queries_hash"], facts["qrels_hash"]) == (hash_queries(asked), hash_qrels(qrels))
    assert facts["encoder"] == MODEL
    assert facts["encoder_fingerprint"] == Searcher.open(f"{judged.db}/made-up").bundle.identity.fingerprint
    assert measured.facts["package_version"] == __version__
    assert measured.facts["query_settings"]["reason"]["model"] == SOURCE
    assert measured.facts["top_k"] == 1000


def test_what_a_search_wrote_is_what_an_evaluation_finds(judged: Judged) -> None:
    query = QuerySettings(db=judged.db, reason=ReasonSettings(engine="echo"))
    searcher = ReasonedSearcher(Searcher.open(f"{judged.db}/made-up"), query, device="cpu")
    asked = [query for query in judged.collection.queries() if query.id in ("q1", "q2")]
    written = searcher.answer(asked, how=How("always"))
    settings = EvalSettings(settings_for("", judged.db), query, indexes=False, generates=False)
    found = evaluate_collections([judged.collection], settings, modes=["reasoned"], outputs=Outputs())
    reasoned = {row.query_id: row.trajectory for row in found.results if not row.fell_back}
    assert reasoned == {answer.query.id: answer.trajectory for answer in written}
    assert all(answer.query.text in answer.trajectory for answer in written)


def test_mistakes_are_one_sentence(judged: Judged, tmp_path: Path) -> None:
    settings, outputs = settings_of(tmp_path / "empty", indexes=False, generates=False), Outputs()
    with pytest.raises(TableError, match=r"no table at .*made-up"):
        evaluate_collections([judged.collection], settings, modes=["plain"], outputs=outputs)
    with pytest.raises(SettingsError, match="there is no mode 'bm42'; choose from bm25, plain"):
        evaluate_collections([judged.collection], settings, modes=["plain", "bm42"], outputs=outputs)
    with pytest.raises(CorpusError, match="made-up came more than once"):
        evaluate_collections([judged.collection] * 2, settings, modes=["plain"], outputs=outputs)
    write_jsonl(tmp_path / "only" / "biology.queries.jsonl", [{"_id": "1", "text": "why?"}])
    write_jsonl(tmp_path / "only" / "biology.qrels.tsv", ["query-id\tcorpus-id\tscore", "1\td1\t1"])
    with pytest.raises(CorpusError, match="biology have queries and judgements but no documents to search"):
        evaluate_collections(find_collections(str(tmp_path / "only")), settings, modes=["plain"], outputs=outputs)
    assert not (tmp_path / "empty").exists()


def test_a_database_that_is_named_itself_is_searched_as_it_is(judged: Judged, tmp_path: Path) -> None:
    db, said = tmp_path / "db", []
    rows = [{"_id": "d10", "text": VOCABULARY[0]}, {"_id": "of-somebody-else", "text": VOCABULARY[1]}]
    version = publish_table(db, rows)
    outputs = Outputs(say=said.append)
    found = evaluate_collections([judged.collection], settings_of(db), modes=["plain"], outputs=outputs)
    facts = found.collections["made-up"]
    assert (facts["num_documents"], facts["num_gold"], facts["num_gold_missing"]) == (2, 70, 69)
    assert said[0] == "made-up: the table lacks 69 of 70 relevant documents, which no mode can find"
    assert Database.at(str(db)).open("documents").version == version


def test_a_table_of_something_else_is_refused(judged: Judged, tmp_path: Path) -> None:
    publish_table(tmp_path / "db", [{"_id": "of-somebody-else", "text": VOCABULARY[1]}])
    with pytest.raises(CorpusError, match="has none of the 70 relevant documents of made-up, such as 'd10'"):
        evaluate_collections([judged.collection], settings_of(tmp_path / "db"), modes=["plain"], outputs=Outputs())


@pytest.mark.parametrize(
    ("reason", "encoder", "part"),
    [
        (ReasonSettings(engine="openai"), MODEL, "--endpoint"),
        (ReasonSettings(), MODEL, "hashing://64 cannot reason"),
        (ReasonSettings(), "minilm", "minilm cannot reason"),
    ],
)
def test_a_reasoner_that_cannot_be_is_said_before_anything_is_encoded(
    judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: ReasonSettings, encoder: str, part: str
) -> None:
    monkeypatch.setattr(eval_modes, "_index", unwanted)
    settings = settings_of(tmp_path / "db")
    index = settings.index.model_copy(update={"encoder": ModelSettings(model=encoder)})
    settings = replace(settings, index=index, query=settings.query.model_copy(update={"reason": reason}))
    with pytest.raises(SettingsError, match=part):
        evaluate_collections([judged.collection], settings, modes=["bm25", "reasoned"], outputs=Outputs())
    assert not (tmp_path / "db").exists()


def unwanted(*_: Any, **__: Any) -> None:
    raise AssertionError("something was indexed before everything was checked")


def test_a_table_that_is_not_there_is_said_before_another_is_searched(judged: Judged, tmp_path: Path) -> None:
    absent, said = write_beir(tmp_path / "absent", [{"_id": "d", "text": "t"}], [{"_id": "q", "text": "t"}],
                              {"q": {"d": 1}}), []  # fmt: skip
    settings = settings_of(judged.db, indexes=False, generates=False)
    with pytest.raises(TableError, match=r"no table at .*absent"):
        evaluate_collections([judged.collection, absent], settings, modes=["plain"], outputs=Outputs(say=said.append))
    assert said == []


def test_what_is_recorded_of_the_reasoner_needs_nothing_generated(judged: Judged, measured: Evaluation) -> None:
    facts = measured.collections["made-up"]
    assert facts["reasoner"] == SOURCE
    assert facts["reasoner_fingerprints"] == [imported_reasoner(SOURCE).fingerprint]
    dataset = Database.at(f"{judged.db}/made-up").open("documents", version=LIVE)
    assert facts["documents_hash"] == hash_documents(read_known(dataset))
    assert facts["query_instruction"] == ""  # hashed words are told nothing
    assert facts["num_gold_missing"] == 0


def test_no_credential_is_recorded() -> None:
    reason = ReasonSettings(engine="openai", endpoint="http://me:hidden@host/v1", tasks={"pony": "token=hidden"})
    index = settings_for("", "s3://key:hidden@bucket/db?secret=hidden")
    for settings in (index, QuerySettings(db="s3://key:hidden@bucket/db", reason=reason)):
        recorded = str(record_settings(settings))
        assert "***" in recorded
        assert "hidden" not in recorded


def test_bright_instructs_its_queries_unless_somebody_else_does(tmp_path: Path) -> None:
    rows, queries = [{"_id": "d", "text": "t"}], [{"_id": "q", "text": "t"}]
    bright = write_beir(tmp_path / "bright_pony_reduced", rows, queries, {"q": {"d": 1}})
    other = write_beir(tmp_path / "other", rows, queries, {"q": {"d": 1}})
    usual, own = ModelSettings(), ModelSettings(query_instruction="Find it.")
    assert query_instruction(bright, usual, usual) == (
        "Given a pony question, retrieve relevant passages that help answer the question"
    )
    assert query_instruction(other, usual, usual) == DEFAULT_QUERY_INSTRUCTION
    for collection in (bright, other):
        assert query_instruction(collection, usual, own) == "Find it."
        assert query_instruction(collection, own, ModelSettings(query_instruction="Older.")) == "Find it."


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_tables_and_vectors_are_made_once(tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(VOCABULARY)]
    queries = [{"_id": "q1", "text": "ban kor"}, {"_id": "q2", "text": "tep"}]
    collection = write_beir(tmp_path / "small", rows, queries, {"q1": {"d0": 1}, "q2": {"d24": 1}})
    said: list[str] = []
    thoughts = write_jsonl(tmp_path / "thoughts.jsonl", [{"text": "ban kor", "trajectory": "list mulm"}])
    import_trajectories(str(tmp_path / "db"), [str(thoughts)], fields=ImportFields(source=SOURCE), tokenizer=MODEL)
    settings, outputs = settings_of(tmp_path / "db"), Outputs(say=said.append)
    first = evaluate_collections([collection], settings, modes=["plain", "reasoned"], outputs=outputs)
    assert said[0] == f"small: {len(rows)} documents encoded, 0 unchanged"
    assert first.means["plain"]["small"]["R@1"] == 1.0
    reasoning = first.collections["small"]["reasoning"]
    assert (reasoning["num_cached"], reasoning["num_encoded"], reasoning["num_fallback"]) == (1, 1, 1)
    assert reasoning["reasoners"] == [imported_reasoner(SOURCE).fingerprint]
    said.clear()
    again = evaluate_collections([collection], settings, modes=["plain", "reasoned"], outputs=outputs)
    assert said[0] == f"small: 0 documents encoded, {len(rows)} unchanged"
    assert again.collections["small"]["reasoning"]["num_encoded"] == 0
    assert [row.measures for row in again.results] == [row.measures for row in first.results]
