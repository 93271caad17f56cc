"""`archloom latency ...`: latency tables of a space on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Debug, PluginFiles, Sets, make_host, out

app = typer.Typer(help="Latency tables of a space on this device.", no_args_is_help=True)


@app.command()
def build(
    space: Annotated[str, typer.Argument(help="A space by name.")],
    target: Annotated[Path, typer.Option("--out", help="The JSON file to write.")] = Path("latency.json"),
    task: Annotated[str, typer.Option(help="The task that gives input shape and classes.")] = "digits",
    sets: Sets = None,
    device: str = "cpu",
    batch: int = 1,
    runs: int = 30,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Measure every candidate of a space on this device. --set space.form=small, --set task.resolution=16."""
    from ..config import override, parse_part
    from ..latency import build_table
    from ..resolve import device_of, make
    from ..run import write_json

    host = make_host(plugin)
    parts = override({"space": {"type": space}, "task": {"type": task}}, sets or [])
    made_task = make(host, "task", parse_part(parts["task"], "task"))
    table = build_table(
        make(host, "space", parse_part(parts["space"], "space")),
        tuple(made_task.shape),
        len(made_task.classes),
        device=device_of(device),
        batch=batch,
        runs=runs,
    )
    write_json(target, table.to_json())
    out.print(f"{len(table.entries)} entries, {table.setting.device}, batch {batch}: {target}")
