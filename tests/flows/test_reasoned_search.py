"""Searches in every mode of reasoning over a small table of hashed words; what reasons is a stand-in or an echo."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError, SettingsError, TableError
from pipeline.flows import reasoned_search
from pipeline.flows.reasoned_search import Answer, How, ReasonedSearcher
from pipeline.flows.search import Filters, Searcher
from pipeline.model.reasoner import Completion, Request, load_reasoner
from pipeline.model.reasoning import open_reasoner
from pipeline.query_settings import QuerySettings, ReasonSettings, SamplingSettings
from pipeline.records import FinishReason, Query
from pipeline.settings import ModelSettings
from pipeline.store.database import Database
from pipeline.store.fusion import fuse
from pipeline.store.trajectories import TrajectoryCache
from tests.flows.corpora import document, publish_table, write_jsonl

TEXTS = {
    "moths": "moths circle lamps at night because bright light confuses their flight",
    "lamps": "a lamp turns current into light and heat",
    "tides": "the moon pulls the sea and so tides rise and fall twice a day",
    "bread": "yeast makes dough rise before it is baked into bread",
    "sleep": "people sleep at night and wake in the day",
    "birds": "birds find their way by the sun and the stars",
}
QUESTION = Query("1", "why does it rise?")
# What the stand-in writes leads away from bread and to the sea.
THOUGHT = "tides of the sea, the moon pulls the sea twice a day"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("published") / "db"
    publish_table(db, [document(name, text, year=2000 + n) for n, (name, text) in enumerate(TEXTS.items())])
    return db


@pytest.fixture
def db(published: Path, tmp_path: Path) -> str:
    """A copy of the table, with a cache of its own."""
    shutil.copytree(published, tmp_path / "db")
    return str(tmp_path / "db")


class StandIn:
    """Writes the same thought about everything, or what it is told; counts what it was asked."""

    def __init__(self, completion: Completion | None = None, *, gate: threading.Event | None = None) -> None:
        self.completion = completion or Completion(THOUGHT, 11, FinishReason.STOP)
        self.gate = gate
        self.num_loaded = self.num_asked = self.num_closed = 0

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        for position, _ in enumerate(requests):
            self.num_asked += 1
            if self.gate is not None:
                self.gate.wait()
            yield position, self.completion

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def reasoner(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Stands in for whatever would be loaded."""
    stand_in = StandIn()

    def load(*_: Any, **__: Any) -> StandIn:
        stand_in.num_loaded += 1
        return stand_in

    monkeypatch.setattr(reasoned_search, "load_reasoner", load)
    return stand_in


