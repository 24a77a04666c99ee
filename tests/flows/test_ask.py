"""Queries as a command is given them: a task that nobody knows is refused, however it is spelled."""

from __future__ import annotations

import pytest

from pipeline.errors import SettingsError
from pipeline.flows.ask import read_asked
from pipeline.prompts import TASK_NOUNS, known_task


@pytest.mark.parametrize("name", ["earth_science", "earth-science", "Earth-Science"])
def test_a_task_is_known_with_dashes_too(name: str) -> None:
    assert known_task(name) == "earth_science"
    assert [query.task for query in read_asked(["why?"], [], task=name)] == ["earth_science"]


def test_tasks_of_ones_own_are_known_as_they_are_written() -> None:
    own = {"Civil-Law": "Name the legal question.", "tax_law": "And this."}
    assert [known_task(name, own=own) for name in ("Civil-Law", "tax-law")] == ["Civil-Law", "tax_law"]
    with pytest.raises(SettingsError, match="no task 'law'; write one of Civil-Law, aops, biology"):
        read_asked(["why?"], [], task="law", own=own)


def test_a_task_that_nobody_knows_is_answered_with_those_that_are() -> None:
    with pytest.raises(SettingsError) as caught:
        known_task("bilogy")
    assert all(task in str(caught.value) for task in TASK_NOUNS)


def test_an_argument_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SettingsError, match="query 2 on the line is not UTF-8"):
        read_asked(["why?", "caf\udce9"], [])
