"""Tests that want a browser are skipped without one, but not where a change is judged."""

import pytest

from tests.evaluation.conftest import do_without


def test_a_missing_browser_is_passed_over_but_not_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        do_without("no browser")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser; CI=true"):
        do_without("no browser")
