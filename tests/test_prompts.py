"""Instructions by task, however the task is spelled."""

from __future__ import annotations

import pytest

from pipeline.prompts import DEFAULT_REASONING, reasoning_instruction


@pytest.mark.parametrize("task", ["earth_science", "earth-science"])
def test_a_task_may_be_written_with_either_dash(task: str) -> None:
    assert "earth science post" in reasoning_instruction(task)
    assert reasoning_instruction(task, own={"earth-science": "dig"}) == "dig"
    assert reasoning_instruction(task, own={"earth_science": "dig"}) == "dig"


def test_any_other_task_gets_the_default_wording() -> None:
    assert reasoning_instruction("scifact") == DEFAULT_REASONING.format(post="question")
