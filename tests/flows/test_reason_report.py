"""What a reasoning run says of itself, and when it is a failure."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from jobs.cli import t1
from pipeline.errors import T1Error
from pipeline.flows import reason as flow
from pipeline.flows.reason_report import ReasonReport


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"num_failed": 2, "last_failure": "the prompt is too long"}, "none of the 2 .* \\(the prompt is too long\\)"),
        ({"num_failed": 2, "num_cached": 1}, "none of the 2"),
        ({"num_failed": 2, "num_generated": 1}, ""),
        ({"num_cached": 3}, ""),
        ({}, "none of the 3 queries has a trajectory of m; check --reasoner"),
    ],
)
def test_a_run_that_came_to_nothing_is_no_success(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], said: str
) -> None:
    report = ReasonReport("m", 3, num_trajectories=3, **counts)  # type: ignore[arg-type]
    monkeypatch.setattr(flow, "reason", lambda *_, **__: report)
    done = CliRunner().invoke(t1, ["reason", "--db", "db", "why?"])
    assert json.loads(done.stdout)["num_trajectories"] == 3
    assert bool(done.exception) is bool(said)
    if said:
        with pytest.raises(T1Error, match=said):
            raise done.exception  # type: ignore[misc]
        assert done.exception.exit_code == 1  # type: ignore[union-attr]
