"""A store that fails: the same table in the end, or one plain sentence, exit code 2, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from infra.s3.fault_plans import Fault, Injection, Plan, Rule, at_random, scripted
from infra.s3.faults import FaultProxy, running_proxy
from infra.s3.server import S3Server
from pipeline import retry, storage
from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.errors import StorageError
from pipeline.flows.index import index
from pipeline.records import Document, FieldMap
from pipeline.retry import Patience
from pipeline.storage import open_filesystem
from tests.flows.corpora import document, record_rows, settings_for, table_rows, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 4
NUM_DOCUMENTS = 240
_PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from jobs.cli import main; main()"
_COMPARED = ("id", "chunk", "title", "text", "metadata", "shard", "content_hash", "num_tokens", "vector")
# Share of all requests; a run makes some hundreds. FORBIDDEN, which ends a run, comes once, by a rule.
_RATES = {
    Fault.SLOW_DOWN: 0.02,
    Fault.INTERNAL: 0.01,
    Fault.RESET: 0.02,
    Fault.LOST: 0.03,
    Fault.LOST_ERROR: 0.02,
    Fault.TRUNCATED: 0.02,
    Fault.LATENCY: 0.02,
    Fault.HANG: 0.01,
    Fault.LOST_HANG: 0.01,
    Fault.LATE: 0.01,
}
_SECONDS = 0.4
_MOST_RUNS = 4


@pytest.fixture
def proxy(s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the store for what this process does; `s3` has set up everything but that."""
    s3fs.S3FileSystem.clear_instance_cache()
    with running_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