@pytest.fixture
def no_reasoner(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a reasoner was loaded")

    monkeypatch.setattr(reasoned_search, "load_reasoner", refuse)


def opened(db: str, **reason: Any) -> ReasonedSearcher:
    settings = QuerySettings(db=db, reason=ReasonSettings(**{"engine": "echo", **reason}))
    return ReasonedSearcher.open(settings)


def num_cached(db: str) -> int:
    return TrajectoryCache(Database.at(db)).count() if Database.at(db).exists("trajectories") else 0


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


def one(searcher: ReasonedSearcher, how: How, query: Query = QUESTION, *, top_k: int = 3) -> Answer:
    (answer,) = searcher.answer([query], top_k=top_k, how=how)
    return answer


@pytest.mark.usefixtures("no_reasoner")
def test_never_is_a_plain_search(db: str) -> None:
    searcher = opened(db)
    answer = one(searcher, How("never", compares=True))
    (plain,) = Searcher.open(db).search([QUESTION.text], top_k=3)
    assert answer.hits == plain
    assert (answer.fell_back, answer.note, answer.trajectory, answer.plain_ranks) == (False, "", "", {})
    assert num_cached(db) == 0


@pytest.mark.usefixtures("no_reasoner")
def test_cached_generates_nothing_and_falls_back(db: str) -> None:
    searcher = opened(db)
    answer = one(searcher, How("cached"))
    assert answer.hits == one(searcher, How()).hits
    assert (answer.fell_back, answer.note) == (True, "no trajectory of it is there")
    assert num_cached(db) == 0


def test_auto_generates_on_a_miss_and_keeps_it(db: str, reasoner: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = opened(db)
    answer = one(searcher, How("auto"))
    assert (answer.trajectory, answer.fell_back, answer.note) == (THOUGHT, False, "")
    assert ids(answer)[0] == "tides"
    assert num_cached(db) == 1
    again = one(searcher, How("auto"))
    assert (again.hits, reasoner.num_asked, reasoner.num_loaded) == (answer.hits, 1, 1)
    searcher.close()
    searcher.close()
    assert reasoner.num_closed == 1
    monkeypatch.setattr(reasoned_search, "load_reasoner", None)
    kept = one(opened(db), How("cached"))
    assert (kept.hits, kept.trajectory, kept.fell_back) == (answer.hits, THOUGHT, False)


def test_a_query_that_comes_twice_is_reasoned_about_once(db: str, reasoner: StandIn) -> None:
    answers = opened(db).answer([QUESTION, Query("2", "another"), Query("3", QUESTION.text)], how=How("auto"))
    assert (reasoner.num_asked, num_cached(db)) == (2, 2)
    assert answers[0].hits == answers[2].hits
    assert [answer.query.id for answer in answers] == ["1", "2", "3"]


def test_auto_past_its_deadline_falls_back_and_says_why(db: str, reasoner: StandIn) -> None:
    reasoner.gate = threading.Event()  # nothing is written before the test is over
    searcher = opened(db)
    try:
        answer = one(searcher, How("auto", deadline_s=0.3))
    finally:
        reasoner.gate.set()
    assert (answer.fell_back, answer.trajectory) == (True, "")
    assert answer.note == "no trajectory of it is there, and none was written within 0.3 s"
    assert answer.hits == one(searcher, How()).hits
    assert num_cached(db) == 0


@pytest.mark.usefixtures("no_reasoner")
def test_no_model_is_loaded_for_a_deadline_that_has_passed(db: str) -> None:
    answer = one(opened(db), How("auto", deadline_s=0))
    assert (answer.fell_back, answer.note) == (True, "no trajectory of it is there, and none was written within 0 s")


def test_auto_waits_for_no_reasoner_that_does_not_load(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, loaded, num_begun = StandIn(), threading.Event(), []

    def load(*_: Any, **__: Any) -> StandIn:
        num_begun.append(1)
        loaded.wait()
        return stand_in

    monkeypatch.setattr(reasoned_search, "load_reasoner", load)
    searcher = opened(db)
    try:
        answer = one(searcher, How("auto", deadline_s=0.3))
        assert answer.note == "no trajectory of it is there, and none was written within 0.3 s"
        assert answer.hits == one(searcher, How()).hits
    finally:
        loaded.set()
    # the next query finds it loaded, or loading still
    assert one(searcher, How("auto", deadline_s=100)).trajectory == THOUGHT
    assert len(num_begun) == 1
    searcher.close()
    assert stand_in.num_closed == 1


def test_a_reasoner_that_loads_after_the_last_query_is_closed(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, closed = threading.Event(), threading.Event()

    class Late(StandIn):
        def close(self) -> None:
            closed.set()

    def load(*_: Any, **__: Any) -> StandIn:
        loaded.wait()
        return Late()

    monkeypatch.setattr(reasoned_search, "load_reasoner", load)
    searcher = opened(db)
    one(searcher, How("auto", deadline_s=0.1))
    searcher.close()
    loaded.set()
    assert closed.wait(60)


@pytest.mark.parametrize("at", ["loading", "generating"])
def test_under_a_deadline_a_broken_reasoner_is_a_note_and_without_one_an_error(
    db: str, reasoner: StandIn, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ModelError("the endpoint refuses the key")

    if at == "loading":
        monkeypatch.setattr(reasoned_search, "load_reasoner", fail)
    else:
        monkeypatch.setattr(reasoner, "generate", fail)
    searcher = opened(db)
    answer = one(searcher, How("auto"))
    assert (answer.fell_back, answer.note) == (True, "the endpoint refuses the key")
    assert answer.hits == one(searcher, How()).hits
    with pytest.raises(ModelError, match="refuses the key"):
        one(searcher, How("always"))


def test_an_endpoint_that_takes_a_connection_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        settings = ReasonSettings(engine="openai", endpoint=base, model="m")
        bundle = open_reasoner(settings, ModelSettings(), device="cpu")
        with pytest.raises(ModelError, match=r"does not answer within 0\.3 s"):
            load_reasoner(bundle, device="cpu", deadline_s=0.3)


def test_always_knows_no_deadline(db: str, reasoner: StandIn) -> None:
    answer = one(opened(db), How("always", deadline_s=0))
    assert (answer.trajectory, answer.fell_back, reasoner.num_asked) == (THOUGHT, False, 1)


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.EMPTY])
def test_a_trajectory_that_came_to_nothing_is_tried_twice_and_not_searched_with(
    db: str, reasoner: StandIn, finish: FinishReason
) -> None:
    reasoner.completion = Completion("" if finish is FinishReason.EMPTY else "the sea and", 4, finish)
    searcher = opened(db)
    answer = one(searcher, How("always"))
    assert (answer.fell_back, answer.note) == (True, f"its trajectory ended as {finish}")
    assert (answer.trajectory, answer.hits) == ("", one(searcher, How()).hits)
    assert reasoner.num_asked == 2
    assert [t.num_attempts for t in answer.trajectories] == [2]
    again = one(searcher, How("always"))  # it is known to come to nothing
    assert (again.note, reasoner.num_asked) == (answer.note, 2)


def test_a_query_that_the_engine_gave_up_says_why_and_is_tried_again(db: str, reasoner: StandIn) -> None:
    reasoner.completion = Completion("", 0, FinishReason.ERROR, "the prompt is too long")
    searcher = opened(db)
    answer = one(searcher, How("always"))
    assert (answer.fell_back, answer.note) == (True, "its trajectory ended as error: the prompt is too long")
    assert num_cached(db) == 0
    reasoner.completion = Completion(THOUGHT, 11, FinishReason.STOP)
    assert one(searcher, How("always")).trajectory == THOUGHT


def test_echo_writes_the_query_again_and_is_cut_where_it_is_told(db: str) -> None:
    whole = one(opened(db), How("always"))
    assert QUESTION.text in whole.trajectory
    assert not whole.fell_back
    cut = one(opened(db, sampling=SamplingSettings(max_tokens=4)), How("always"))
    assert (cut.fell_back, cut.note) == (True, "its trajectory ended as length")


@pytest.mark.usefixtures("reasoner")
@pytest.mark.parametrize("mode", ["never", "always"])
def test_hybrid_is_both_rankings_fused(db: str, mode: Any) -> None:
    searcher = opened(db)
    near = one(searcher, How(mode), top_k=100).hits
    words = one(searcher, How(vectors=False, words=True), top_k=100).hits
    hybrid = one(searcher, How(mode, words=True), top_k=3).hits
    assert hybrid == fuse([near, words], top_k=3)
    assert 0 < len(words) < len(near)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_how_many_are_wanted_does_not_change_the_first(db: str, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoned_search, "DEPTH", depth)
    searcher = opened(db)
    everything = one(searcher, How(words=True), top_k=100).hits
    assert depth <= len(everything) <= 2 * depth
    for top_k in range(1, 7):
        assert one(searcher, How(words=True), top_k=top_k).hits == everything[:top_k]


@pytest.mark.usefixtures("reasoner")
@pytest.mark.parametrize("mode", ["never", "cached", "auto", "always"])
@pytest.mark.parametrize("words", [False, True])
def test_excluded_ids_and_filters_hold_in_every_mode(db: str, mode: Any, words: bool) -> None:
    searcher = opened(db)
    everything = one(searcher, How(mode, words=words), top_k=6)
    assert sorted(ids(everything)) == sorted(TEXTS)
    first, second, *_ = ids(everything)
    without = one(searcher, How(mode, words=words), Query("1", QUESTION.text, (first,)), top_k=6)
    assert ids(without)[0] == second or words  # fused ranks move when a document leaves
    assert sorted(ids(without)) == sorted(set(TEXTS) - {first})
    filtered = one(searcher, How(mode, words=words, filters=Filters("metadata.year >= 2003")), top_k=6)
    assert sorted(ids(filtered)) == sorted(list(TEXTS)[3:])
    few = one(searcher, How(mode, words=words), Query("1", QUESTION.text, (first,)), top_k=1)
    assert few.hits == without.hits[:1]


def test_words_respect_them_too(db: str) -> None:
    searcher, how = opened(db), How(vectors=False, words=True)
    assert ids(one(searcher, how)) == ["bread", "tides"]
    assert ids(one(searcher, how, Query("1", QUESTION.text, ("bread",)))) == ["tides"]
    assert ids(one(searcher, How(vectors=False, words=True, filters=Filters("metadata.year = 2003")))) == ["bread"]


@pytest.mark.usefixtures("reasoner")
@pytest.mark.parametrize("words", [False, True])
def test_it_is_told_where_each_hit_was_without_reasoning(db: str, words: bool) -> None:
    searcher = opened(db)
    answer = one(searcher, How("auto", words=words, compares=True))
    plain = one(searcher, How(words=words), top_k=100)
    assert answer.plain_ranks == {name: rank for rank, name in enumerate(ids(plain), 1)}
    assert words or ids(answer) != ids(plain)[:3]
    assert one(searcher, How("auto")).plain_ranks == {}


@pytest.mark.usefixtures("reasoner")
def test_samples_are_averaged(db: str) -> None:
    searcher = opened(db, num_samples=3, sampling=SamplingSettings(temperature=1.0))
    answer = one(searcher, How("always"))
    assert [t.sample for t in answer.trajectories] == [0, 1, 2]
    assert num_cached(db) == 3
    # three times the same thought is that thought
    assert [hit.score for hit in answer.hits] == pytest.approx(
        [hit.score for hit in one(opened(db), How("always")).hits], abs=1e-6
    )


@pytest.mark.usefixtures("no_reasoner")
def test_words_alone_need_no_encoder(db: str) -> None:
    settings = QuerySettings(db=db, reason=ReasonSettings(engine="echo"))
    searcher = ReasonedSearcher(Searcher.open(db, encodes=False), settings, device="cpu")
    answer = one(searcher, How("always", vectors=False, words=True))
    assert (ids(answer), answer.fell_back, answer.note) == (["bread", "tides"], False, "")
    assert answer.hits[0].score > answer.hits[1].score > 0


@pytest.mark.usefixtures("no_reasoner")
def test_a_model_that_cannot_reason_is_searched_as_long_as_nobody_asks_it_to(db: str) -> None:
    searcher = ReasonedSearcher.open(QuerySettings(db=db))
    assert len(one(searcher, How()).hits) == 3
    assert len(one(searcher, How(words=True)).hits) == 3
    for mode in ("always", "auto", "cached"):
        with pytest.raises(SettingsError, match=r"hashing://64 cannot reason: .*--reasoner"):
            one(searcher, How(mode))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_reasoner")
def test_an_import_is_looked_up_and_never_generated(db: str) -> None:
    from pipeline.flows.trajectory_cache import import_trajectories
    from pipeline.flows.trajectory_import import ImportFields

    rows = [{"text": QUESTION.text, "trajectory": THOUGHT}]
    source = write_jsonl(Path(db).parent / "thoughts.jsonl", rows)
    import_trajectories(db, [str(source)], fields=ImportFields(source="elsewhere"), tokenizer="default")
    searcher = opened(db, engine="imported", model="elsewhere")
    known, unknown = searcher.answer([QUESTION, Query("2", "never seen")], top_k=3, how=How("always"))
    assert (known.trajectory, known.fell_back, ids(known)[0]) == (THOUGHT, False, "tides")
    assert (unknown.fell_back, unknown.note) == (True, "no trajectory of it is there")


def test_a_filter_that_cannot_be_used(db: str) -> None:
    for how in (How(filters=Filters("colour = 'red'")), How(vectors=False, words=True, filters=Filters("colour = 1"))):
        with pytest.raises(TableError, match="colour"):
            one(opened(db), how)


def test_no_queries_no_answers(db: str) -> None:
    assert opened(db).answer([], how=How("cached", words=True, compares=True)) == []
    assert np.asarray(Searcher.open(db).encode([])).shape == (0, 64)
