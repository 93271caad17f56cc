"""`archloom compare`: strategies against each other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import (
    AsJson,
    Debug,
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
from ..plugin_files import absolute
from ..progress import Steps
from ..standing import with_unit


def compare(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/compare.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output folder; default: runs/compare-NAME. An interrupted comparison in it is resumed.",
        ),
    ] = None,
    former: OldFolder = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare strategies under many seeds, on one space and with one budget. Random search always takes part."""
    from ..comparing import compare as run_comparison
    from ..comparing import read_comparison

    overrides = list(sets or [])
    if plugin:
        overrides.append(f"plugins={json.dumps([absolute(path) for path in plugin])}")
    comparison = read_comparison(config, tuple(overrides))
    host = make_host(comparison.shared.plugins)
    target = output_folder(folder, former) or Path("runs") / f"compare-{config.stem}"
    with Steps(err, lambda label, number, of: f"{number} of {of} {label}") as steps:
        done = itertools.count(1)

        def notify(event: Mapping[str, Any]) -> None:
            if event["event"] == "run":
                steps("searches", next(done), event["of"])

        notify.title = "the progress display"  # type: ignore[attr-defined]
        try:
            compared = run_comparison(comparison, target, host=host, notify=notify)
        except KeyboardInterrupt:
            err.print(f"finished searches are kept in {target}; the same command resumes")
            raise
    if as_json:
        print_json(compared.document)
        return
    for label, scored in compared.document["scores"].items():
        _print_score(compared.document["protocol"], label, scored)
    out.print(
        f"all numbers: {compared.folder / 'comparison.json'}   page: {compared.folder / 'comparison.html'}"
    )


def _print_score(protocol: Mapping[str, Any], label: str, scored: Mapping[str, Any]) -> None:
    from ..comparing.page import interval
    from ..objective import exact

    title = f"{label}: {with_unit('mean regret', scored['unit'])}, {protocol['seeds']} seeds"
    if "floor" in scored:
        title += f"; of exhaustive search {scored['floor']:.3g}"
    heads = [f"{exact(at)} {protocol['axis']}" for at in protocol["at"]]
    table = make_table("strategy", *heads, "p, Wilcoxon", "p, bootstrap", title=title)
    last = {test["strategy"]: test for test in scored["tests"] if test["at"] == protocol["at"][-1]}
    for name, curve in scored["curves"].items():
        cells = []
        for at in protocol["at"]:
            there = at in curve["at"]
            n = curve["at"].index(at) if there else -1
            cells.append(interval(curve["mean"][n], curve["low"][n], curve["high"][n]) if there else "-")
        test = last.get(name)
        tested = [f"{test[kind]:.2g}" for kind in ("wilcoxon_holm", "bootstrap_holm")] if test else ["", ""]
        table.add_row(name, *cells, *tested)
    out.print(table)
