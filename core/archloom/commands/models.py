"""`archloom retrain` and `archloom evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..console import AsJson, Debug, PluginFiles, Sets, number, out, progress, source_host


def retrain(
    source: Annotated[
        str, typer.Argument(help="A run folder, an architecture file, a model's YAML file, or a name.")
    ],
    task: Annotated[str | None, typer.Option(help="A task by name; default: the run's.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe by name, or a YAML file of its fields; default: the run's.")
    ] = None,
    sets: Sets = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where weights and metrics go.")] = None,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Train a found or named architecture from scratch. --set task.train_size=500, --set recipe.epochs=90."""
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
            host=source_host(source, plugin),
            notify=notify,
        )
    table = Table("metric", "value", title=f"trained from scratch: {source}")
    for name, value in trained.metrics.items():
        table.add_row(name, number(value))
    out.print(table)
    out.print(f"weights: {trained.folder / 'weights.safetensors'}")


def evaluate(
    source: Annotated[
        str, typer.Argument(help="A run folder, an architecture file, a model's YAML file, or a name.")
    ],
    weights: Annotated[Path | None, typer.Option(help="A weights file; default: the run's.")] = None,
    task: Annotated[str | None, typer.Option(help="A task by name; default: the run's.")] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    sets: Sets = None,
    device: str = "cpu",
    precision: str = "float32",
    plugin: PluginFiles = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Judge trained weights on a split."""
    from ..retraining import evaluate as run_evaluate

    metrics = run_evaluate(
        source,
        weights,
        task=task,
        split=split,
        overrides=sets or [],
        device=device,
        precision=precision,
        host=source_host(source, plugin),
    )
    if as_json:
        print(json.dumps(metrics, indent=1))
        return
    table = Table("metric", split)
    for name, value in metrics.items():
        table.add_row(name, number(value))
    out.print(table)
