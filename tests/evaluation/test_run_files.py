"""A run file comes back as it was written, and its ranks are the measured ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.evaluation.run_files import read_run, run_lines

_ID = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=6)
_SCORES = st.dictionaries(_ID, st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(st.dictionaries(_ID, _SCORES, max_size=3))
def test_round_trip(rankings: dict[str, dict[str, float]]) -> None:
    lines = list(run_lines(rankings, tag="t1-plain"))
    assert read_run(lines) == rankings
    for query in rankings:
        ranks = [int(line.split(" ")[3]) for line in lines if line.split(" ")[0] == query]
        assert ranks == list(range(1, len(ranks) + 1))


def test_ties_stand_as_they_are_measured() -> None:
    assert list(run_lines({"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, tag="t")) == [
        "q Q0 c 1 2.0 t\n", "q Q0 b 2 1.0 t\n", "q Q0 a 3 1.0 t\n",
    ]  # fmt: skip


@pytest.mark.parametrize(("query", "document"), [("a b", "d"), ("q", "d e"), ("q", ""), ("q", "d\u00a0e")])
def test_ids_with_spaces_are_refused(query: str, document: str) -> None:
    with pytest.raises(UserError, match="white space"):
        list(run_lines({query: {document: 1.0}}, tag="t"))


@pytest.mark.parametrize("line", ["q Q0 d 1 2.0", "q Q0 d 1 high t", "q Q0 d 1 nan t"])
def test_lines_that_are_none(line: str) -> None:
    with pytest.raises(UserError, match=r"runs\.trec:2: .*expected query, Q0"):
        read_run(["\n", line], name="runs.trec")
    with pytest.raises(UserError, match="comes twice"):
        read_run(["q Q0 d 1 2.0 t", "q Q0 d 2 1.0 t"])
