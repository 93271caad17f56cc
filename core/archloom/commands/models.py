"""`archloom retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Debug, PluginFiles, Sets, Trust, make_table, out, progress, source_host
from ..standing import quantity


def retrain(
    source: Annotated[
        str, typer.Argument(help="A run folder, an architecture or model file, or the name of a network.")
    ],
    task: Annotated[str | None, typer.Option(help="A task by name; default: the run's.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe by name, or a YAML file; default: the run's.")
    ] = None,
    sets: Sets = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Output folder for weights and metrics.")
    ] = None,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    plugin: PluginFiles = None,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Train a network from scratch (--set task.train_size=500, --set recipe.epochs=90)."""
    from ..retraining import retrain as run_retrain

    with progress() as notify:
        trained = run_retrain(
            source,
            folder,
            task=task,
            recipe=recipe,
            overrides=sets or [],
            seed=seed,
            device=device,
            precision=precision,
            host=source_host(source, plugin, trust=trust),
            notify=notify,
        )
    table = make_table("metric", "value", title=f"trained from scratch: {source}")
    for name, value in trained.metrics.items():
        table.add_row(name, quantity(value, trained.units[name]))
    out.print(table)
    out.print(f"weights: {trained.folder / 'weights.safetensors'}")
