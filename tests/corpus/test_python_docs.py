"""The demo corpus: docstrings of the standard library, without running any of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.corpus.fields import detect_fields
from pipeline.corpus.locate import locate
from pipeline.corpus.python_docs import DEMO_MODULES, MIN_DOCSTRING_CHARS, collect_docstrings, write_jsonl
from pipeline.corpus.read import read_shard
from pipeline.errors import CorpusError
from pipeline.records import FieldMap


def test_rows_say_what_they_document() -> None:
    rows = {row["id"]: row for row in collect_docstrings(packages=["json"])}
    dumps = rows["json.dumps"]
    assert dumps["title"].startswith("json.dumps(obj, *, skipkeys=False")
    assert dumps["text"].startswith("Serialize ``obj`` to a JSON formatted ``str``.")
    assert (dumps["module"], dumps["kind"]) == ("json", "function")
    assert rows["json"]["kind"] == "module"
    assert rows["json.decoder.JSONDecoder"]["kind"] == "class"
    assert rows["json.decoder.JSONDecoder.decode"]["kind"] == "method"
    assert all(len(row["text"]) >= MIN_DOCSTRING_CHARS for row in rows.values())


def test_rows_come_in_the_same_order_each_once() -> None:
    rows = list(collect_docstrings(packages=["json", "os.path", "email"]))
    assert rows == list(collect_docstrings(packages=["email", "os.path", "json", "json"]))
    assert len({row["id"] for row in rows}) == len(rows) > 50


def test_no_module_is_imported() -> None:
    program = (
        "import sys; from pipeline.corpus.python_docs import collect_docstrings; before = set(sys.modules)\n"
        "assert len(list(collect_docstrings(packages=['this', 'antigravity', 'wave', 'turtle']))) > 50\n"
        "print(sorted({'this', 'antigravity', 'wave', 'turtle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_limit_takes_from_all_modules_alike() -> None:
    rows = list(collect_docstrings(packages=["json", "argparse", "csv"], max_documents=12))
    assert len(rows) == 12
    assert {row["module"].split(".")[0] for row in rows} == {"json", "argparse", "csv"}
    few = list(collect_docstrings(packages=["json"]))
    assert list(collect_docstrings(packages=["json"], max_documents=10_000)) == few


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(CorpusError, match="'no_such_module'"):
        list(collect_docstrings(packages=["no_such_module"]))


def test_the_demo_is_a_corpus(tmp_path: Path) -> None:
    """Every module that the demo names is there, and what is written is read back without an option."""
    path = tmp_path / "new folder" / "docs.jsonl"
    rows = list(collect_docstrings(packages=DEMO_MODULES, max_documents=300))
    assert write_jsonl(rows, path) == 300
    shards = locate([str(path)])
    fields, _ = detect_fields(shards)
    assert fields == FieldMap("text", "id", "title")
    documents = [item for shard in shards for item in read_shard(shard, fields)]
    assert [item.id for item in documents] == [row["id"] for row in rows]
    assert json.loads(documents[0].metadata).keys() == {"module", "kind", "line"}  # type: ignore[union-attr]
