"""`archloom search` and `archloom resume`."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import (
    Debug,
    DeviceOption,
    OldFolder,
    PluginFiles,
    PrecisionOption,
    Sets,
    Trust,
    make_host,
    make_table,
    out,
    output_folder,
    progress,
)
from ..plugin_files import absolute
from ..standing import number, quantity, with_unit


def search(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/configuration.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The run folder, which must be new or empty; default: a new one in runs/."
        ),
    ] = None,
    former: OldFolder = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop when an estimator raises, instead of recording a failed trial."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a search from a configuration file."""
    from ..config_files import read_config
    from ..session import search as run_search

    overrides = _overrides(sets, device, precision, plugin)
    if strict:
        overrides.append("strict=true")
    checked = read_config(config, overrides)
    folder = output_folder(folder, former)
    host = make_host(checked.plugins)
    with progress() as notify:
        result = run_search(checked, folder, host=host, notify=notify)
    _print_result(result)


def resume(
    folder: Annotated[Path, typer.Argument(help="The run folder.")],
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    device: DeviceOption = None,
    debug: Debug = False,
) -> None:
    """Resume an interrupted run, or extend a finished one with a larger budget (--set budget.trials=200)."""
    from ..session import resume as run_resume
    from ..session.opening import reopened

    overrides = _overrides(sets, device, None, plugin)
    host = make_host(reopened(folder, overrides, trust=trust).plugins)
    with progress() as notify:
        result = run_resume(folder, overrides=tuple(overrides), host=host, notify=notify, trust=trust)
    _print_result(result)


def verdict(
    folder: Annotated[Path, typer.Argument(help="The run folder of a finished search.")],
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    device: DeviceOption = None,
    debug: Debug = False,
) -> None:
    """Repeat the verdict of a finished search with other settings (--set recipe.lr=0.01, --set verdict.seeds=5).

    Trainings with the same settings are reused; failed ones are tried again.
    """
    from ..session import verdict as run_verdict
    from ..session.opening import reopened

    overrides = _overrides(sets, device, None, plugin)
    host = make_host(reopened(folder, overrides, trust=trust).plugins)
    with progress() as notify:
        result = run_verdict(folder, overrides=tuple(overrides), host=host, notify=notify, trust=trust)
    _print_result(result)


def _overrides(
    sets: list[str] | None, device: str | None, precision: str | None, plugins: list[Path] | None
) -> list[str]:
    overrides = list(sets or [])
    if device:
        overrides.append(f"device={device}")
    if precision:
        overrides.append(f"precision={precision}")
    if plugins:
        overrides.append(f"plugins={json.dumps([absolute(path) for path in plugins])}")
    return overrides


def _print_result(result: Any) -> None:
    from ..objective import comparable

    if os.environ.get("RANK", "0") != "0":
        return
    if not result.complete:
        out.print(
            f"{result.reason}. Continue with: archloom resume {shlex.quote(str(result.folder))} --set budget.epochs=..."
        )
        return
    measured = sum(trial.source is None and trial.status != "infeasible" for trial in result.trials)
    out.print(f"{len(result.trials)} trials, {measured} measured; {result.reason}.")
    if result.architecture is None:
        heads = [with_unit(name, result.units.get(name, "1")) for name in result.front[0].metrics]
        table = make_table("trial", "architecture", *heads)
        for trial in result.front:
            table.add_row(
                str(trial.number), str(trial.architecture), *(f"{v:.4g}" for v in trial.metrics.values())
            )
        out.print(table)
        out.print(
            "This is the Pareto front; 'pick' in the configuration says how to choose one network from it."
        )
    else:
        out.print(f"found: {result.architecture}")
        trial = next(t for t in comparable(result.trials) if t.architecture == result.architecture)
        table = make_table("metric", "value", title="the found architecture")
        for name, value in trial.metrics.items():
            table.add_row(name, quantity(value, result.units.get(name, "1")))
        out.print(table)
    if result.groups or result.failures:
        out.print(_group_table(result))
        for failure in result.failures:
            out.print(f"{failure.role} {failure.index}, seed {failure.seed} failed: {failure.error}")
    if result.family:
        table = make_table("", "input", "params", "MACs", "file", title="the family that follows from it")
        for member in result.family:
            shape = "x".join(map(str, member.shape))
            table.add_row(member.name, shape, number(member.params), number(member.macs), member.file)
        out.print(table)
    for sentence in (*result.verdict, *result.problems):
        out.print(sentence[0].upper() + sentence[1:] + ".")
    out.print(f"run folder: {result.folder}   report: {result.folder / 'report.html'}")


def _group_table(result: Any) -> Any:
    """The groups of a verdict, by the columns of the verdict."""
    main, shown = result.judged.column, result.judged.costs
    heads = [main.title, "spread", *(column.title for column in shown)]
    table = make_table("", "networks", "trainings", *heads, title="trained from scratch")
    for group in result.groups:
        reached = [main.text(group.value(main.metric)), main.text(group.metrics[main.metric].spread)]
        costs = [column.text(group.value(column.metric)) for column in shown]
        table.add_row(group.role, str(group.networks), str(group.trainings), *reached, *costs)
    for failure in result.failures:
        table.add_row(f"{failure.role} {failure.index}, seed {failure.seed}", "-", "failed", "-", "-")
    return table
