"""`archloom bench`: how fast the kernels are on this machine."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from ..console import Debug, out
from ..errors import ConfigError


def bench(
    ops: Annotated[list[str] | None, typer.Argument(help="Operations; default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="float32, contiguous, nine candidates.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile too, which takes seconds per case.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Measuring time per case.")] = 2.0,
    folder: Annotated[Path, typer.Option("--out", help="Where the table, picture and figures go.")] = Path(
        "benchmarks/results"
    ),
    name: Annotated[str, typer.Option(help="The files' name.")] = "kernels",
    threads: Annotated[
        int | None, typer.Option(help="PyTorch's threads; default: as they are.", min=1, max=1024)
    ] = None,
    debug: Debug = False,
) -> None:
    """Time the kernels against eager PyTorch, its own fused ops, torch.compile and a copy, all in each round.

    Ties and losses are printed as well. `archloom --default-allocator bench` leaves glibc as it is.
    """
    import torch

    from .. import kernels
    from ..kernels.bench import measure
    from ..kernels.report import machine, table, write
    from ..kernels.workloads import cases

    if not kernels.status().native:
        raise ConfigError(f"the compiled kernels are not in use: {kernels.status().reasons['cpu']}")
    if unknown := set(ops or ()) - set(kernels.OPERATIONS):
        raise ConfigError(
            f"no operation {', '.join(sorted(unknown))}; known: {', '.join(kernels.OPERATIONS)}"
        )
    if threads:
        torch.set_num_threads(threads)
    environment = machine(kernels.allocator())
    for key, value in environment.items():
        out.print(f"{key}: {value}")
    rows = []
    for case in cases(ops or None, quick=quick):
        measured = measure(case, seconds=seconds, compiled=compiled)
        rows += measured
        out.print(table(measured).split("\n", 2)[2], end="", markup=False)
        gc.collect()
    for path in write(folder, name, rows, environment):
        out.print(str(path))
