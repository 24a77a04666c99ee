"""A few documents encoded without a pool: when, and what happens when a process dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.corpus.sizes import is_small
from pipeline.errors import CorpusChanged
from pipeline.flows import direct, encoding
from pipeline.flows.direct import suits_one_task
from pipeline.flows.index import index
from pipeline.records import Format, Shard
from tests.flows.corpora import document, settings_for, table_rows, write_jsonl


@pytest.mark.parametrize(
    ("num_documents", "kind", "commit_rows", "most", "suits"),
    [
        (0, "hashing", 100, None, False),
        (100, "hashing", 100, None, True),
        (101, "hashing", 100, None, False),
        (20_001, "hashing", 100_000, None, False),
        (128, "decoder", 100_000, None, True),
        (129, "decoder", 100_000, None, False),
        (129, "decoder", 100_000, 200, True),
        (1, "decoder", 100_000, 0, False),
    ],
)
def test_only_what_one_commit_holds(
    num_documents: int, kind: str, commit_rows: int, most: int | None, suits: bool
) -> None:
    assert suits_one_task(num_documents, kind=kind, commit_rows=commit_rows, most=most) is suits


@pytest.mark.parametrize(
    ("sizes", "compression", "is_it"),
    [([100], "", True), ([600, 400], "", True), ([600, 401], "", False), ([201], "gzip", False), ([1, 0], "", False)],
)
def test_little_is_a_matter_of_text_and_of_knowing(sizes: list[int], compression: str, is_it: bool) -> None:
    shards = [Shard(f"f{i}", Format.JSONL, compression, size) for i, size in enumerate(sizes)]
    assert is_small(shards, most_bytes=1_000) is is_it


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_death_leaves_it_to_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    mark = tmp_path / "died"

    def dies(*_: Any) -> Any:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(direct, "_encode", ray.remote(max_retries=0)(dies))
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [document(name) for name in "abcde"])
    report = index(settings_for(corpus, tmp_path / "db"), quiet=True)
    assert mark.exists()
    assert (report.documents_encoded, report.status) == (5, "published")
    assert [row["id"] for row in table_rows(tmp_path / "db")] == list("abcde")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("dies", [True, False])
def test_none_of_the_others_writes_when_one_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Nor is one cancelled: Ray would end the driver, were it done in the moment in which the task ends."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    working, done = tmp_path / "working", tmp_path / "done"

    def fails_or_works_on(_settings: Any, _inputs: Any, shards: list[int], _schema: Any) -> Any:
        if 0 in shards:
            while not working.exists():
                time.sleep(0.01)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise CorpusChanged("gone")
        working.touch()
        time.sleep(0.5)  # long after the other has failed
        done.touch()
        return []

    monkeypatch.setattr(direct, "_encode", ray.remote(max_retries=0)(fails_or_works_on))
    goes_on_with_a_pool, encode_directly = [], encoding.encode_directly

    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            goes_on_with_a_pool.append(encode_directly(*arguments, **named) is None)
        finally:
            assert done.exists()
        return None

    monkeypatch.setattr(encoding, "encode_directly", watched)
    for name in "ab":
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", [document(name)])
    settings = settings_for(tmp_path / "corpus", tmp_path / "db", pool__cpus_per_encoder=0.25)
    with nullcontext() if dies else pytest.raises(CorpusChanged, match="gone"):
        report = index(settings, quiet=True)
        assert (report.documents_encoded, report.status) == (2, "published")
    assert goes_on_with_a_pool == [True] * dies


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_tasks_share_the_shards_where_no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{shard}{number}" for shard in "abcde" for number in range(3)]
    for shard in "abcde":
        write_jsonl(tmp_path / "corpus" / f"{shard}.jsonl", [document(n) for n in names if n[0] == shard])
    shares = []
    encode = direct._encode

    class Watched:
        def options(self, **options: Any) -> Any:
            task = encode.options(**options)
            return SimpleNamespace(remote=lambda *a: shares.append(a[2]) or task.remote(*a))

    monkeypatch.setattr(direct, "_encode", Watched())
    report = index(settings_for(tmp_path / "corpus", tmp_path / "db"), quiet=True)
    assert (report.documents_encoded, report.status) == (15, "published")
    assert sorted(row["id"] for row in table_rows(tmp_path / "db")) == sorted(names)
    assert len(shares) == min(4, int(ray.cluster_resources()["CPU"]))
    assert sorted(position for share in shares for position in share) == list(range(5))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_process_gets_ready_only_where_something_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, begun = import_module("pipeline.flows.index"), []
    get_ready = flow.get_ready

    def watched(*arguments: Any, **named: Any) -> Any:
        begun.append(get_ready(*arguments, **named))
        return begun[-1]

    monkeypatch.setattr(flow, "get_ready", watched)
    corpus, settings = tmp_path / "corpus", settings_for(tmp_path / "corpus", tmp_path / "db")
    for shard in "ab":
        write_jsonl(corpus / f"{shard}.jsonl", [document(f"{shard}{number}") for number in range(6)])
    for _ in range(2):
        index(settings, quiet=True)
        assert begun == []
    for shard in "ab":
        changed = [document(f"{shard}{number}", "other" if number == 4 else "") for number in range(6)]
        write_jsonl(corpus / f"{shard}.jsonl", changed)
    report = index(settings, quiet=True)
    assert (report.documents_encoded, len(begun)) == (2, 1)
    assert [row["text"] == "other" for row in table_rows(tmp_path / "db")] == 2 * [
        False,
        False,
        False,
        False,
        True,
        False,
    ]
