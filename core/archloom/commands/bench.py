"""`archloom bench`: speed of the kernels on this machine."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from ..console import Debug, out
from ..errors import ConfigError


def bench(
    ops: Annotated[list[str] | None, typer.Argument(help="Operations; default: all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only float32, contiguous tensors and nine candidates.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also measure torch.compile, which takes seconds per case.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Measuring time per case.")] = 2.0,
    folder: Annotated[
        Path, typer.Option("--out", help="Output folder for table, picture and numbers.")
    ] = Path("benchmarks/results"),
    name: Annotated[str, typer.Option(help="Name of the files.")] = "kernels",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; default: PyTorch's.", min=1, max=1024)
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure the kernels against eager PyTorch, its fused operations, torch.compile and a copy, interleaved.

    Ties and losses are printed too. `archloom --default-allocator bench` keeps glibc's default settings.
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
