"""Every mistake in what was asked for: exit code 2 and one sentence, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.settings import ModelSettings
from tests.flows.corpora import document, write_jsonl


def _one_sentence(done: Any, *parts: str) -> None:
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("t1: ")
    assert done.stdout == ""
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", [document("a"), document("b")])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published database of a model that is no model, made without Ray."""
    import pyarrow as pa

    from pipeline.model.bundle import open_bundle
    from pipeline.records import content_hash
    from pipeline.store import live
    from pipeline.store.commit import CommitBounds, Committer
    from pipeline.store.database import Database
    from pipeline.store.fragments import write_rows
    from pipeline.store.schema import documents_schema
    from pipeline.store.transactions import Writer

    bundle = open_bundle(ModelSettings(model="hashing://8"), device="cpu")
    schema = documents_schema(bundle.identity, encoder=bundle.settings.model_dump_json())
    folder = tmp_path_factory.mktemp("database") / "db"
    table = Database.at(str(folder))
    writer = Committer(
        table, writer=Writer(table.documents_uri, run_id="r"), schema=schema, bounds=CommitBounds(1, 1, 1)
    )
    vectors = np.eye(8, dtype=np.float32)[:2]
    rows = pa.table(
        {
            "id": ["a", "b"], "chunk": pa.array([0, 0], pa.int32()), "title": ["", ""], "text": ["one", "two"],
            "metadata": ['{"year": 1}', "{}"], "shard": ["s", "s"],
            "content_hash": pa.array([content_hash("", "one", "{}")] * 2, pa.binary(16)),
            "num_tokens": pa.array([1, 1], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8), "run_id": ["r", "r"],
        }
    )  # fmt: skip
    writer.add(write_rows(rows, table.documents_uri, schema=schema))
    live.publish(writer.dataset)
    return folder


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["index", "--limit", "many"], "--limit"),
        (["index", "--limit", "0"], "limit"),
        (["index", "--chunk-tokens", "64", "--overlap-tokens", "40"], "overlap_tokens"),
        (["index", "--format", "word"], "--format"),
        (["index", "--nonsense"], "--nonsense"),
        (["index", "--max-quarantine", "2"], "max_quarantine"),
        (["nonsense"], "nonsense"),
        (["search", "a question"], "--db"),
        (["search", "--db", "db", "-k", "0", "a question"], "top-k"),
        (["search", "--db", "db"], "no query was given"),
        (["search", "--db", "db", "   "], "no query was given"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_options(t1: Any, tmp_path: Path, arguments: list[str], part: str) -> None:
    where = ["--corpus", str(tmp_path), "--db", str(tmp_path / "db")] if arguments[0] == "index" else []
    _one_sentence(t1(*arguments, *where), part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["no query was given", "--file"]),
        (["   "], ["no query was given"]),
        (["--file", "-"], ["stdin"]),
        (["--engine", "openai", "--reasoner", "m", "why?"], ["--endpoint"]),
        (["--engine", "openai", "--endpoint", "http://host:8000/v1", "why?"], ["--reasoner"]),
        (["--engine", "openai", "--endpoint", "nonsense", "--reasoner", "m", "why?"], ["--endpoint", "http://"]),
        (["--reasoner", "minilm", "why?"], ["minilm cannot reason", "--reasoner"]),
        (
            ["--engine", "openai", "--endpoint", "http://host:1/v1", "--reasoner", "m", "--model", "minilm", "why?"],
            ["tokenizer", "minilm"],
        ),
        (["--engine", "imported", "why?"], ["--reasoner SOURCE"]),
        (["--engine", "imported", "--reasoner", "s", "--samples", "2", "why?"], ["one trajectory a query"]),
        (["--engine", "echo", "why?"], ["--engine", "transformers"]),
        (["--temperature", "9", "why?"], ["reason.sampling.temperature", "9"]),
        (["--samples", "8", "why?"], ["num_samples is 8 at temperature 0", "--temperature"]),
        (["--stop", "", "why?"], ["reason.sampling.stop"]),
        (["--task", "bilogy", "why?"], ["no task 'bilogy'", "biology"]),
        (["--max-tokens", "100000", "why?"], ["--max-tokens", "positions"]),
        (["--file", "absent.jsonl"], ["absent.jsonl"]),
    ],
)
def test_reason(t1: Any, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    _one_sentence(t1("reason", "--db", tmp_path / "db", *arguments), *parts)
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ('[reason]\ncolour = "red"\n', "reason.colour"),
        ("[reason.sampling]\nbeams = 4\n", "reason.sampling.beams"),
        ('[reason]\nengine = "oracle"\n', "reason.engine"),
        ("[reasons]\nnum_samples = 2\n", "reasons"),
    ],
)
def test_settings_of_reason(t1: Any, tmp_path: Path, toml: str, part: str) -> None:
    (tmp_path / "t1.toml").write_text(toml)
    _one_sentence(t1("reason", "--db", tmp_path / "db", "--settings", tmp_path / "t1.toml", "why?"), part)


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("db = [broken", "not valid TOML"),
        ('db = "db"\n[corpus]\ncolour = "red"\n', "corpus.colour"),
        ('db = "db"\n[encoder]\nchunk_tokens = 1\n', "encoder.chunk_tokens"),
        ('db = "db"\ncorpus = 3\n', "corpus"),
        (None, "cannot read the settings file"),
    ],
)
def test_settings_files(t1: Any, tmp_path: Path, toml: str | None, part: str) -> None:
    if toml is not None:
        (tmp_path / "t1.toml").write_text(toml)
    _one_sentence(t1("index", "--settings", tmp_path / "t1.toml", "--limit", "3"), part)


