"""What all benchmarks' commands share: a mistake in what was asked for is one sentence, as with `t1`."""

from __future__ import annotations

from typing import Any

import click

from pipeline.errors import T1Error


class Mistake(click.ClickException):
    """One sentence, and the exit code of mistakes."""

    exit_code = 2


class Benchmark(click.Command):
    """A command that says the pipeline's own errors in one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it.

        Raises:
            Mistake: the pipeline raised one of its errors.
        """
        try:
            return super().invoke(ctx)
        except T1Error as error:
            raise Mistake(str(error)) from error
