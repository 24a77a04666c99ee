"""Queries as a command is given them: on its line, in files, from standard input; each with its task.

Called by jobs; loads no model and starts no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

from pipeline.corpus.queries import read_queries
from pipeline.errors import SettingsError
from pipeline.flows.trajectory_import import task_of_name
from pipeline.records import Query


def read_asked(texts: Sequence[str], files: Sequence[str | TextIO], *, task: str | None = None) -> list[Query]:
    """Every query, in order.

    Args:
        texts: Queries as text; blank ones are left out.
        files: As `read_queries` takes them; several whose names tell their tasks have these before their ids.
        task: Of all; else of a file what its name begins with, if that is a task, and of a row what it says.

    Raises:
        SettingsError: there is none.
        CorpusError: a file has none, or a row is not one.
    """
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
