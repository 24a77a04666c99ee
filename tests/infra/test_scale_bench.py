"""The scale benchmark, small: its corpora are what they say, its runs do what it counts, its sums hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from infra.bench import scale
from infra.bench.scale_corpus import DOCUMENTS_PER_SHARD, Prose, change_documents, write_corpus
from infra.bench.scale_facts import commits, line
from infra.bench.scale_run import Watched


@pytest.fixture(scope="module")
def prose() -> Prose:
    return Prose()


def _lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.iterdir()) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_corpus_every_time_with_texts_like_abstracts(tmp_path: Path, prose: Prose) -> None:
    count = DOCUMENTS_PER_SHARD + 100
    assert write_corpus(tmp_path / "a", prose, documents=count) == write_corpus(
        tmp_path / "b", Prose(), documents=count
    )
    lines = _lines(tmp_path / "a")
    assert lines == _lines(tmp_path / "b")
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == count
    assert all(60 <= len(row["text"].split()) <= 120 for row in rows)
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_changed_documents_are_changed_in_place(tmp_path: Path, prose: Prose) -> None:
    count = DOCUMENTS_PER_SHARD + 100
    write_corpus(tmp_path / "a", prose, documents=count)
    before = _lines(tmp_path / "a")
    assert change_documents(tmp_path / "a", prose, documents=count, changed=126) == 1
    after = _lines(tmp_path / "a")
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 126
    assert change_documents(tmp_path / "a", prose, documents=count, changed=126, night=2) == 1
    assert sum(a != b for a, b in zip(_lines(tmp_path / "a"), after, strict=True)) == 126
    assert [json.loads(line)["id"] for line in after] == [json.loads(line)["id"] for line in before]


def _size(documents: int, seconds: float, driver_bytes: int) -> dict[str, object]:
    run = {
        "seconds": seconds, "cpu_seconds": 2 * seconds, "documents_per_s": documents / seconds,
        "driver_peak_bytes": driver_bytes, "worker_peak_bytes": 10**8,
        "memory": {"growth": 0.02, "bytes_by_fifth": [driver_bytes] * 5},
        "commits": {"median_ms": 4.0, "slope_ms_per_commit": 0.001, "growth": 0.05},
    }  # fmt: skip
    return {
        "documents": documents, "cores": 2, "table_bytes": {"data": documents * 500},
        "first": run, "again": run | {"seconds": seconds / 20}, "changed": run | {"seconds": seconds / 50},
    }  # fmt: skip


def test_needs_follow_the_slopes_between_two_sizes() -> None:
    small, large = _size(100_000, 20.0, 200 * 10**6), _size(1_000_000, 110.0, 209 * 10**6)
    needs = scale.extrapolate(small, large)
    assert needs["first_run_hours_on_these_cores"] == pytest.approx(1e8 * 1e-4 / 3600)
    assert needs["first_run_documents_per_s_and_core"] == pytest.approx(5_000)
    assert needs["driver_bytes"] == pytest.approx(209e6 + 10 * (1e8 - 1e6))
    assert needs["last_commit_ms_at_100000_rows_a_commit"] == pytest.approx(5.0)
    assert needs["table_gigabytes"] == pytest.approx(50)
    bars = scale.bars(small, large)
    assert bars["driver memory at its peak, between the sizes, at most"][0] == pytest.approx(0.045)
    assert bars["commit time, growth from the first to the last, at most"] == (0.05, 0.25)
    assert bars["1 % changed, share of the first run, at most"][0] == pytest.approx(0.02)


def test_growth_is_that_of_the_line_and_not_of_single_commits() -> None:
    numbers = np.arange(101)
    steady = 4.0 + 0.02 * numbers
    assert line(numbers, steady) == pytest.approx((0.02, 4.0))
    disturbed = np.where(numbers % 7 == 3, 5 * steady, steady)
    assert line(numbers, disturbed) == pytest.approx((0.02, 4.0), rel=0.2)
    assert line(np.array([0]), np.array([4.0])) == (0.0, 4.0)


def test_commits_of_several_runs_share_one_line() -> None:
    """Of another number each, the first of each left out: it opens files."""
    runs = [
        Watched({}, [(n, 9.0 if n == 0 else level + 0.001 * (n - 1), 0.0) for n in range(count)])
        for level, count in ((0.1, 101), (0.3, 99), (0.2, 101))
    ]
    found = commits(runs)
    assert found["slope_ms_per_commit"] == pytest.approx(1.0)
    assert found["growth"] == pytest.approx(99 * 0.001 / 0.2)
    assert [len(each) for each in found["each_ms"]] == [101, 99, 101]
    assert len(found["tenths_ms"]) == 10


@pytest.mark.ray
def test_a_tiny_run_of_all_three_kinds(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    arguments = ["--documents", "300", "--repeats", "1", "--scratch", str(tmp_path), "--out", str(out)]
    result = CliRunner().invoke(scale.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (size,) = json.loads(out.read_text(encoding="utf-8"))["sizes"]
    assert (size["documents"], size["changed_shards"]) == (300, 1)
    assert size["first"]["commits"]["count"] >= 1
    assert size["first"]["driver_peak_bytes"] > 0
    assert size["first"]["cpu_seconds"] > 0
    assert size["table_bytes"]["data"] > 0
    assert "300 documents" in result.stdout
