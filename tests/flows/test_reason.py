"""`t1 reason` behind the command line, on a real Ray: what is generated, what is found again, what is encoded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bench.random_model import make_random_model
from pipeline.errors import ModelError
from pipeline.flows import reason as flow
from pipeline.flows.reason import reason
from pipeline.flows.reason_report import ReasonReport
from pipeline.flows.reasoned import Notes
from pipeline.flows.thinking import encode_reasoned
from pipeline.flows.trajectory_cache import import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import QuerySettings
from pipeline.records import FinishReason, Query, Trajectory
from pipeline.store.trajectories import Cached
from tests.flows.scripted import cache_at, queries_of

pytestmark = pytest.mark.ray

LONG = 4_096
DRAWN = {"max_tokens": LONG, "temperature": 1.0}


def _settings(db: Path, *, encoder: str = "hashing://64", **more: Any) -> QuerySettings:
    """Of a run without a model: an echo that is never cut, unless told otherwise."""
    told = {"engine": "echo", "batch_queries": 4, "sampling": {"max_tokens": LONG}} | more
    return QuerySettings.model_validate({"db": str(db), "encoder": {"model": encoder}, "reason": told})


def _bundle(settings: QuerySettings) -> ReasonerBundle:
    return open_reasoner(settings.reason, settings.encoder, device="cpu")


def _adds_up(report: ReasonReport) -> None:
    assert report.num_cached + report.num_generated + report.num_failed == report.num_trajectories
    assert sum(report.finish_reasons.values()) + report.num_failed == report.num_trajectories
    assert 0 <= report.startup_seconds <= report.seconds


def _found(db: Path, bundle: ReasonerBundle, queries: Sequence[Query]) -> dict[str, Cached]:
    """What there is of some queries."""
    notes = Notes(bundle, queries)
    notes.look_up(cache_at(db))
    return notes.found


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A switch: from now on, whoever asks for a cluster fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a cluster was asked for")

    return lambda: monkeypatch.setattr(flow, "connected", refuse)


def test_each_is_generated_once_and_found_again(local_ray: None, tmp_path: Path, without_ray: Any) -> None:
    queries = [*queries_of("Why do moths fly to lamps?", task="biology"),
               *queries_of("Why do moths fly to lamps?", task="pony"),
               *queries_of("And flies?", "And flies?")]  # fmt: skip
    settings = _settings(tmp_path, num_samples=3, sampling=DRAWN)
    bundle = _bundle(settings)
    report = reason(settings, queries, quiet=True)
    _adds_up(report)
    assert (report.num_queries, report.num_trajectories, report.num_generated) == (4, 9, 9)
    assert (report.finish_reasons, report.num_retried, report.num_fallback) == ({"stop": 9}, 0, 0)
    assert (report.num_encoded, report.source) == (0, "echo")
    assert report.num_tokens == sum(3 * len(bundle.prompt_ids(query)) for query in queries[:3])
    # what it is told to do is part of who it is
    assert len(report.reasoners) == len({bundle.fingerprint(query) for query in queries}) == 3

    found = _found(tmp_path, bundle, queries)
    assert len(found) == cache_at(tmp_path).count() == 9
    model = open_bundle(settings.encoder, device="cpu")
    encoder = load_encoder(model, device="cpu", threads=1)
    for query in queries:
        text = bundle.tokenizer.decode(bundle.prompt_ids(query)).strip()
        (vector,) = encode_reasoned(encoder, model, bundle, [(query, text)])
        for sample in range(3):
            row = found[bundle.key(query, sample=sample)]
            assert (row.trajectory.query, row.trajectory.task, row.trajectory.sample) == (
                query.text,
                query.task,
                sample,
            )
            assert (row.trajectory.text, row.trajectory.reasoner) == (text, bundle.fingerprint(query))
            assert row.encoder == model.identity.fingerprint
            np.testing.assert_array_equal(row.vector, vector)

    without_ray()
    again = reason(settings, [*queries, *reversed(queries)], quiet=True)
    _adds_up(again)
    assert (again.num_queries, again.num_trajectories, again.num_cached, again.num_generated) == (8, 9, 9, 0)
    assert (again.num_tokens, again.finish_reasons, again.reasoners) == (0, {"stop": 9}, report.reasoners)
    # fewer samples are the first of them
    fewer = reason(_settings(tmp_path, sampling=DRAWN), queries, quiet=True)
    assert (fewer.num_trajectories, fewer.num_cached) == (3, 3)
    assert cache_at(tmp_path).count() == 9


def test_what_is_cut_is_searched_without_and_not_tried_again(
    local_ray: None, tmp_path: Path, without_ray: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = queries_of("Why?", "Why do moths fly to lamps " + "and to candles " * 20)
    room = len(_bundle(_settings(tmp_path)).prompt_ids(queries[0]))
    settings = _settings(tmp_path, sampling={"max_tokens": room})
    report = reason(settings, queries)
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 queries have 2 trajectories" in said.err
    assert "1 queries are searched without reasoning" in said.err
    without_ray()
    again = reason(settings, queries, quiet=True)
    for one in (report, again):
        _adds_up(one)
        assert (one.finish_reasons, one.num_fallback) == ({"stop": 1, "length": 1}, 1)
    assert (report.num_generated, report.num_retried, again.num_cached) == (2, 1, 2)
    bundle = _bundle(settings)
    found = _found(tmp_path, bundle, queries)
    good, cut = (found[bundle.key(query)] for query in queries)
    assert (good.trajectory.num_attempts, cut.trajectory.num_attempts) == (1, 2)
    assert cut.trajectory.finish_reason is FinishReason.LENGTH
    assert good.vector is not None
    assert (cut.vector, cut.encoder) == (None, "")


def test_trajectories_from_elsewhere_get_vectors_of_whatever_encoder(
    local_ray: None, tmp_path: Path, without_ray: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    db, file = tmp_path / "db", tmp_path / "biology.jsonl"
    rows = [
        {"text": "Why?", "trajectory": "Because of light."}, {"text": "How?", "trajectory": "By wing."},
        {"text": "When?", "trajectory": ""},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_trajectories(str(db), [str(file)], fields=ImportFields(source="elsewhere"))
    queries = queries_of("Why?", "How?", "When?", "Where?", task="biology")
    settings = _settings(db, engine="imported", model="elsewhere")
    bundle = _bundle(settings)
    assert all(row.vector is None for row in _found(db, bundle, queries).values())

    report = reason(settings, queries)
    assert "1 of 4 queries have no trajectory of elsewhere" in capsys.readouterr().err
    assert (report.num_trajectories, report.num_cached, report.num_generated) == (4, 3, 0)
    assert (report.num_encoded, report.num_fallback) == (2, 2)
    assert report.finish_reasons == {"stop": 2, "empty": 1}
    _has_vectors_of(settings, bundle, queries)

    # another encoder's vectors take their place
    narrow = _settings(db, encoder="hashing://32", engine="imported", model="elsewhere")
    assert reason(narrow, queries, quiet=True).num_encoded == 2
    _has_vectors_of(narrow, bundle, queries)
    assert cache_at(db).count() == 3

    without_ray()
    again = reason(narrow, queries, quiet=True)
    assert (again.num_encoded, again.num_cached, again.num_fallback) == (0, 3, 2)


def _has_vectors_of(settings: QuerySettings, bundle: ReasonerBundle, queries: Sequence[Query]) -> None:
    """The usable ones have what the encoder makes of query and trajectory, the others none."""
    model = open_bundle(settings.encoder, device="cpu")
    encoder = load_encoder(model, device="cpu", threads=1)
    found = _found(Path(settings.db), bundle, queries)
    for query in queries:
        row = found.get(bundle.key(query))
        if row is not None and row.trajectory.is_usable:
            (vector,) = encode_reasoned(encoder, model, bundle, [(query, row.trajectory.text)])
            assert row.encoder == model.identity.fingerprint
            np.testing.assert_array_equal(row.vector, vector)
        elif row is not None:
            assert row.vector is None


def test_a_batch_that_was_written_in_part_is_finished(local_ray: None, tmp_path: Path) -> None:
    import ray

    from pipeline.flows.reason_stage import ReasonStage

    queries, settings = queries_of("one", "two", "three"), _settings(tmp_path)
    wanted = Notes(_bundle(settings), queries).missing()
    batch = {"kind": np.asarray(["generate"]), "begin": np.asarray([0]), "end": np.asarray([4])}

    def account(num: int) -> dict[str, Any]:
        stage = ReasonStage(str(tmp_path), settings.reason, settings.encoder, "cpu", threads=1,
                            wanted=ray.put(wanted[:num]), bare=ray.put([]))  # fmt: skip
        (row,) = stage(batch).to_pylist()
        return row

    first, second = account(1), account(3)
    assert (first["num_found"], first["num_generated"]) == (0, 1)
    assert (second["num_found"], second["num_generated"]) == (1, 2)
    assert cache_at(tmp_path).count() == 3


def test_what_cannot_be_encoded_is_not_tried_by_the_next_run(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pipeline.flows import reason_stage
    from pipeline.records import Reason

    settings, queries = _settings(tmp_path), queries_of("one", "two")
    bundle = _bundle(settings)
    rows = [
        Trajectory(bundle.key(q), q.text, "", "a thought", 2, FinishReason.STOP, bundle.fingerprint(q), "echo", "{}")
        for q in queries
    ]
    cache_at(tmp_path).add([Cached(row) for row in rows])
    vector = np.ones(64, np.float32)
    monkeypatch.setattr(reason_stage, "encode_reasoned", lambda *_: [Reason.NOT_FINITE, vector])
    bare = [(row.key, query, row.text) for query, row in zip(queries, rows, strict=True)]
    stage = reason_stage.ReasonStage(str(tmp_path), settings.reason, settings.encoder, "cpu", threads=1,
                                     wanted=ray.put([]), bare=ray.put(bare))  # fmt: skip
    (account,) = stage({"kind": np.asarray(["encode"]), "begin": np.asarray([0]), "end": np.asarray([4])}).to_pylist()
    assert (account["num_encoded"], account["num_not_encoded"]) == (1, 1)
    monkeypatch.setattr(flow, "connected", None)  # nothing is left to do, so nobody asks for a cluster
    report = reason(settings, queries, quiet=True)
    assert (report.num_cached, report.num_encoded, report.num_fallback) == (2, 0, 1)


def test_an_endpoint_that_is_not_there_ends_the_run_in_its_own_words(
    local_ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_random_model(tmp_path / "model", shape="tiny", device="cpu")
    # port 9 of this machine, where nobody listens
    there = {"engine": "openai", "endpoint": "http://127.0.0.1:9/v1", "model": "m", "sampling": {"max_tokens": 8}}
    db = tmp_path / "db"
    with pytest.raises(ModelError, match=r"^http://127\.0\.0\.1:9/v1 does not answer"):
        reason(_settings(db, encoder=str(model), **there), queries_of("Why?"), quiet=True)
    assert "Traceback" not in capfd.readouterr().err
    assert cache_at(db).count() == 0


@given(num=st.integers(0, 2_000), batch=st.integers(1, 300), most=st.integers(1, 64))
def test_every_query_is_in_one_part_and_no_reasoner_is_left_out(num: int, batch: int, most: int) -> None:
    parts = flow.cut(num, batch, most=most)
    assert [n for part in parts for n in range(part["begin"], part["end"])] == list(range(num))
    assert all(part["end"] - part["begin"] <= batch for part in parts)
    # as many as there is room for, but for what rounding up takes from the last
    assert len(parts) >= min(num, most) / 2
