"""Judged collections in every layout, here and in an object store."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.collections import find_collections, hash_qrels, hash_queries
from pipeline.errors import CorpusError
from pipeline.prompts import TASK_NOUNS, bright_query_instruction
from pipeline.records import Query
from pipeline.storage import open_filesystem

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lay_beir(folder: Path, *, qrels: str = "qrels.tsv") -> Path:
    (folder / qrels).parent.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "first", "excluded_ids": ["d2", "N/A"]}\n')
    (folder / qrels).write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return folder


def lay_bright(folder: Path) -> Path:
    """Two tasks, one of them in two parts, one with long documents; two sets of queries."""
    for kind in ("documents", "long_documents", "examples", "gpt4_reason"):
        (folder / kind).mkdir(parents=True)
    documents = pa.table({"id": ["a/1", "a/2"], "content": ["one", "two"]})
    for name in ("biology-00000-of-00001", "pony-00000-of-00002", "pony-00001-of-00002"):
        pq.write_table(documents, folder / "documents" / f"{name}.parquet")
    pq.write_table(documents, folder / "long_documents" / "biology-00000-of-00001.parquet")
    for task in ("biology-00000-of-00001", "pony"):
        for kind in ("examples", "gpt4_reason"):
            text = "asked" if kind == "examples" else "reasoned"
            columns = {"query": [text], "reasoning": [""], "id": ["0"], "excluded_ids": [["N/A"]],
                       "gold_ids": [["a/1", "a/2"]], "gold_ids_long": [["a"]], "gold_answer": [""]}  # fmt: skip
            pq.write_table(pa.table(columns), folder / kind / f"{task}.parquet")
    return folder


@pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels/test.tsv"])
def test_a_beir_folder(tmp_path: Path, qrels: str) -> None:
    (found,) = find_collections(str(lay_beir(tmp_path / "tiny", qrels=qrels)))
    assert (found.name, found.task, found.corpus) == ("tiny", "", (str(tmp_path / "tiny" / "corpus.jsonl"),))
    assert found.queries() == [Query("q1", "first", ("d2", "q1"), "tiny")]
    assert found.qrels() == {"q1": {"d1": 1}}


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    (found,) = find_collections(str(lay_beir(tmp_path / "x\udcff")))
    assert (found.name, len(found.queries())) == ("x\N{REPLACEMENT CHARACTER}", 1)


def test_a_beir_query_does_not_find_itself(tmp_path: Path) -> None:
    """As BEIR's own evaluator has it; BRIGHT's has not, in whichever layout a task lies."""
    (found,) = find_collections(str(lay_beir(tmp_path / "quora")))
    assert "q1" in found.queries()[0].excluded_ids
    (found,) = find_collections(str(lay_beir(tmp_path / "bright_pony_reduced")))
    assert found.queries()[0].excluded_ids == ("d2",)


def test_a_folder_of_beir_folders(tmp_path: Path) -> None:
    for name in ("two", "one", "bright_theoremqa_questions_reduced"):
        lay_beir(tmp_path / name)
    found = find_collections(str(tmp_path))
    assert [item.name for item in found] == ["bright_theoremqa_questions_reduced", "one", "two"]
    assert [item.task for item in found] == ["theoremqa_questions", "", ""]
    assert found[0].queries()[0].task == "theoremqa_questions"
    assert [item.corpus[0] for item in found[1:]] == [str(tmp_path / n / "corpus.jsonl") for n in ("one", "two")]


def test_bright_as_on_the_hub(tmp_path: Path) -> None:
    folder = lay_bright(tmp_path / "BRIGHT")
    biology, pony = find_collections(str(folder))
    assert (biology.name, biology.task, len(biology.corpus), len(pony.corpus)) == ("biology", "biology", 1, 2)
    assert biology.queries() == [Query("0", "asked", (), "biology")]
    assert biology.qrels() == {"0": {"a/1": 1, "a/2": 1}}
    (only,) = find_collections(str(folder), tasks=["pony"], queries="gpt4_reason")
    assert only.queries()[0].text == "reasoned"


def test_long_documents_of_the_tasks_that_have_them(tmp_path: Path) -> None:
    (biology,) = find_collections(str(lay_bright(tmp_path / "BRIGHT")), long=True)
    assert biology.is_long
    # the short ones are other documents, so they have another table; the instruction is the task's
    assert (biology.name, biology.task) == ("biology_long", "biology")
    assert biology.queries()[0].task == "biology"
    for name in ("biology", "biology_long"):
        (again,) = find_collections(str(tmp_path / "BRIGHT"), long=True, tasks=[name])
        assert again.name == "biology_long"
    assert "/long_documents/" in biology.corpus[0]
    assert biology.qrels() == {"0": {"a": 1}}


def test_queries_without_documents(tmp_path: Path) -> None:
    (tmp_path / "earth-science.queries.jsonl").write_text('{"_id": "0", "text": "why?"}\n')
    (tmp_path / "earth-science.qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\td\t1\n")
    (found,) = find_collections(str(tmp_path), tasks=["earth-science"])
    assert (found.name, found.task, found.corpus) == ("earth_science", "earth_science", ())
    assert found.queries() == [Query("0", "why?", (), "earth_science")]
    assert found.qrels() == {"0": {"d": 1}}


def test_a_row_says_its_task_where_the_folder_does_not(tmp_path: Path) -> None:
    rows = ['{"_id": "1", "text": "a", "task": "earth-science"}', '{"_id": "2", "text": "b"}']
    for name in ("my-own", "earth-science"):
        lay_beir(tmp_path / name)
        (tmp_path / name / "queries.jsonl").write_text("\n".join(rows))
    of_folder, own = find_collections(str(tmp_path))
    assert [query.task for query in of_folder.queries()] == ["earth_science"] * 2
    assert [query.task for query in own.queries()] == ["earth_science", "my_own"]


def test_a_task_need_not_be_in_every_folder(tmp_path: Path) -> None:
    folders = [str(lay_beir(tmp_path / "scifact")), str(lay_bright(tmp_path / "BRIGHT"))]
    assert [item.name for item in find_collections(*folders, tasks=["biology"])] == ["biology"]
    assert [item.name for item in find_collections(*folders, tasks=["pony", "scifact"])] == ["pony", "scifact"]
    with pytest.raises(CorpusError, match=r"have no collection 'bilogy'; they have scifact, biology, pony"):
        find_collections(*folders, tasks=["biology", "bilogy"])
    # one that comes twice is not hidden
    assert len(find_collections(folders[0], folders[0], tasks=["scifact"])) == 2


def test_revisions_that_the_hub_client_noted(tmp_path: Path) -> None:
    cached = lay_bright(tmp_path / "datasets--x" / "snapshots" / _COMMIT)
    assert {item.revision for item in find_collections(str(cached))} == {_COMMIT}
    local = lay_bright(tmp_path / "BRIGHT")
    assert find_collections(str(local))[0].revision == ""
    notes = local / ".cache" / "huggingface" / "download" / "README.md.metadata"
    notes.parent.mkdir(parents=True)
    notes.write_text(f"{_COMMIT}\netag\n1.0\n")
    assert find_collections(str(local))[0].revision == _COMMIT


def test_hashes_are_of_the_content_alone() -> None:
    queries = [Query("1", "a", ("x", "y")), Query("2", "é")]
    turned = [Query("2", "é", (), "biology"), Query("1", "a", ("y", "x"))]
    assert hash_queries(queries) == hash_queries(turned)
    assert hash_queries(queries) == "dab43eddab9c5b530ebcfcad28c1e90ae72010f9f626e8116aa14a4921608a03"  # golden
    assert hash_queries([Query("1", "b")]) != hash_queries([Query("1", "a")])
    assert hash_qrels({"1": {"a": 1, "b": 0}}) == hash_qrels({"1": {"b": 0, "a": 1}})
    assert hash_qrels({"1": {"a": 1}}) != hash_qrels({"1": {"a": 2}})


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no judged collection"):
        find_collections(str(tmp_path / "empty"))
    with pytest.raises(CorpusError, match="is not a folder"):
        find_collections(str(tmp_path / "nowhere"))
    folder = str(lay_bright(tmp_path / "BRIGHT"))
    with pytest.raises(CorpusError, match="no collection 'biologie'; it has biology, pony"):
        find_collections(folder, tasks=["biologie"])
    with pytest.raises(CorpusError, match=r"no queries o1_reason/; it has examples, gpt4_reason"):
        find_collections(folder, queries="o1_reason")


@pytest.mark.s3
def test_in_an_object_store(tmp_path: Path, s3: str) -> None:
    fs, path = open_filesystem(s3)
    fs.put(str(lay_bright(tmp_path / "BRIGHT")), f"{path}/BRIGHT", recursive=True)
    found = find_collections(f"{s3}/BRIGHT")
    assert [item.name for item in found] == ["biology", "pony"]
    assert found[0].corpus == (f"{s3}/BRIGHT/documents/biology-00000-of-00001.parquet",)
    assert found[0].qrels() == {"0": {"a/1": 1, "a/2": 1}}
    assert found[1].queries()[0].text == "asked"


def test_instructions_of_the_reference_code() -> None:
    assert bright_query_instruction("biology") == (
        "Given a biology post, retrieve relevant passages that help answer the post"
    )
    assert bright_query_instruction("theoremqa_theorems").endswith("relevant theorems that help answer the problem")
    assert all(bright_query_instruction(task) for task in TASK_NOUNS)
    assert bright_query_instruction("scifact") == ""


def test_the_shared_queries_of_bright(shared_data: Path) -> None:
    found = find_collections(str(shared_data / "bright_queries"))
    assert sorted(item.task for item in found) == sorted(TASK_NOUNS)
    assert sum(len(item.queries()) for item in found) == 1_384
    assert all(item.qrels().keys() == {query.id for query in item.queries()} for item in found)
