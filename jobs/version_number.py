"""The number of a version, as options take it."""

from __future__ import annotations

import click

# What a table can count to.
_MAX = 2**63 - 1


def check_version(_: click.Context, parameter: click.Parameter, number: int | None) -> int | None:
    """The callback of an option; whether there is such a version is found out where the table is.

    Raises:
        click.BadParameter: no table has a version of this number.
    """
    if number is not None and not 1 <= number <= _MAX:
        raise click.BadParameter(
            f"{number} is no version; they are counted from 1, and `t1 status` lists them", param=parameter
        )
    return number
