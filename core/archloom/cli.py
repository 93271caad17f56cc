"""The command line: the tree of commands, and how errors are shown."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Annotated

import typer

from . import version
from .commands import bench, compare, export, judging, latency, look, models, rank, searching, showing
from .console import complain, err, how_to_resume, out, warn
from .errors import ArchloomError
from .kernels import keep_freed_memory
from .streams import open_standard_streams

app = typer.Typer(
    name="archloom",
    help="Neural-architecture search. Every space, strategy, estimator and task is a plugin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    searching.search,
    searching.resume,
    searching.verdict,
    models.retrain,
    judging.evaluate,
    judging.predict,
    look.look,
    export.export,
    rank.rank,
    showing.report,
    showing.info,
    compare.compare,
):
    app.command()(command)
app.command()(bench.bench)
app.command("plugins")(showing.list_plugins)
app.add_typer(latency.app, name="latency")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    default_allocator: Annotated[
        bool,
        typer.Option(
            "--default-allocator", help="Keep glibc's default settings: do not keep large freed buffers."
        ),
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("archloom").propagate = False
    if not default_allocator:
        keep_freed_memory()
    if show_version:
        out.print(version())
        raise typer.Exit


def main() -> None:
    """Entry point of the console script: errors become one or two lines and an exit code.

    Where it is asked to end (SIGTERM from a scheduler, SIGHUP from a terminal that goes away) it ends as after Ctrl-C.
    """
    open_standard_streams()
    asked = _end_like_ctrl_c()
    warnings.showwarning = lambda message, *_, **__: warn(message)
    code = _run(asked)
    for console in (out, err):
        console.file.flush()
    lost = getattr(out.file, "lost", None)
    if lost is not None and not code and not isinstance(lost, BrokenPipeError):
        complain(f"what the command said could not be written: {lost}")
        code = 1
    if code:
        sys.exit(code)


def _run(asked: list[int]) -> int:
    """Run the command that was typed; the exit code."""
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer hands Ctrl-C on as this value, other versions of it as Abort
            raise KeyboardInterrupt
        return code or 0
    except ArchloomError as error:
        if debug:
            raise
        complain(error)
        return 2
    except UnicodeEncodeError as error:
        if debug:
            raise
        complain(
            f"{error.object!a}: this locale's encoding, {error.encoding}, lacks a character of that; set PYTHONUTF8=1"
        )
        return 2
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; progress is saved" + how_to_resume())
        return 128 + (asked[-1] if asked else signal.SIGINT)
    except typer.Exit as leaving:
        return leaving.exit_code
    except SystemExit as leaving:  # rich's, where a help text meets a pipe that nobody reads any more
        if isinstance(leaving.__context__, BrokenPipeError):
            return 0
        raise
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            return int(error.exit_code)
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            complain(f"cannot use {error.filename}: {error.strerror or error} (--debug shows where)")
            return 2
        complain(f"{type(error).__name__}: {error} (--debug shows where)")
        return 1


def _end_like_ctrl_c() -> list[int]:
    """From now on SIGTERM and SIGHUP do what Ctrl-C does at the moment; the list gets their numbers."""
    asked: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # who ignores it (nohup) or has a handler keeps that; a thread cannot set one
        if (
            number is not None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(number) == signal.SIG_DFL
        ):
            signal.signal(number, handler)
    return asked
