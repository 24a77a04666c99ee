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
# Two ways to join collections: each counts the same, as on BRIGHT's leaderboard; or each query does, as tests want it.
_OVER_COLLECTIONS = "mean over collections"
_POOLED = "queries of all collections together"


def sayer(*, quiet: bool) -> Callable[[str], None]:
    """What says one sentence on stderr, or nothing."""
    return (lambda sentence: None) if quiet else partial(click.echo, err=True)


def print_hits(
    query: str, hits: Sequence[Any], *, moves: Sequence[str] | None = None, console: Console | None = None
) -> None:
    """Prints one query's hits, best first, with how each moved where that is known."""
    console = console or Console()
    words = {w for w in re.findall(r"\w+", query.lower()) if len(w) >= _MIN_WORD_CHARS}
    table = Table(title=Text(query, style="bold"), title_justify="left", show_lines=False, expand=True)
    table.add_column("score", justify="right", width=6)
    if moves is not None:
        table.add_column("moved", justify="right", width=5)
    table.add_column("document", ratio=1, overflow="fold")
    table.add_column("text", ratio=3)
    for rank, hit in enumerate(hits):
        moved = [] if moves is None else [moves[rank]]
        table.add_row(f"{hit.score:.3f}", *moved, Text(hit.title or hit.id), highlight(snippet(hit.text, words), words))
    if not hits:
        table.add_row(*[""] * (1 + (moves is not None)), Text("nothing found", style="dim"), "")
    console.print(table)


def print_answer(answer: Any, *, explains: bool, console: Console | None = None) -> None:
    """Prints one query's hits, and on demand what was written about it and how that moved each hit."""
    console = console or Console()
    if explains and answer.trajectory:
        console.print(Text("reasoning: ", style="bold") + Text(answer.trajectory, style="italic"))
    if answer.note:
        console.print(Text(f"searched without reasoning: {answer.note}", style="dim"))
    moves = None
    if explains and answer.plain_ranks:
        moves = [_move(rank, answer.plain_ranks.get(hit.id)) for rank, hit in enumerate(answer.hits, 1)]
    print_hits(answer.query.text, answer.hits, moves=moves, console=console)


def _move(rank: int, before: int | None) -> str:
    """How far a hit rose or fell by reasoning."""
    if before is None:
        return "new"
    return "=" if before == rank else f"+{before - rank}" if before > rank else f"{before - rank}"


def print_evaluation(evaluation: Any, *, say: Callable[[str], None]) -> None:
    """The means of every mode and collection, and which differences are more than chance, as lines."""
    measure, modes = evaluation.measures[0], evaluation.modes
    width = max(len(name) for name in [*evaluation.collections, measure, _OVER_COLLECTIONS])
    say(f"{measure:<{width}}" + "".join(f"{mode:>17}" for mode in modes))
    for name in evaluation.collections:
        values = (evaluation.means[mode].get(name, {}).get(measure) for mode in modes)
        say(f"{name:<{width}}" + "".join(f"{'' if value is None else f'{value:.4f}':>17}" for value in values))
    if len(evaluation.collections) > 1:
        plain = (evaluation.mean_over_collections[mode][measure] for mode in modes)
        say(f"{_OVER_COLLECTIONS:<{width}}" + "".join(f"{value:>17.4f}" for value in plain))
    for found in evaluation.comparisons:
        say(
            f"{found.collection or _POOLED}: {found.mode} against {found.baseline} {found.difference:+.4f}, "
            f"p {found.p_value:.3g} (corrected {found.corrected_p_value:.3g}), {found.better} of {found.num_queries} "
            f"queries better, {found.worse} worse"
        )


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
