"""`archloom rank`: who ranks networks well?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..console import AsJson, Debug, DeviceOption, PluginFiles, Sets, err, make_host, out


def rank(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/ranking.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Where all is written; one that was begun is gone on with. Default: in runs/."
        ),
    ] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare how supernets and proxies rank networks with a table of what they reach when trained alone."""
    from ..ranking import rank as run_rank
    from ..ranking import read_rank

    overrides = [*(sets or []), *([f"device={device}"] if device else [])]
    checked = read_rank(config, overrides)
    files = list(dict.fromkeys([*checked.plugins, *(str(path) for path in plugin or [])]))
    checked = checked.model_copy(update={"plugins": files})
    host = make_host(files)
    with _progress() as notify:
        ranking = run_rank(checked, folder, host=host, notify=notify)
    if as_json:
        shown = {
            key: value for key, value in ranking.document.items() if key not in ("values", "architectures")
        }
        out.print_json(json.dumps({"folder": str(ranking.folder), **shown}))
        return
    _print(ranking.document)
    out.print(f"{escape(str(ranking.folder))}: rank.html to look at, rank.json for programs")


def _print(document: Mapping[str, Any]) -> None:
    from ..report.ranking import interval_text, remark

    truth, networks = document["truth"], document["networks"]
    lowest = ", the lowest held best" if truth.get("best") == "lowest" else ""
    title = (
        f"{networks:,} networks against {truth['metric']} ({truth['estimator']}{lowest}); "
        "in brackets 95 % intervals"
    )
    head = (
        "predictor",
        "tau",
        "rho",
        f"precision@{document['top']}",
        "tau, top tenth",
        "tau - tau of MACs",
        "",
    )
    table = Table(*head, title=escape(title))
    for row in document["rows"]:
        table.add_row(
            escape(row["name"]) + (" [dim](baseline)[/]" if row["baseline"] else ""),
            *(escape(interval_text(row[key])) for key in ("tau", "rho", "precision", "tau_top")),
            "" if row["name"] == "macs" else escape(interval_text(row["over"], signed=True)),
            escape(remark(row, networks)),
        )
    out.print(table)


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """One bar for each supernet's training and each predictor; elsewhere than on a terminal a line at each tenth."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "fit":
                label, number, of = f"training {event['supernet']}", event["unit"], event["of"]
            else:
                label, number, of = event["predictor"], event["number"], event["of"]
            if label not in tasks:
                tasks[label] = bars.add_task(escape(label), total=of)
            bars.update(tasks[label], completed=number)
            if not err.is_terminal and (number == of or number % max(1, of // 10) == 0):
                err.print(escape(f"{label}: {number}/{of}"))

        yield notify
