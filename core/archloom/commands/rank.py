"""`archloom rank`: predictors of accuracy against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import (
    AsJson,
    Debug,
    DeviceOption,
    OldFolder,
    PluginFiles,
    Sets,
    err,
    make_host,
    make_table,
    out,
    output_folder,
    print_json,
)
from ..progress import Steps


def rank(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/ranking.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output folder; default: a new one in runs/. An interrupted ranking in it is resumed.",
        ),
    ] = None,
    former: OldFolder = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare how supernets and proxies rank networks with how the networks rank when trained from scratch."""
    from ..ranking import rank as run_rank
    from ..ranking import read_rank

    overrides = [*(sets or []), *([f"device={device}"] if device else [])]
    folder = output_folder(folder, former)
    checked = read_rank(config, overrides)
    files = list(dict.fromkeys([*checked.plugins, *(str(path) for path in plugin or [])]))
    checked = checked.model_copy(update={"plugins": files})
    host = make_host(files)
    with Steps(err, lambda label, number, of: f"{label}: {number}/{of}") as steps:
        ranking = run_rank(checked, folder, host=host, notify=_counted(steps))
    if as_json:
        shown = {
            key: value for key, value in ranking.document.items() if key not in ("values", "architectures")
        }
        print_json({"folder": str(ranking.folder), **shown})
        return
    _print(ranking.document)
    out.print(f"{ranking.folder}: rank.html is the page, rank.json has all numbers")


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
    table = make_table(*head, title=title)
    for row in document["rows"]:
        table.add_row(
            row["name"] + (" (baseline)" if row["baseline"] else ""),
            *(interval_text(row[key]) for key in ("tau", "rho", "precision", "tau_top")),
            "" if row["name"] == "macs" else interval_text(row["over"], signed=True),
            remark(row, networks),
        )
    out.print(table)


def _counted(steps: Steps) -> Callable[[dict[str, Any]], None]:
    """Each supernet's training and each predictor as steps."""

    def notify(event: dict[str, Any]) -> None:
        if event["event"] == "fit":
            steps(f"training {event['supernet']}", event["unit"], event["of"])
        else:
            steps(event["predictor"], event["number"], event["of"])

    notify.title = "the progress display"  # type: ignore[attr-defined]
    return notify
