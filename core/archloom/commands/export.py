"""`archloom export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import AsJson, Debug, PluginFiles, Sets, Trust, out, print_json, source_host, warn
from ..errors import ConfigError

SOURCE = "A run folder, a trained folder or safetensors export, an architecture or model file, or a network's name."
SourceArgument = Annotated[str, typer.Argument(help=SOURCE)]


def export(
    source: SourceArgument,
    format: Annotated[str, typer.Option(help="onnx, torch, torchscript, safetensors or timm.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Output folder; default: export/FORMAT next to the source.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A weights file; default: the source's.")] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square images; default: the source's.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="'dynamic', or the one batch size that the graph accepts.")
    ] = "dynamic",
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Export random weights, for example to measure speed.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="A task by name; default: the source's.")] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export a trained network. The exported file is read back and compared with the network before it is kept."""
    from ..exporting import export as run_export
    from ..exporting.card import outputs_name
    from ..trained import open_trained

    if batch != "dynamic" and not batch.isdecimal():
        raise ConfigError(f"--batch is 'dynamic' or a whole number of at least 1, not '{batch}'")
    trained = open_trained(
        source,
        weights,
        task=task,
        overrides=sets or [],
        resolution=resolution,
        untrained=untrained,
        plugins=plugin or [],
        trust=trust,
        host=source_host(source, plugin, trust=trust),
    )
    if trained.task is None:
        warn(f"checked on random images: {trained.no_task}")
    done = run_export(trained, format, folder, batch=None if batch == "dynamic" else int(batch))
    if as_json:
        facts = {
            "folder": str(done.folder),
            "file": str(done.file),
            "largest_difference": done.difference,
            "checked_on": done.checked_on,
        }
        print_json(facts)
        return
    out.print(f"{format}: {done.file}")
    given = outputs_name(trained)
    out.print(f"its {given} differ from the network's by at most {done.difference:.2g}, on {done.checked_on}")
