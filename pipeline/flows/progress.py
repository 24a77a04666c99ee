"""What a run says while it works: a live display on a terminal, plain lines otherwise; always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_INTERVAL_S = 15.0
# Longer than a model takes to load; then twice as long each time.
_SILENCE_S = 60.0


class Reporter:
    """Says one thing at a time: a sentence, or how far the work is."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=None, visible=False, note="") if progress else None
        self._total = 0
        self._what = "documents"
        self._begin = time.monotonic()
        self._said = self._moved = self._begin

    def say(self, sentence: str) -> None:
        """One plain sentence on stderr."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def start(self, total: int, what: str = "documents") -> None:
        """Work begins; so many documents, or whatever else, are to come."""
        self._total, self._what = total, what
        self._begin = self._said = self._moved = time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, total=total, visible=True, description=what)

    def advance(self, num_documents: int, *, num_tokens: int, num_slots: int, num_quarantined: int) -> None:
        """How far it is, counted from `start`."""
        self._moved = time.monotonic()
        elapsed = max(self._moved - self._begin, 1e-9)
        rate = num_tokens / elapsed
        note = f"{rate:,.0f} tokens/s"
        if num_slots:
            note += f", {num_slots / max(num_tokens, 1):.2f} slots a token"
        if num_quarantined:
            note += f", {num_quarantined} quarantined"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=num_documents, note=note)
        elif time.monotonic() - self._said >= _PLAIN_INTERVAL_S:
            self._said = time.monotonic()
            left = elapsed / max(num_documents, 1) * (self._total - num_documents)
            self.say(f"{num_documents:,} of {self._total:,} {self._what} done, {note}, about {_duration(left)} left")

    @contextmanager
    def watching(self, describe: Callable[[], str], *, silence_s: float = _SILENCE_S) -> Iterator[None]:
        """Within the block, says when nothing has advanced for long, from a thread: who waits for Ray cannot.

        Args:
            describe: Says what there is to work with.
            silence_s: Seconds before the first time; each further time comes after twice as long.
        """
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over, describe, silence_s), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()

    def _watch(self, over: threading.Event, describe: Callable[[], str], silence_s: float) -> None:
        seen, due = self._moved, silence_s
        while not over.wait(max(seen + due - time.monotonic(), 0.0)):
            if self._moved != seen:
                seen, due = self._moved, silence_s
            elif time.monotonic() >= seen + due:
                self.say(f"nothing was finished for {_duration(time.monotonic() - seen)}: {describe()}")
                due *= 2


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def reporting(*, quiet: bool = False) -> Iterator[Reporter]:
    """A reporter for the block; a live display when stderr is a terminal."""
    console = Console(stderr=True, quiet=quiet)
    if quiet or not sys.stderr.isatty():
        yield Reporter(console, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield Reporter(console, progress)
