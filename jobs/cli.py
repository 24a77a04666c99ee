"""`t1`: a group whose commands are imported when they are called, and errors as one plain sentence.

`t1 --help` must be instant, so names and one-line helps are spelled out here and nothing else is loaded.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

import click

from pipeline import __version__

# name -> (module, one line); the command in a module has the same name
_COMMANDS = {
    "index": ("jobs.index", "Turn a corpus into vectors in a Lance table, check them, publish them as `live`."),
    "reason": ("jobs.reason", "Have a model reason about queries, and keep what it writes."),
    "search": ("jobs.search", "Ask a published table questions."),
    "eval": ("jobs.eval", "Measure modes of search on BEIR and BRIGHT collections."),
    "publish": ("jobs.publish", "Put a version through the gate and point `live` at it."),
    "rollback": ("jobs.rollback", "Point `live` back at a version that was live before."),
    "verify": ("jobs.verify", "Make every check of the gate on a version, and change nothing."),
    "status": ("jobs.status", "Say what is in a database: versions, runs, quarantine, and who is writing."),
    "cache": ("jobs.cache", "See, export, prune and import the trajectories that a database keeps."),
    "demo": ("jobs.demo", "Index the documentation of Python itself, and ask it something."),
}

# What a search past its deadline leaves running; in the midst of native code, it aborts a process that ends as usual.
_LEFT_BEHIND = {"t1-loading", "t1-thinking"}

# Where a function cannot have the command's name.
_FUNCTIONS = {"eval": "eval_"}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order a user meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now."""
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[name][0])
        command = getattr(module, _FUNCTIONS.get(name, name))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="t1")
@click.option("-v", "--verbose", is_flag=True, help="Log more, and show tracebacks.")
@click.pass_context
def t1(ctx: click.Context, verbose: bool) -> None:
    """T1 Index: a corpus of documents becomes a reasoning-aware search index.

    Results go to stdout, everything said on the way to stderr. Exit codes: 0 done, 2 a mistake in what was asked for,
    3 too many bad documents, 4 the gate refused to publish, 5 the corpus changed meanwhile, 6 another run holds the
    table, 1 anything else.
    """
    ctx.obj = verbose
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)


def main() -> None:
    """The console script."""
    # said by libraries, not by us: Lance warns at every fork, tokenizers at every fork of a process that has used it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # what asks Ray for something after we have ended it is to be told so, and not to start another
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    code = _run(sys.argv[1:])
    if any(thread.name in _LEFT_BEHIND for thread in threading.enumerate()):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    from pipeline.errors import T1Error

    try:
        result: Any = t1.main(args=arguments, prog_name="t1", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "t1"
        sentence = " ".join(error.format_message().split()).rstrip(".")
        print(f"t1: {sentence}; see `{command} --help`", file=sys.stderr)
        return 2
    except click.Abort:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except T1Error as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        print(f"t1: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except SystemExit as error:
        # Ray makes one of the signal with which schedulers and `ray job stop` end a driver
        if error.code != signal.SIGTERM:
            raise
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
