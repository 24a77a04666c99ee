"""Reciprocal rank fusion, against sums written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.fusion import RRF_K, fuse
from pipeline.store.search import Hit

NAMES = [f"d{n}" for n in range(12)]
RANKINGS = st.lists(st.lists(st.sampled_from(NAMES), unique=True), min_size=1, max_size=4)


def ranking(names: Sequence[str], *, chunk: int = 0) -> list[Hit]:
    return [Hit(name, chunk, f"title of {name}", f"text {chunk}", "{}", "s", 0.9) for name in names]


def scores(fused: Sequence[Hit]) -> dict[str, float]:
    return {hit.id: hit.score for hit in fused}


def test_sums_by_hand() -> None:
    fused = fuse([ranking(["a", "b", "c"]), ranking(["c", "a", "d"])], top_k=10)
    assert [(hit.id, hit.score) for hit in fused] == [
        ("a", pytest.approx(1 / 61 + 1 / 62, abs=1e-15)),
        ("c", pytest.approx(1 / 63 + 1 / 61, abs=1e-15)),
        ("b", pytest.approx(1 / 62, abs=1e-15)),
        ("d", pytest.approx(1 / 63, abs=1e-15)),
    ]
    assert RRF_K == 60


def test_a_smaller_k_lets_the_first_ranks_count_more() -> None:
    near, words = ranking(["a", "b", "c", "d", "e"]), ranking(["e", "b", "c", "d", "a"])
    assert fuse([near, words], top_k=1, k=1)[0].id == "a"  # 1/2 + 1/6 against 1/3 + 1/3: a draw, and the lesser id
    lone, both = ranking(["a", "x", "b"]), ranking(["y", "z", "b"])
    assert fuse([lone, both], top_k=1, k=60)[0].id == "b"  # 2/63 against 1/61
    assert fuse([lone, both], top_k=1, k=0.5)[0].id == "a"  # type: ignore[arg-type]  # 1/1.5 against 2/3.5


def test_ties_go_to_the_lesser_id_whatever_the_order_of_rankings() -> None:
    one, other = ranking(["z", "m"]), ranking(["b", "k"])
    assert [hit.id for hit in fuse([one, other], top_k=4)] == ["b", "z", "k", "m"]
    assert [hit.id for hit in fuse([other, one], top_k=4)] == ["b", "z", "k", "m"]


def test_the_first_ranking_that_has_a_document_gives_its_chunk() -> None:
    fused = fuse([ranking(["a"], chunk=3), ranking(["b", "a"], chunk=7)], top_k=2)
    assert {hit.id: (hit.chunk, hit.text, hit.title) for hit in fused} == {
        "a": (3, "text 3", "title of a"), "b": (7, "text 7", "title of b"),
    }  # fmt: skip


def test_nothing_to_fuse() -> None:
    assert fuse([], top_k=3) == []
    assert fuse([[], []], top_k=3) == []
    assert [hit.id for hit in fuse([[], ranking(["a"])], top_k=3)] == ["a"]


@given(RANKINGS)
def test_every_score_is_the_sum_over_the_rankings_that_have_it(rankings: list[list[str]]) -> None:
    expected = {
        name: sum(1 / (60 + names.index(name) + 1) for names in rankings if name in names)
        for names in rankings
        for name in names
    }
    assert scores(fuse([ranking(names) for names in rankings], top_k=100)) == pytest.approx(expected, abs=1e-15)


@given(RANKINGS.flatmap(lambda rankings: st.tuples(st.just(rankings), st.permutations(rankings))))
def test_the_order_of_rankings_changes_no_score(case: tuple[list[list[str]], list[list[str]]]) -> None:
    one, other = (scores(fuse([ranking(names) for names in rankings], top_k=100)) for rankings in case)
    assert one == pytest.approx(other, abs=1e-15)


@given(RANKINGS.flatmap(lambda rankings: st.tuples(st.just(rankings), st.permutations(rankings))))
def test_the_order_of_rankings_changes_no_rank(case: tuple[list[list[str]], list[list[str]]]) -> None:
    one, other = ([hit.id for hit in fuse([ranking(names) for names in rankings], top_k=100)] for rankings in case)
    assert one == other


@given(st.lists(st.sampled_from(NAMES[1:]), unique=True), st.lists(st.sampled_from(NAMES[1:]), unique=True))
def test_what_is_first_in_both_is_first(near: list[str], words: list[str]) -> None:
    fused = fuse([ranking(["d0", *near]), ranking(["d0", *words])], top_k=100)
    assert (fused[0].id, fused[0].score) == ("d0", pytest.approx(2 / 61))


@given(RANKINGS, st.integers(1, 20))
def test_a_smaller_top_k_is_the_head_of_a_greater_one(rankings: list[list[str]], top_k: int) -> None:
    hits = [ranking(names) for names in rankings]
    assert fuse(hits, top_k=top_k) == fuse(hits, top_k=100)[:top_k]
