"""What the cache knows of a list of queries: what is wanted, and the vector that a query is searched with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.flows.reasoned import Notes
from pipeline.records import FinishReason, Query, Trajectory
from pipeline.store.trajectories import Cached
from tests.flows.scripted import cache_at, echo_bundle, queries_of

SAMPLES = 3
OURS, THEIRS = "ours", "theirs"

BUNDLE = echo_bundle(num_samples=SAMPLES, sampling={"temperature": 1.0})
VECTORS = arrays(np.float32, 4, elements=st.floats(-1, 1, width=32))


def _row(query: Query, sample: int, vector: Any = None, **more: Any) -> Cached:
    """What is cached of a query's sample; searchable unless said otherwise."""
    finish = more.get("finish", FinishReason.STOP)
    written = Trajectory(
        BUNDLE.key(query, sample=sample), query.text, query.task, more.get("text", "a thought"), 2, finish,
        BUNDLE.fingerprint(query), BUNDLE.source, BUNDLE.sampling, sample,
    )  # fmt: skip
    if vector is None:
        return Cached(written)
    return Cached(written, np.asarray(vector, np.float32), more.get("encoder", OURS))


def _notes(queries: list[Query], *rows: Cached) -> Notes:
    notes = Notes(BUNDLE, queries)
    notes.add(rows)
    return notes


def test_a_query_that_comes_twice_is_wanted_once() -> None:
    queries = [*queries_of("one", "two"), Query("another id", "one", excluded_ids=("d",))]
    notes = _notes(queries)
    assert notes.num_distinct == 2 * SAMPLES
    wanted = notes.missing()
    assert [(one.query.text, one.sample) for one in wanted] == [(t, s) for t in ("one", "two") for s in range(SAMPLES)]
    assert len({one.key for one in wanted}) == 2 * SAMPLES
    notes.add([_row(queries[0], 1, [1, 0])])
    assert [(one.query.text, one.sample) for one in notes.missing()][:2] == [("one", 0), ("one", 2)]
    for position in (0, 2):
        assert [t.sample for t in notes.trajectories(position)] == [1]
        assert notes.vector(position, encoder=OURS) is not None
    assert notes.vector(1, encoder=OURS) is None


def test_one_query_of_two_tasks_is_two() -> None:
    notes = _notes([*queries_of("one", task="biology"), *queries_of("one", task="pony")])
    assert notes.num_distinct == 2 * SAMPLES


@settings(deadline=None)
@given(vectors=st.lists(VECTORS, min_size=1, max_size=SAMPLES))
def test_samples_are_averaged_to_a_unit_vector(vectors: list[Any]) -> None:
    (query,) = queries_of("one")
    found = _notes([query], *(_row(query, n, vector) for n, vector in enumerate(vectors))).vector(0, encoder=OURS)
    mean = np.stack(vectors).astype(np.float64).mean(axis=0)
    length = math.sqrt(float(mean @ mean))
    if length < 1e-6:  # they cancel out: there is no direction to search in
        assert found is None or np.isfinite(found).all()
        return
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64)), 1, atol=1e-5)
    np.testing.assert_allclose(found, mean / length, atol=1e-4)


def test_vectors_that_cancel_out_are_no_vector() -> None:
    (query,) = queries_of("one")
    assert _notes([query], _row(query, 0, [1, 0]), _row(query, 1, [-1, 0])).vector(0, encoder=OURS) is None


@pytest.mark.parametrize(
    "more",
    [
        {"finish": FinishReason.LENGTH},
        {"finish": FinishReason.EMPTY, "text": ""},
        {"finish": FinishReason.ERROR, "text": "the engine broke"},
        {"text": ""},
        {"encoder": THEIRS},
        {"encoder": ""},
    ],
)
def test_what_does_not_count(more: dict[str, Any]) -> None:
    (query,) = queries_of("one")
    alone = _notes([query], _row(query, 0, [0, 1], **more))
    assert alone.vector(0, encoder=OURS) is None
    beside = _notes([query], _row(query, 0, [0, 1], **more), _row(query, 2, [2, 0]))
    np.testing.assert_array_equal(beside.vector(0, encoder=OURS), [1, 0])


def test_which_are_to_be_encoded() -> None:
    queries = [*queries_of("one", "two"), Query("again", "one")]
    one, two = queries[:2]
    notes = _notes(
        queries, _row(one, 0, [1, 0]), _row(one, 1, [1, 0], encoder=THEIRS), _row(one, 2),
        _row(two, 0, finish=FinishReason.LENGTH), _row(two, 1, finish=FinishReason.EMPTY, text=""),
    )  # fmt: skip
    ours, theirs = notes.without_vector(OURS), notes.without_vector(THEIRS)
    assert [key for key, *_ in ours] == [BUNDLE.key(one, sample=1), BUNDLE.key(one, sample=2)]
    assert [key for key, *_ in theirs] == [BUNDLE.key(one, sample=0), BUNDLE.key(one, sample=2)]
    assert {(query.text, text) for _, query, text in ours} == {("one", "a thought")}
    assert [(w.query.text, w.sample) for w in notes.missing()] == [("two", 2)]


def test_vectors_computed_elsewhere_count_first() -> None:
    (query,) = queries_of("one")
    notes = _notes([query], _row(query, 0, [1, 0], encoder=THEIRS), _row(query, 1, [1, 0], finish=FinishReason.LENGTH))
    computed = {BUNDLE.key(query, sample=n): np.asarray([0, 2], np.float32) for n in range(2)}
    np.testing.assert_array_equal(notes.vector(0, encoder=OURS, computed=computed), [0, 1])


def test_a_look_up_reads_what_is_not_known_yet(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, queries = cache_at(tmp_path), queries_of("one", "two")
    cache.add([_row(queries[0], 0, [1, 0]), _row(queries[1], 2, [0, 1])])
    notes = _notes(queries)
    monkeypatch.setattr("pipeline.flows.reasoned._LOOK_UP_KEYS", 4)
    asked: list[str] = []
    find = cache.find
    monkeypatch.setattr(cache, "find", lambda keys: asked.extend(keys) or find(keys))
    notes.look_up(cache)
    assert (len(asked), len(set(asked)), len(notes.found)) == (6, 6, 2)
    asked.clear()
    notes.look_up(cache)
    assert (len(asked), len(notes.found)) == (4, 2)


@given(texts=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), known=st.sets(st.sampled_from(["a", "b", "c"])))
@settings(deadline=None, max_examples=50)
def test_what_is_there_and_what_is_missing_add_up(texts: list[str], known: set[str]) -> None:
    queries = queries_of(*texts)
    rows = [_row(q, s, [1, 0]) for q in queries if q.text in known for s in range(SAMPLES)]
    notes = _notes(queries, *rows)
    assert len(notes.found) + len(notes.missing()) == notes.num_distinct == SAMPLES * len(set(texts))
    for position, query in enumerate(queries):
        assert (notes.vector(position, encoder=OURS) is not None) == (query.text in known)
