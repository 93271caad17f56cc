"""`archloom look`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Debug, PluginFiles, Sets, Trust, out, source_host, warn
from .export import SourceArgument


def look(
    source: SourceArgument,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Output folder; default: look/ next to the source.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task by name; default: the source's.")] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square images; default: the source's.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Also print torchinfo's table of layers.")] = False,
    depth: Annotated[int, typer.Option(help="Depth of that table.")] = 3,
    seed: int = 0,
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Draw a network, its augmented training images and its learning-rate schedule on one page. Needs no weights."""
    from ..judging.looking import look as run_look
    from ..judging.looking import summary_table
    from ..trained import default_folder, open_trained

    trained = open_trained(
        source,
        task=task,
        overrides=sets or [],
        resolution=resolution,
        untrained=True,
        plugins=plugin or [],
        trust=trust,
        host=source_host(source, plugin, trust=trust),
    )
    if table:
        out.print(summary_table(trained, depth))
    if trained.task is None:
        warn(f"without training images: {trained.no_task}")
    out.print(f"page: {run_look(trained, folder or default_folder(source, 'look'), seed=seed)}")
