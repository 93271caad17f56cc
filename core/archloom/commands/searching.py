"""`archloom search` and `archloom resume`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import (
    Debug,
    DeviceOption,
    PluginFiles,
    PrecisionOption,
    Sets,
    Trust,
    make_host,
    make_table,
    out,
    progress,
)
from ..standing import number, quantity


def search(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/configuration.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", "--run", help="The run folder (under torchrun say --folder); default: new, in runs/."
        ),
    ] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first estimator that raises.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a search from a configuration file."""
    from ..config import read_config
    from ..session import search as run_search

    overrides = _overrides(sets, device, precision, plugin)
    if strict:
        overrides.append("strict=true")
    checked = read_config(config, overrides)
    host = make_host(checked.plugins)
    with progress() as notify:
        result = run_search(checked, folder, host=host, notify=notify)
    _print_result(result)


def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")],
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    device: DeviceOption = None,
    debug: Debug = False,
) -> None:
    """Go on with an interrupted run, or with a finished one under a larger budget."""
    from ..session import resume as run_resume
    from ..session.opening import reopened

    overrides = _overrides(sets, device, None, plugin)
    host = make_host(reopened(folder, overrides, trust=trust).plugins)
    with progress() as notify:
        result = run_resume(folder, overrides=tuple(overrides), host=host, notify=notify, trust=trust)
    _print_result(result)


def verdict(
    folder: Annotated[Path, typer.Argument(help="The folder of a search that has ended.")],
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    device: DeviceOption = None,
    debug: Debug = False,
) -> None:
    """Make the verdict of an ended search anew, with other settings (--set recipe.lr=0.01, --set verdict.seeds=5).

    What was trained with the same settings is kept; what failed is tried again.
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
        overrides.append(f"plugins={json.dumps([str(path.resolve()) for path in plugins])}")
    return overrides


def _print_result(result: Any) -> None:
    from ..objective import comparable

    if os.environ.get("RANK", "0") != "0":
        return
    if not result.complete:
        out.print(
            f"{result.reason}. Go on with: archloom resume {shlex.quote(str(result.folder))} --set budget.epochs=..."
        )
        return
    measured = sum(trial.source is None and trial.status != "infeasible" for trial in result.trials)
    out.print(f"{len(result.trials)} trials, {measured} measured; {result.reason}.")
    if result.architecture is None:
        heads = [_with_unit(name, result.units) for name in result.front[0].metrics]
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
    from ..columns import COSTS

    main = result.judged.column
    heads = [main.title, "spread", *(column.title for column in COSTS)]
    table = make_table("", "networks", "trainings", *heads, title="trained from scratch")
    for group in result.groups:
        reached = [main.text(group.value(main.metric)), main.text(group.metrics[main.metric].spread)]
        costs = [column.text(group.value(column.metric)) for column in COSTS]
        table.add_row(group.role, str(group.networks), str(group.trainings), *reached, *costs)
    for failure in result.failures:
        table.add_row(f"{failure.role} {failure.index}, seed {failure.seed}", "-", "failed", "-", "-")
    return table


def _with_unit(name: str, units: Mapping[str, str]) -> str:
    unit = units.get(name, "1")
    return name if unit in ("", "1") else f"{name}, {unit}"
