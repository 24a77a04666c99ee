"""The docstrings of Python's standard library as a corpus: some hundred documents that every machine already has.

Modules are parsed, never imported, so nothing of theirs runs. Called by the demo and by tests.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import CorpusError

DEMO_MODULES = (
    "argparse", "ast", "asyncio", "bisect", "calendar", "collections", "concurrent.futures", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "email.message", "enum", "fnmatch",
    "fractions", "functools", "glob", "gzip", "heapq", "hmac", "html", "http.client", "inspect", "io", "ipaddress",
    "json", "logging", "mimetypes", "multiprocessing.pool", "os", "pathlib", "pickle", "posixpath", "pprint", "queue",
    "random", "re", "secrets", "shlex", "shutil", "socket", "sqlite3", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "timeit", "tokenize", "traceback", "typing", "unittest.mock", "urllib.parse",
    "urllib.request", "uuid", "warnings", "weakref", "zipfile",
)  # fmt: skip
MIN_DOCSTRING_CHARS = 40
# Tests, tools and vendored packages: no part of the library that people call.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "ensurepip", "__pycache__"}
)
_KINDS = {ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def collect_docstrings(
    *, packages: Sequence[str] | None = None, max_documents: int | None = None
) -> Iterator[dict[str, Any]]:
    """Docstrings of public modules, classes, functions and methods, in the order of modules and lines.

    Args:
        packages: Modules such as "json" or "os.path", each with the modules below it; None for the whole library.
        max_documents: At most so many, taken from all modules alike; None for all.

    Yields:
        {"id": "json.dumps", "title": "json.dumps(obj, ...)", "text", "module", "kind", "line"}, where kind is
        module, class, function or method. Ids are unique; docstrings shorter than `MIN_DOCSTRING_CHARS` are left out.

    Raises:
        CorpusError: a package is not in the standard library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    modules = _find_modules(root, packages)
    if max_documents is None:
        for module, path in modules:
            yield from _module_rows(module, path)
        return
    yield from _spread([list(_module_rows(module, path)) for module, path in modules], max_documents)


def _spread(groups: Sequence[Sequence[dict[str, Any]]], num_rows: int) -> Iterator[dict[str, Any]]:
    """`num_rows` rows taken from all groups alike, so that a small sample is not all argparse; in the groups' order."""
    shares = [0] * len(groups)
    left = min(num_rows, sum(map(len, groups)))
    while left > 0:
        for index, group in enumerate(groups):
            if left > 0 and shares[index] < len(group):
                shares[index] += 1
                left -= 1
    for group, share in zip(groups, shares, strict=True):
        yield from group[:share]


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write rows as JSON lines; returns how many.

    Args:
        rows: JSON objects.
        path: Local file, replaced if it exists; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    num_rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
    return num_rows


def _find_modules(root: Path, packages: Sequence[str] | None) -> list[tuple[str, Path]]:
    modules = {_module_name(path.relative_to(root)): path for path in _public_files(root)}
    if packages is None:
        return sorted(modules.items())
    chosen: dict[str, Path] = {}
    for package in packages:
        # os.path is a name that os gives to another module.
        name = "posixpath" if package == "os.path" else package
        below = {module: path for module, path in modules.items() if f"{module}.".startswith(f"{name}.")}
        if not below:
            raise CorpusError(f"no public module {package!r} written in Python in {root}; expected names such as json")
        chosen |= below
    return sorted(chosen.items())


def _public_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        # Pruned here: site-packages may hold a hundred times as many files as the library.
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and _is_public(name))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py") and _is_public(name))


def _is_public(name: str) -> bool:
    return name == "__init__.py" or (name.removesuffix(".py").isidentifier() and not name.startswith("_"))


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_rows(module: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        with tokenize.open(path) as file:
            tree = ast.parse(file.read())
    except (SyntaxError, UnicodeDecodeError):
        # Templates and samples that only look like modules.
        return
    if text := _docstring(tree):
        yield {"id": module, "title": module, "text": text, "module": module, "kind": "module", "line": 1}
    seen: set[str] = set()
    for prefix, definition in _definitions(tree, ""):
        name = f"{prefix}{definition.name}"
        text = _docstring(definition)
        # A name defined twice, as in the branches of an `if`, is documented by its first definition.
        if not text or name in seen:
            continue
        seen.add(name)
        yield {
            "id": f"{module}.{name}",
            "title": f"{module}.{name}{_signature(definition)}",
            "text": text,
            "module": module,
            "kind": "method" if prefix and not isinstance(definition, ast.ClassDef) else _KINDS[type(definition)],
            "line": definition.lineno,
        }


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Public definitions of a module or class, also those inside `if` and `try`, but not inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            if child.name.startswith("_"):
                continue
            yield prefix, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            yield from _definitions(child, prefix)


def _docstring(node: ast.Module | Definition) -> str:
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
    return text if len(text) >= MIN_DOCSTRING_CHARS else ""


def _signature(definition: Definition) -> str:
    if isinstance(definition, ast.ClassDef):
        return f"({', '.join(ast.unparse(base) for base in definition.bases)})" if definition.bases else ""
    return f"({ast.unparse(definition.args)})"
