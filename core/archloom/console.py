"""What the commands share: the two consoles, the options' types, the plugin host, progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# a pipe or a file has no width: tables get room there
_width = None if sys.stdout.isatty() else 160
out = Console(highlight=False, soft_wrap=True, width=_width)
err = Console(stderr=True, highlight=False, soft_wrap=True)

PluginFiles = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file that registers things; can be repeated.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key: budget.trials=20; can be repeated.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the plugin files in the folder, though they never ran on this machine."
    ),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or float16.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_started: list[str] = []  # the run folder that this process works in, for the message after Ctrl-C


def how_to_resume() -> str:
    """What to type to go on with the interrupted run; nothing where none was started."""
    return f". Go on with: archloom resume {_started[-1]}" if _started else ""


def make_host(files: Sequence[Any] | None) -> Any:
    """The plugins, the user's files among them; what is broken is warned of."""
    from .plugins import Host

    host = Host(files or [])
    for broken in host.broken:
        err.print(f"[yellow]warning:[/] {escape(str(broken))}")
    return host


def source_host(source: str | Path, files: Sequence[Path] | None, *, trust: bool = False) -> Any:
    """The plugins for a SOURCE: the files named here, and those that the configuration beside it names.

    Those of a folder run only where they ran on this machine before, or are trusted.
    """
    from .source import plugins_beside

    return make_host(plugins_beside(source, files or [], trust=trust))


@contextmanager
def progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Events as a live progress bar on a terminal, as one line each elsewhere. Silent on other ranks."""
    if os.environ.get("RANK", "0") != "0":
        yield lambda event: None
        return
    from .progress import Bars, Lines

    with Bars(err) if err.is_terminal else Lines(err) as show:

        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                _started.append(event["folder"])
            show(event)

        yield notify


def number(value: float) -> str:
    """A figure for a table: whole ones with separators, others with four digits."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def print_metrics(metrics: Mapping[str, float], *, value: str = "value", title: str | None = None) -> None:
    """Name and figure of each metric, as a table."""
    table = Table("metric", value, title=title)
    for name, figure in metrics.items():
        table.add_row(name, number(figure))
    out.print(table)