def _run(*arguments: str | Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`t1 index` in a process and with a Ray of its own, whose workers have its environment."""
    command = [sys.executable, "-c", _PROGRAM, "index", "--model", "hashing://16", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False
    )


def _put_corpus(uri: str) -> None:
    fs, path = open_filesystem(uri)
    for shard in range(NUM_SHARDS):
        rows = [document(f"d{number}", f"text {number} " * 15) for number in range(shard, NUM_DOCUMENTS, NUM_SHARDS)]
        fs.pipe_file(f"{path}/part-{shard}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def _compared(db: str | Path) -> list[dict[str, Any]]:
    return [{name: row[name] for name in _COMPARED} for row in table_rows(db)]


def _forbidding_once(plan: Plan, path: str) -> Plan:
    once = scripted(Rule(Fault.FORBIDDEN, "PUT", path, nth=2))

    def choose(method: str, path: str) -> Injection | None:
        return once(method, path) or plan(method, path)

    return choose


def _one_sentence(finished: subprocess.CompletedProcess[str]) -> str:
    """What was said where a run ended with exit code 2: one line, no traceback, no secret."""
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr, finished.stderr
    line = finished.stderr.splitlines()[-1]
    assert line
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "no secret") not in finished.stderr
    return line


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_every_fault_the_table_is_the_one_without(s3: str, s3_server: S3Server, seed: int) -> None:
    corpus = f"{s3}/corpus"
    _put_corpus(corpus)
    flags = ["--commit-rows", "40", "--window-documents", "16", "--chunk-tokens", "32", "--overlap-tokens", "4"]
    calm = _run("--corpus", corpus, "--db", f"{s3}/calm", *flags, environment={})
    assert calm.returncode == 0, calm.stderr

    plan = _forbidding_once(at_random(_RATES, seed=seed, seconds=_SECONDS), r"documents\.lance/_versions/")
    said = []
    with running_proxy(s3_server.endpoint, plan) as proxy:
        for _ in range(_MOST_RUNS):
            finished = _run(
                "--corpus", corpus, "--db", f"{s3}/db", *flags, environment={"AWS_ENDPOINT_URL": proxy.endpoint}
            )
            said.append(finished.stderr)
            if finished.returncode == 0:
                break
            assert "Traceback" not in finished.stderr, finished.stderr
        struck = {request.fault for request in proxy.injected()}
    assert finished.returncode == 0, "\n".join(said)
    assert Fault.FORBIDDEN in struck
    assert len(struck) >= 6
    expected = _compared(f"{s3}/calm")
    assert len({row["id"] for row in expected}) == NUM_DOCUMENTS
    assert _compared(f"{s3}/db") == expected


def _read_all(uri: str) -> list[str]:
    fields = FieldMap(text="text", id="id")
    rows = [row for shard in locate([uri], split_bytes=4096) for row in read_shard(shard, fields)]
    assert all(isinstance(row, Document) for row in rows)
    return [row.id for row in rows if isinstance(row, Document)]


@pytest.mark.s3
def test_reading_goes_on_where_it_was_cut_off(s3: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_corpus(f"{s3}/corpus")
    expected = _read_all(f"{s3}/corpus")
    assert len(expected) == len(set(expected)) == NUM_DOCUMENTS
    monkeypatch.setattr(retry, "PATIENCE", Patience(attempts=20, first_wait_s=0.01, max_wait_s=0.1))
    # hangs are left out: each costs a time-out here
    rates = dict.fromkeys((Fault.SLOW_DOWN, Fault.INTERNAL, Fault.RESET, Fault.LOST, Fault.TRUNCATED), 0.07)
    proxy.plan = at_random(rates, seed=5, seconds=0.1)
    assert _read_all(f"{s3}/corpus") == expected
    assert proxy.injected()


@pytest.mark.s3
def test_a_store_that_says_nothing_is_given_up(
    s3: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(retry, "PATIENCE", Patience(attempts=2, first_wait_s=0.01))
    proxy.plan = scripted(Rule(Fault.HANG, times=10**6))
    for corpus, db in ((f"{s3}/corpus", tmp_path / "db"), (write_jsonl(tmp_path / "c.jsonl", [document("a")]), s3)):
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match=r"did not answer as it should \(2 attempts.*run the same") as caught:
            index(settings_for(corpus, db), quiet=True)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_one_sentence(s3: str, tmp_path: Path, name: str) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a")])
    wrong = {name: f"wrong{uuid.uuid4().hex}"}
    for arguments in (("--corpus", corpus, "--db", s3), ("--corpus", f"{s3}/corpus", "--db", tmp_path / "db")):
        said = _one_sentence(_run(*arguments, environment=wrong))
        assert "credentials" in said
        assert wrong[name] not in said


@pytest.mark.s3
def test_an_absent_bucket_is_one_sentence(s3: str, proxy: FaultProxy, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a")])
    proxy.plan = scripted(Rule(Fault.NO_BUCKET, times=10**6))
    for arguments in (("--corpus", f"{s3}/corpus", "--db", tmp_path / "db"), ("--corpus", corpus, "--db", f"{s3}/db")):
        said = _one_sentence(_run(*arguments, environment={}))
        assert s3 in said
        assert "bucket" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    db = small_disk / "db"
    few = [document(f"d{number}", f"{number} " * 50) for number in range(100)]
    many = few + [document(f"e{number}", f"{uuid.uuid4()} " * 50) for number in range(1_000)]
    flags = ["--commit-rows", "200", "--window-documents", "50", "--db", db]
    first = _run("--corpus", write_jsonl(tmp_path / "few.jsonl", few), *flags, environment={})
    assert first.returncode == 0, first.stderr
    before = table_rows(db)
    write_jsonl(tmp_path / "many.jsonl", many)
    said = _one_sentence(_run("--corpus", tmp_path / "many.jsonl", *flags, environment={}))
    assert "no room left" in said
    assert "make room and run the same command again" in said
    assert table_rows(db) == before

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = _run("--corpus", tmp_path / "many.jsonl", *flags, environment={})
    assert again.returncode == 0, again.stderr
    assert {row["id"] for row in table_rows(db)} == {row["id"] for row in many}
    assert record_rows(db, "runs")[-1]["status"] == "published"
