"""Rules of the house that no linter holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 250
HEAVY = {"torch", "ray", "lance", "lancedb", "transformers", "pyarrow", "pandas", "numpy", "s3fs", "boto3"}
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


@cache
def _files() -> list[Path]:
    """What a clone would hold: tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def _modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


MODULES = _modules("pipeline", "jobs", "infra")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_its_contract(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), (
        "needs a docstring: what it does, what it knows nothing about"
    )


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_fits_in_one_sitting(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LINES, f"{num_lines} lines; {MAX_LINES} are allowed: split it by what changes together"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_function_is_short_and_takes_few_things(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            num_parameters = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            num_lines = (node.end_lineno or 0) - node.lineno + 1
            assert num_lines <= 60, f"{node.name}: {num_lines} lines; 60 are allowed"
            # A command takes its options as parameters: click hands them over one by one.
            is_command = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
            takes_self = bool(arguments.args) and arguments.args[0].arg in {"self", "cls"}
            limit = 99 if is_command else 6 + takes_self
            assert num_parameters <= limit, f"{node.name}: {num_parameters} parameters; {limit} are allowed"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_named_for_what_it_is(path: Path) -> None:
    assert not VAGUE & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("module", ["jobs", "jobs.cli"])
def test_asking_for_help_loads_nothing_heavy(module: str) -> None:
    probe = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    # Joined here, so that this file does not hold what it forbids.
    words = ["/" + "work" + "/", "/" + "root" + "/", "/" + "tmp/w" + "/", "file" + ":///" + "[a-z]"]
    pattern = re.compile("|".join(words))
    found = [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in _files()
        for number, line in enumerate(_lines(path), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_credential_is_kept() -> None:
    pattern = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|ghp_[0-9A-Za-z]{30}|hf_[0-9A-Za-z]{30}")
    assert not [_name(path) for path in _files() for line in _lines(path) if pattern.search(line)]


def test_constraints_pin_exactly_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
