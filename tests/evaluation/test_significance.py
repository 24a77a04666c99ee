"""The randomisation test by its definition, and Holm's correction by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.compare import compare_modes, mean_by_collection, mean_over_collections
from pipeline.evaluation.results import QueryResult
from pipeline.evaluation.significance import correct_by_holm, paired_p_value


@given(st.lists(st.integers(-5, 5), max_size=8))
def test_exact_for_few(differences: list[int]) -> None:
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    expected = sum(abs(value) >= abs(sum(differences)) for value in sums) / len(sums)
    assert paired_p_value([d / 10 for d in differences]) == pytest.approx(expected)


def test_drawn_for_many() -> None:
    draw = np.random.default_rng(1)
    assert paired_p_value(list(draw.normal(1.0, 1.0, 100))) < 0.001
    balanced = [0.1, -0.1] * 50
    assert paired_p_value(balanced) == 1.0
    # fifteen gains of fifteen: two of 2**15 sign changes are as far
    assert 0 < paired_p_value([0.1] * 15) < 0.001
    noisy = list(draw.normal(0.05, 1.0, 60))
    assert (
        paired_p_value(noisy) == paired_p_value(noisy) == pytest.approx(paired_p_value([-d for d in noisy]), abs=0.01)
    )


def test_holm_by_hand() -> None:
    assert correct_by_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct_by_holm([0.9, 0.8]) == [1.0, 1.0]
    assert correct_by_holm([]) == []


def test_comparisons_and_means() -> None:
    def rows(collection: str, mode: str, values: list[float]) -> list[QueryResult]:
        return [QueryResult(collection, f"q{n}", "", mode, {"nDCG@10": v}) for n, v in enumerate(values)]

    results = [*rows("a", "plain", [0.0, 0.5]), *rows("a", "reasoned", [1.0, 0.5]),
               *rows("b", "plain", [0.2]), *rows("b", "reasoned", [0.1])]  # fmt: skip
    a, b, both = compare_modes(results, modes=["plain", "reasoned"], measure="nDCG@10")
    assert (a.collection, a.difference, a.num_queries, a.better, a.worse) == ("a", 0.5, 2, 1, 0)
    assert (b.collection, b.better, b.worse) == ("b", 0, 1)
    assert b.difference == pytest.approx(-0.1)
    assert (both.collection, both.num_queries, both.difference) == ("", 3, pytest.approx(0.3))
    assert all(c.corrected_p_value >= c.p_value for c in (a, b, both))
    means = mean_by_collection(results, ["nDCG@10"])
    assert means["plain"] == {"a": {"nDCG@10": 0.25}, "b": {"nDCG@10": 0.2}}
    over = mean_over_collections(means, ["nDCG@10"])
    assert over == {"plain": {"nDCG@10": pytest.approx(0.225)}, "reasoned": {"nDCG@10": pytest.approx(0.425)}}
