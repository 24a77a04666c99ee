"""What `--help` says, as golden files: a change of an option is a change that somebody decided on."""

from __future__ import annotations

import inspect
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jobs.cli import t1 as group
from pipeline import __version__
from pipeline.settings import IndexSettings
from tests.golden import check_golden

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = group.list_commands(click.Context(group))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str) -> None:
    runner = CliRunner()
    done = runner.invoke(group, [*filter(None, [command]), "--help"], prog_name="t1", terminal_width=110)
    assert done.exit_code == 0
    check_golden(GOLDEN / f"t1{'-' if command else ''}{command}.txt", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_listed_as_its_own_help_opens(command: str) -> None:
    listed = CliRunner().invoke(group, ["--help"], terminal_width=110).stdout
    found = group.get_command(click.Context(group), command)
    assert found is not None
    assert found.name == command
    assert f"  {command} " in listed


def test_an_unknown_command_is_not_found() -> None:
    assert group.get_command(click.Context(group), "nonsense") is None


def test_every_option_of_index_sets_a_field_that_is_there() -> None:
    from jobs.index import _FIELDS, index

    options = {parameter.name for parameter in index.params} - {"settings_file", "quiet"}
    assert options == set(_FIELDS)
    for dotted in _FIELDS.values():
        model: Any = IndexSettings
        for name in dotted.split("."):
            assert name in model.model_fields, dotted
            model = model.model_fields[name].annotation


def test_choices_are_those_of_the_settings() -> None:
    from jobs.index import _FIELDS, index

    for parameter in index.params:
        if not isinstance(parameter.type, click.Choice):
            continue
        section, field = _FIELDS[str(parameter.name)].split(".")
        annotation = IndexSettings.model_fields[section].annotation
        assert inspect.isclass(annotation)
        wanted = str(annotation.model_fields[field].annotation)
        if "Format" in wanted:
            from pipeline.records import Format

            assert list(parameter.type.choices) == [str(f) for f in Format]
        else:
            assert all(f"'{choice}'" in wanted for choice in parameter.type.choices), wanted
            assert wanted.count("'") == 2 * len(parameter.type.choices)


def test_the_version(t1: Any) -> None:
    done: subprocess.CompletedProcess[str] = t1("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"t1, version {__version__}", "")
