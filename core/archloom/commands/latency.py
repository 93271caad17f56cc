"""`archloom latency ...`: latency tables of a space on this device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import AsJson, Debug, PluginFiles, Sets, make_host, make_table, out, print_json

TaskName = Annotated[
    str | None, typer.Option(help="The task, for its input shape and classes; else the plugins' default.")
]

app = typer.Typer(help="Latency tables of a space on this device.", no_args_is_help=True)


@app.command()
def build(
    space: Annotated[str, typer.Argument(help="A space by name.")],
    target: Annotated[Path, typer.Option("--out", help="The JSON file to write.")] = Path("latency.json"),
    task: TaskName = None,
    sets: Sets = None,
    device: str = "cpu",
    batch: int = 1,
    runs: int = 30,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Measure every candidate of a space on this device (--set space.form=small, --set task.resolution=16)."""
    from ..config import parse_part
    from ..config_files import override
    from ..defaults import default
    from ..folder import spare
    from ..latency import build_table
    from ..metrics import num_outputs
    from ..resolve import device_of, make
    from ..run import write_json

    host = make_host(plugin)
    parts = override(
        {"space": {"type": space}, "task": {"type": task or default(host, "task").name}}, sets or []
    )
    made_task = make(host, "task", parse_part(parts["task"], "task"))
    made = make(host, "space", parse_part(parts["space"], "space"))
    spare(
        target,
        _same_table(made, made_task, device_of(device), batch),
        "latency table of this space and setting",
    )
    table = build_table(
        made,
        tuple(made_task.shape),
        num_outputs(made_task),
        device=device_of(device),
        batch=batch,
        runs=runs,
    )
    write_json(target, table.to_json())
    out.print(f"{len(table.entries)} entries, {table.setting.device}, batch {batch}: {target}")


@app.command()
def check(
    space: Annotated[str, typer.Argument(help="A space by name.")],
    table: Annotated[
        Path | None, typer.Option(help="A table that `latency build` wrote; default: one is measured now.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="Check networks from this file (.csv, .csv.gz, .json) instead of measuring here."),
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="A device of the file; can be repeated. Default: all.")
    ] = None,
    train: Annotated[int | None, typer.Option(help="How many networks of the file are fitted to.")] = None,
    networks: Annotated[int, typer.Option(help="How many random networks are measured.", min=3)] = 100,
    calibrate: Annotated[int, typer.Option(help="Fit an offset and a factor to so many of them.", min=0)] = 0,
    target: Annotated[
        Path, typer.Option("--out", help="The page to write; the numbers come beside it as JSON.")
    ] = Path("latency-check.html"),
    task: TaskName = None,
    sets: Sets = None,
    device: str = "cpu",
    batch: Annotated[int | None, typer.Option(help="Images at once; default: the table's, or 1.")] = None,
    runs: Annotated[int, typer.Option(help="Rounds of measuring.", min=1)] = 30,
    threads: Annotated[int | None, typer.Option(help="CPU threads of PyTorch.", min=1, max=1024)] = None,
    seed: int = 0,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare measured latencies of whole networks with a table's sums, or with a learned predictor."""
    import torch

    from ..config import parse_part
    from ..config_files import override
    from ..defaults import default
    from ..errors import ConfigError
    from ..folder import spare
    from ..latency_check import check_file, page, read_measured
    from ..resolve import device_of, make
    from ..run import write_atomically, write_json

    host = make_host(plugin)
    parts = override(
        {"space": {"type": space}, "task": {"type": task or default(host, "task").name}}, sets or []
    )
    made = make(host, "space", parse_part(parts["space"], "space"))
    numbers = target.with_suffix(".json")
    spare(numbers, _is_check, "result of a latency check")
    spare(target, lambda data: b": archloom</title>" in data, "page of a latency check")
    if measured is not None:
        if table is not None or calibrate:
            raise ConfigError(
                "--measured checks what can be fitted to the file; it takes no --table, no --calibrate"
            )
        document = check_file(read_measured(measured, made), made, devices=on or (), train=train, seed=seed)
        title = f"Latency of {space}, {measured.name}"
    else:
        if threads:
            torch.set_num_threads(threads)
        made_task = make(host, "task", parse_part(parts["task"], "task"))
        known = _table(table, made, made_task, device_of(device), batch, runs)
        document = _measure_and_check(
            known, made, made_task, device_of(device), networks, calibrate, runs, seed
        )
        title = f"Latency of {space} on {known.setting.device}"
    write_json(numbers, document)
    write_atomically(target, page(document, title).encode())
    if as_json:
        print_json(document)
        return
    _print_agreement(document)
    out.print(f"page: {target}   all numbers: {numbers}")


def _same_table(space: Any, task: Any, device: Any, batch: int) -> Callable[[bytes], bool]:
    """Whether a file's content is a table of this space, geometry and setting: one that may be measured anew."""
    from ..documents import parse_json
    from ..errors import ConfigError
    from ..latency import LatencyTable, setting_of
    from ..metrics import num_outputs

    def same(data: bytes) -> bool:
        try:
            table = LatencyTable.from_json(parse_json(data, "the file"))
            table.check(space, tuple(task.shape), num_outputs(task))
        except ConfigError:
            return False
        return table.setting == setting_of(device, batch)

    return same


def _is_check(data: bytes) -> bool:
    """Whether a file's content is what an earlier check left."""
    try:
        found = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("devices"), dict)


