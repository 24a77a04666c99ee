"""What people see: sentences on stderr, and hits as a table with the query's words highlighted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SNIPPET_CHARS = 280
_MIN_WORD_CHARS = 3


def sayer(*, quiet: bool) -> Callable[[str], None]:
    """What says one sentence on stderr, or nothing."""
    return (lambda sentence: None) if quiet else partial(click.echo, err=True)


def print_hits(query: str, hits: Sequence[Any], *, console: Console | None = None) -> None:
    """Prints one query's hits, best first."""
    console = console or Console()
    words = {w for w in re.findall(r"\w+", query.lower()) if len(w) >= _MIN_WORD_CHARS}
    table = Table(title=Text(query, style="bold"), title_justify="left", show_lines=False, expand=True)
    table.add_column("score", justify="right", width=6)
    table.add_column("document", ratio=1, overflow="fold")
    table.add_column("text", ratio=3)
    for hit in hits:
        table.add_row(f"{hit.score:.3f}", Text(hit.title or hit.id), highlight(snippet(hit.text, words), words))
    if not hits:
        table.add_row("", Text("nothing found", style="dim"), "")
    console.print(table)


def snippet(text: str, words: set[str]) -> str:
    """About `_SNIPPET_CHARS` characters of a text round the first of the words that it holds."""
    flat = " ".join(text.split())
    if len(flat) <= _SNIPPET_CHARS:
        return flat
    found = [m.start() for m in re.finditer(r"\w+", flat) if m.group().lower() in words]
    begin = max(0, (found[0] if found else 0) - _SNIPPET_CHARS // 4)
    begin = min(begin, len(flat) - _SNIPPET_CHARS)
    return (
        ("…" if begin else "")
        + flat[begin : begin + _SNIPPET_CHARS]
        + ("…" if begin + _SNIPPET_CHARS < len(flat) else "")
    )


def highlight(text: str, words: set[str]) -> Text:
    """The text with the words in bold."""
    shown = Text(text)
    for match in re.finditer(r"\w+", text):
        if match.group().lower() in words:
            shown.stylize("bold yellow", match.start(), match.end())
    return shown
