"""What the commands share: the two consoles, the options' types, the plugin host, progress.

Both consoles print text as it is: what stands in brackets or between colons is the user's, and no markup.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import ConfigError
from .progress import Bars, Lines
from .standing import number
from .streams import Stream

_plain = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
_stdout, _stderr = Stream("stdout"), Stream("stderr")
# a pipe or a file has no width: tables get room there, or what COLUMNS says
_width = None if _stdout.isatty() or "COLUMNS" in os.environ else 160
out = Console(file=_stdout, width=_width, **_plain)  # type: ignore
err = Console(file=_stderr, **_plain)  # type: ignore

PluginFiles = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A plugin in one Python file. Can be repeated.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set one key of the configuration: budget.trials=20. Can be repeated."),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the folder's plugin files even if they never ran on this machine."),
]
OldFolder = Annotated[Path | None, typer.Option("--folder", "--run", hidden=True)]
"""The former names of `--out`, accepted in this version."""
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or float16.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback if there is an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_started: list[str] = []  # the run folder that this process works in, for the message after Ctrl-C


def output_folder(out_folder: Path | None, former: Path | None) -> Path | None:
    """The folder named by `--out`, or by a former name of that option, which is warned about."""
    if former is None:
        return out_folder
    if out_folder is not None:
        raise ConfigError("--out and --folder name the output folder twice; use --out alone")
    if os.environ.get("RANK", "0") == "0":
        warn("--folder and --run are now called --out; a later version will not know the old names")
    return former


def how_to_resume() -> str:
    """What to type to resume the interrupted run; empty if none was started."""
    return f". Resume with: archloom resume {shlex.quote(_started[-1])}" if _started else ""


def warn(message: object) -> None:
    """A warning for people."""
    err.print(Text("warning: ", "yellow") + Text(str(message)))


def complain(message: object) -> None:
    """What went wrong, for people."""
    err.print(Text("error: ", "red") + Text(str(message)))


def print_json(value: Any) -> None:
    """A document for programs."""
    out.file.write(json.dumps(value, indent=1, default=str) + "\n")
    out.file.flush()


def make_host(files: Sequence[Any] | None) -> Any:
    """The plugins, the user's files among them; what is broken is warned of."""
    from .plugins import Host

    host = Host(files or [])
    for broken in host.broken:
        warn(broken)
    return host


def source_host(source: str | Path, files: Sequence[Path] | None, *, trust: bool = False) -> Any:
    """The plugins for a SOURCE: the files named here, and those that the configuration beside it names.

    Those of a folder run only where they ran on this machine before, or are trusted.
    """
    from .source import plugins_beside

    return make_host(plugins_beside(source, files or [], trust=trust))


@contextmanager
def progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Events as a live display on a terminal, as lines elsewhere. Silent on other ranks.

    Results are printed after the block: a live display that still runs is drawn again over them.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda event: None
        return
    with Bars(err) if err.is_terminal else Lines(err) as show:

        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                _started.append(event["folder"])
            show(event)

        notify.title = "the progress display"  # type: ignore[attr-defined]
        yield notify


def make_table(*heads: str, title: str | None = None) -> Table:
    """A table; on a narrow screen without the lines between columns, so that the figures have room."""
    if out.width >= 100:
        return Table(*heads, title=title)
    return Table(*heads, title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)


def print_metrics(metrics: Mapping[str, float], *, value: str = "value", title: str | None = None) -> None:
    """Name and figure of each metric, as a table."""
    table = make_table("metric", value, title=title)
    for name, figure in metrics.items():
        table.add_row(name, number(figure))
    out.print(table)
