"""Limits that stop a run, and what a person is told of an error that comes out of Ray."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.errors import CorpusChanged, ModelError, QuarantineExceeded, SettingsError
from pipeline.flows.compare import PlanSummary
from pipeline.flows.failures import root_cause
from pipeline.flows.guards import check_deletions, check_quarantine
from pipeline.flows.report import RunReport
from pipeline.flows.stream import configure_data


def _report(**counts: int) -> RunReport:
    return RunReport("run-1", "m", "f", datetime.now(UTC), **{f"documents_{n}": c for n, c in counts.items()})


@pytest.mark.parametrize(("read", "bad", "allowed"), [(100, 100, 0.0), (101, 0, 0.0), (1_000, 50, 0.05), (10, 1, 0.0)])
def test_bad_rows_within_the_limit(read: int, bad: int, allowed: float) -> None:
    check_quarantine(_report(read=read, quarantined=bad), allowed=allowed, db="db")


@pytest.mark.parametrize(("read", "bad", "allowed"), [(101, 1, 0.0), (1_000, 51, 0.05), (200, 200, 0.99)])
def test_bad_rows_beyond_the_limit(read: int, bad: int, allowed: float) -> None:
    with pytest.raises(QuarantineExceeded, match=f"{bad} of {read:,} rows were bad"):
        check_quarantine(_report(read=read, quarantined=bad), allowed=allowed, db="db")


def test_the_database_is_named_without_its_password() -> None:
    with pytest.raises(QuarantineExceeded) as caught:
        check_quarantine(_report(read=200, quarantined=200), allowed=0.0, db="s3://me:hunter2@bucket/db")
    assert "hunter2" not in str(caught.value)


def _summary(**counts: int) -> PlanSummary:
    names = [n for n in PlanSummary.__dataclass_fields__ if n != "shards_to_read"]
    return PlanSummary(**{name: counts.get(name, 0) for name in names}, shards_to_read=())


def test_deletions() -> None:
    check_deletions(_summary(num_deleted=5, num_known=10), allowed=0.5)
    check_deletions(_summary(), allowed=0.0)
    with pytest.raises(SettingsError, match="6 of 10 documents"):
        check_deletions(_summary(num_deleted=6, num_known=10), allowed=0.5)


def test_the_account_adds_up() -> None:
    report = _report(read=10, encoded=4, unchanged=3, duplicate=2, quarantined=1)
    assert report.unaccounted == 0
    assert report.sentences()[0] == ("10 documents read = 4 encoded + 3 unchanged + 2 duplicate + 1 quarantined")
    assert _report(read=10, encoded=9).unaccounted == 1


def test_an_error_of_ones_own_is_found_under_others() -> None:
    inner = ModelError("the model is absent")
    outer: Any = RuntimeError("a wrapper")
    outer.cause = inner
    assert root_cause(outer) is inner
    chained = ValueError("more wrapping")
    chained.__cause__ = outer
    assert root_cause(chained) is inner
    stranger = ValueError("not ours")
    assert root_cause(stranger) is stranger


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_error_of_ones_own_comes_back_from_a_worker() -> None:
    import ray

    @ray.remote(max_retries=0)
    def fail() -> None:
        raise CorpusChanged("shard 7 was rewritten meanwhile: run the same command again")

    def read_fails(batch: Any) -> Any:
        raise CorpusChanged("shard 7 was rewritten meanwhile: run the same command again")

    def read_fails_later(batch: Any) -> Any:
        yield batch
        raise CorpusChanged("shard 7 was rewritten meanwhile: run the same command again")

    class LoadFails:
        def __init__(self) -> None:
            raise CorpusChanged("shard 7 was rewritten meanwhile: run the same command again")

        def __call__(self, batch: Any) -> Any:
            return batch

    configure_data(2**20)
    failing = [
        lambda: ray.get(fail.remote()),
        lambda: ray.data.range(1).map_batches(read_fails).take_all(),
        lambda: ray.data.range(1).map_batches(read_fails_later).take_all(),
        lambda: ray.data.range(1).map_batches(LoadFails, compute=ray.data.ActorPoolStrategy(size=1)).take_all(),
    ]
    for call in failing:
        with pytest.raises(Exception, match="rewritten") as caught:
            call()
        cause = root_cause(caught.value)
        assert type(cause) is CorpusChanged
        assert str(cause) == "shard 7 was rewritten meanwhile: run the same command again"