def test_no_corpus_and_no_database_named(t1: Any, tmp_path: Path) -> None:
    _one_sentence(t1("index", "--corpus", tmp_path), "db")
    _one_sentence(t1("index", "--db", tmp_path / "db"), "no corpus was named")


def test_a_corpus_that_is_not_there(t1: Any, tmp_path: Path) -> None:
    _one_sentence(t1("index", "--corpus", tmp_path / "absent", "--db", tmp_path / "db"), "absent")


def test_a_corpus_without_a_text(t1: Any, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"id": 1, "number": 2}, {"id": 2, "number": 3}])
    _one_sentence(t1("index", "--corpus", corpus, "--db", tmp_path / "db"), "text")


def test_a_database_that_is_not_there(t1: Any, tmp_path: Path) -> None:
    _one_sentence(t1("search", "--db", tmp_path / "db", "a question"), "no table at", "t1 index")
    _one_sentence(t1("status", "--db", tmp_path / "db"), "no database at")


def test_a_filter_over_a_column_that_is_not_there(t1: Any, database: Path) -> None:
    _one_sentence(t1("search", "--db", database, "--where", "colour = 'red'", "one"), "colour", "metadata.NAME")


def test_a_version_that_is_not_there(t1: Any, database: Path) -> None:
    _one_sentence(t1("search", "--db", database, "--version", "99", "one"), "no version 99")
    _one_sentence(t1("search", "--db", database, "--version", "nightly", "one"), "nightly")


@pytest.mark.parametrize("number", ["-1", "0", str(10**22)])
@pytest.mark.parametrize("command", ["verify --version", "publish --version", "rollback --to"])
def test_a_number_that_no_version_has(t1: Any, database: Path, command: str, number: str) -> None:
    name, option = command.split()
    _one_sentence(t1(name, "--db", database, option, number), f"{number} is no version", option)


def test_the_highest_number_is_a_version_that_is_not_there(t1: Any, database: Path) -> None:
    _one_sentence(t1("verify", "--db", database, "--version", str(2**63 - 1)), f"no version {2**63 - 1}")


def test_another_model_than_the_tables(t1: Any, database: Path) -> None:
    _one_sentence(t1("search", "--db", database, "--model", "hashing://16", "one"), "fingerprint")


@pytest.mark.parametrize("files", [None, ["config.json", "pytorch_model.bin"]])
def test_a_model_that_cannot_be_used(t1: Any, tmp_path: Path, corpus: Path, files: list[str] | None) -> None:
    model = tmp_path / "model"
    if files is not None:
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    done = t1("index", "--quiet", "--corpus", corpus, "--db", tmp_path / "db", "--model", model, "--device", "cpu")
    _one_sentence(done, "safetensors" if files else str(model))


def test_queries_from_stdin_one_json_line_each(t1: Any, database: Path) -> None:
    done = t1("search", "--db", database, "--file", "-", "-k", "1", "--where", "metadata.year = 1",
              stdin='what is one?\n\n{"id": "q7", "text": "and two?"}\n')  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0]["query"] == "what is one?"
    assert len(answers) == 2
    for answer in answers:
        assert [hit["id"] for hit in answer["hits"]] == ["a"]
        assert answer["hits"][0]["metadata"] == {"year": 1}
        assert set(answer) == {"id", "query", "version", "hits"}


def test_an_empty_stdin_is_no_query(t1: Any, database: Path) -> None:
    done = t1("search", "--db", database, "--file", "-", stdin="\n")
    _one_sentence(done)


def test_status_is_one_json_line(t1: Any, database: Path) -> None:
    done = t1("status", "--db", database)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["live"]["num_documents"], found["live"]["dim"], found["runs"]) == (2, 8, [])