def _table(path: Path | None, space: Any, task: Any, device: Any, batch: int | None, runs: int) -> Any:
    """The table from the file, checked to hold for this space and setting; without a file one measured now."""
    from ..latency import LatencyTable, build_table
    from ..metrics import num_outputs

    if path is None:
        shape, classes = tuple(task.shape), num_outputs(task)
        return build_table(space, shape, classes, device=device, batch=batch or 1, runs=runs)
    known = LatencyTable.read(path).check(space, tuple(task.shape), num_outputs(task))
    _same_setting(known.setting, device, batch or known.setting.batch)
    return known


def _measure_and_check(
    table: Any, space: Any, task: Any, device: Any, networks: int, calibrate: int, runs: int, seed: int
) -> dict[str, Any]:
    """Random networks, measured as a whole, against the table."""
    from ..latency_check import check_table, draw, measure_networks

    drawn = draw(space, networks, seed)
    # a network is measured several times in each round, and need not be as often as a layer
    rounds = max(1, runs // 3)
    timings = measure_networks(drawn, space, task, device=device, batch=table.setting.batch, rounds=rounds)
    return check_table(table, space, drawn, timings, calibrate=calibrate)


def _same_setting(then: Any, device: Any, batch: int) -> None:
    """A table of another device or batch is compared with nothing that is measured here."""
    from ..errors import ConfigError
    from ..latency import setting_of

    now = setting_of(device, batch)
    differing = [
        f"{name}: {getattr(then, name)} then, {getattr(now, name)} now"
        for name in ("device", "dtype", "batch", "threads")
        if getattr(then, name) != getattr(now, name)
    ]
    if differing:
        raise ConfigError(
            f"the table holds for another setting ({'; '.join(differing)}); build one for this, or set --device, "
            "--batch and --threads as they were"
        )


def _print_agreement(document: Mapping[str, Any]) -> None:
    table = make_table("device", "predictor", "networks", "MAPE %", "tau", "bias %")
    for device, entry in document["devices"].items():
        for name, found in entry["agreement"].items():
            told = f"{name}: {entry['learned']}" if name == "learned" else name
            table.add_row(
                device,
                told,
                str(found["networks"]),
                f"{found['mape']:.3g} [{found['mape_low']:.3g}, {found['mape_high']:.3g}]",
                f"{found['tau']:.3f} [{found['tau_low']:.3f}, {found['tau_high']:.3f}]",
                f"{found['bias']:+.2g}",
            )
    out.print(table)
