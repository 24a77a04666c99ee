"""`t1 demo`."""

from __future__ import annotations

import json
from typing import Any

import click

QUESTIONS = (
    "How do I turn a Python object into JSON text?",
    "copy a whole directory tree",
    "run another program and capture what it prints",
)
_DEFAULT_FOLDER = ".t1-demo"


@click.command()
@click.option("--folder", default=_DEFAULT_FOLDER, show_default=True, help="Where the corpus and the table go.")
@click.option("--documents", type=click.IntRange(10, 100_000), default=400, show_default=True)
@click.option("--model", default="default", show_default=True, help="As in `t1 index`.")
def demo(folder: str, documents: int, model: str) -> None:
    """Index the documentation of Python itself, and ask it something.

    Collects the standard library's docstrings into JSONL, indexes them as `t1 index` would, asks three questions as
    `t1 search` would, and says what to try next.
    """
    from pipeline.flows.demo import run_demo

    report, answers = run_demo(folder, documents=documents, model=model, questions=QUESTIONS)
    from rich.console import Console

    from jobs.display import print_hits

    console = Console(stderr=True)
    for question, hits in answers:
        print_hits(question, hits, console=console)
    console.print(_next_steps(folder), markup=False, highlight=False)
    click.echo(json.dumps(report.as_json()))


def _next_steps(folder: str) -> str:
    lines: list[Any] = [
        "",
        "The default model was never trained to retrieve: its answers show the machinery, not T1's quality.",
        "Try next:",
        f'  t1 search --db {folder}/db "wait for a thread to finish"',
        f'  t1 search --db {folder}/db "sort a list" --where "metadata.kind = \'function\'" -k 3',
        f"  t1 status --db {folder}/db",
        f"  t1 index --corpus {folder}/corpus.jsonl --db {folder}/db  # again: nothing to encode",
        f"  t1 index --corpus {folder}/corpus.jsonl --db {folder}/db-minilm --model minilm",
        "  t1 index --corpus YOUR_FILES --db YOUR_DB --limit 100",
    ]
    return "\n".join(lines)
