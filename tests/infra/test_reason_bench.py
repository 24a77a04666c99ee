"""The reasoning benchmark's sums: same bounds each time, turns that cover every query once, ratios that hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.bench import reason


def test_reads_the_first_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps({"_id": str(n), "text": f"q{n}"}) + "\n" for n in range(5)), encoding="utf-8")
    assert reason.read_queries(str(path), 3) == ["q0", "q1", "q2"]


def test_the_same_bounds_each_time_short_and_long() -> None:
    limits = reason.draw_limits(200, 64)
    assert limits == reason.draw_limits(200, 64)
    assert (min(limits) >= 8, max(limits) <= 64, len(set(limits)) > 20) == (True, True, True)


def test_turns_cover_every_query_once() -> None:
    assert [n for turn in reason.slices(70, 16) for n in turn] == list(range(70))
    assert all(len(turn) % 16 == 0 for turn in reason.slices(70, 16)[:-1])


def test_says_where_texts_part() -> None:
    assert reason.compare(["a b", "a c", "xyz"], ["a b", "a d", "xyzw"]) == {
        "share_equal": pytest.approx(1 / 3), "median_equal_chars_of_others": 2.5,
    }  # fmt: skip
    assert reason.compare(["a"], ["a"])["median_equal_chars_of_others"] is None


def test_ratio_is_of_queries_over_all_turns() -> None:
    turns = [
        {"queries": 32, "padded": {"seconds": 20.0, "tokens": 400}, "ours": {"seconds": 8.0, "tokens": 400}},
        {"queries": 16, "padded": {"seconds": 12.0, "tokens": 200}, "ours": {"seconds": 8.0, "tokens": 200}},
    ]
    found = reason.summarise(turns)
    assert found["ratio"] == pytest.approx(2.0)
    assert found["padded"]["queries_per_s"] == pytest.approx(1.5)
    assert found["ours"]["tokens_per_s"] == pytest.approx(37.5)
