"""A run file comes back as it was written, and its ranks are the measured ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.evaluation.run_files import read_run, run_lines

_CHARS = st.characters(categories=("L", "N", "P", "S", "Z", "Cc"))
_ID = st.text(_CHARS | st.sampled_from(" %250CAE"), min_size=1, max_size=6)
_SCORES = st.dictionaries(_ID, st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(st.dictionaries(_ID, _SCORES, max_size=3))
def test_round_trip(rankings: dict[str, dict[str, float]]) -> None:
    lines = list(run_lines(rankings, tag="t1-plain"))
    again = read_run(lines)
    assert again.keys() == rankings.keys()
    for query, scores in rankings.items():
        assert again[query] == pytest.approx(scores, rel=1e-5, abs=1e-5)
    assert all(len(line.split()) == 6 for line in lines)
    for scores in rankings.values():
        ranks = [int(line.split(" ")[3]) for line in lines[: len(scores)]]
        del lines[: len(scores)]
        assert ranks == list(range(1, len(ranks) + 1))


def test_ties_stand_as_they_are_measured() -> None:
    assert list(run_lines({"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, tag="t")) == [
        "q Q0 c 1 2.0 t\n", "q Q0 b 2 1.0 t\n", "q Q0 a 3 1.0 t\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "written"),
    [
        ("d e", "d%20e"), ("d\u00a0e", "d%C2%A0e"), ("d\te\n", "d%09e%0A"), ("d%20e", "d%2520e"),
        ("d%2520e", "d%252520e"), ("d%C2%A0e", "d%25C2%A0e"), ("100%", "100%"), ("%41", "%41"), ("d%25e", "d%25e"),
    ],
)  # fmt: skip
def test_white_space_in_ids_is_written_as_in_a_url(id: str, written: str) -> None:
    (line,) = run_lines({id: {id: 1.0}}, tag="t")
    assert line == f"{written} Q0 {written} 1 1.0 t\n"
    assert read_run([line]) == {id: {id: 1.0}}


def test_ties_of_such_ids_are_measured_as_before() -> None:
    scores = {"d e": 1.0, "d!e": 1.0, "c": 0.5}  # "!" comes after a space and before the "%" that is written for it
    lines = list(run_lines({"q": scores}, tag="t"))
    assert [line.split(" ")[2] for line in lines] == ["d!e", "d%20e", "c"]
    values = [np.float32(line.split(" ")[4]) for line in lines]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize(("query", "document", "tag"), [("", "d", "t"), ("q", "", "t"), ("q", "d", "a b")])
def test_what_cannot_be_written(query: str, document: str, tag: str) -> None:
    with pytest.raises(UserError, match="TREC run file cannot hold"):
        list(run_lines({query: {document: 1.0}}, tag=tag))


@pytest.mark.parametrize("line", ["q Q0 d 1 2.0", "q Q0 d 1 high t", "q Q0 d 1 nan t"])
def test_lines_that_are_none(line: str) -> None:
    with pytest.raises(UserError, match=r"runs\.trec:2: .*expected query, Q0"):
        read_run(["\n", line], name="runs.trec")
    with pytest.raises(UserError, match="comes twice"):
        read_run(["q Q0 d 1 2.0 t", "q Q0 d 2 1.0 t"])
