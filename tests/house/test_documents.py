"""What README and infra/ tell a reader to type is something that the commands accept."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import t1
from pipeline.query_settings import QuerySettings, load_query_settings
from pipeline.settings import IndexSettings, load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "infra").rglob("*.md")]


def command_lines() -> list[str]:
    """Every line of a code block that begins with `t1`."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"```(?:sh|bash)?\n(.*?)```", document.read_text(), flags=re.DOTALL):
            joined = block.replace("\\\n", " ")
            lines += [line.strip() for line in joined.splitlines() if re.match(r"\s*t1 ", line)]
    return lines


def test_readme_has_commands() -> None:
    assert len(command_lines()) >= 4


@pytest.mark.parametrize("line", command_lines())
def test_command_line_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    with t1.make_context("t1", [name], resilient_parsing=True) as context:
        command = t1.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
        command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("path", sorted((ROOT / "infra" / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_config_is_valid(path: Path) -> None:
    assert load_settings(str(path), {}).db


def test_the_example_config_shows_the_defaults() -> None:
    shown = load_settings(str(ROOT / "infra" / "configs" / "index.toml"), {})
    defaults = IndexSettings(db=shown.db)
    assert shown.model_copy(update={"corpus": shown.corpus.model_copy(update={"uris": ()})}) == defaults


def test_the_example_config_shows_the_defaults_of_the_query_side() -> None:
    shown = load_query_settings(str(ROOT / "infra" / "configs" / "index.toml"), {})
    assert shown == QuerySettings(db=shown.db)
