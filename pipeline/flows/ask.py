"""Queries as a command is given them: on its line, in files, from standard input; each with its task.

Called by jobs; loads no model and starts no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TextIO

from pipeline.corpus.queries import read_queries
from pipeline.errors import SettingsError
from pipeline.flows.trajectory_import import task_of_name
from pipeline.prompts import known_task
from pipeline.records import Query


def read_asked(
    texts: Sequence[str], files: Sequence[str | TextIO], *, task: str | None = None, own: Mapping[str, str] = {}
) -> list[Query]:
    """Every query, in order.

    Args:
        texts: Queries as text; blank ones are left out.
        files: As `read_queries` takes them; several whose names tell their tasks have these before their ids.
        task: Of all; else of a file what its name begins with, if that is a task, and of a row what it says.
        own: Tasks of somebody's own, with their instructions.

    Raises:
        SettingsError: there is none, one on the line is not UTF-8, or there is no such task.
        CorpusError: a file has none, or a row is not one.
    """
    task = known_task(task, own=own) if task else task
    for number, text in enumerate(texts, 1):
        if not _is_utf8(text):
            raise SettingsError(f"query {number} on the line is not UTF-8; write it in UTF-8, or put it into a file")
    asked = [Query(str(number), text.strip(), task=task or "") for number, text in enumerate(texts, 1) if text.strip()]
    for file in files:
        name = task_of_name(file) if isinstance(file, str) else ""
        prefix = f"{name}/" if name and len(files) > 1 else ""
        asked += [
            replace(query, id=f"{prefix}{query.id}", task=task or query.task or name) for query in read_queries(file)
        ]
    if not asked:
        raise SettingsError('no query was given; write "a question" on the line, or pass --file FILE (- for stdin)')
    return asked


def _is_utf8(text: str) -> bool:
    """An argument's bytes that are not come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
