"""The command line: the tree of commands, and what becomes of an error."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated

import typer
from rich.markup import escape

from . import version
from .commands import bench, compare, export, judging, latency, look, models, rank, searching, showing
from .console import err, how_to_resume, out
from .errors import ArchloomError
from .kernels import keep_freed_memory

app = typer.Typer(
    name="archloom",
    help="Neural-architecture search in which every space, strategy and estimator is a plugin.",
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
        typer.Option("--default-allocator", help="Do not tell glibc to keep large buffers that were freed."),
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
    """Entry point of the console script: errors become one or two lines and an exit code."""
    debug = "--debug" in sys.argv
    warnings.showwarning = lambda message, *_, **__: err.print(f"[yellow]warning:[/] {escape(str(message))}")
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer hands Ctrl-C on as this value, other versions of it as Abort
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except ArchloomError as error:
        if debug:
            raise
        err.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; what was done is saved" + how_to_resume())
        sys.exit(130)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            sys.exit(error.exit_code)
        if debug:
            raise
        err.print(f"[red]error:[/] {type(error).__name__}: {escape(str(error))} (--debug shows where)")
        sys.exit(1)
