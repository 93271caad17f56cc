"""`archloom report`, `archloom info` and `archloom plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import (
    AsJson,
    Debug,
    PluginFiles,
    Sets,
    Trust,
    make_host,
    make_table,
    out,
    print_json,
    source_host,
)
from ..errors import ConfigError
from .export import SOURCE

if TYPE_CHECKING:
    from ..source import Source


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Write the report.html of a run again."""
    from ..report import write_report

    out.print(f"report: {write_report(folder)}")


def info(
    source: Annotated[str | None, typer.Argument(help=SOURCE)] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square input; default: the network's own.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes")] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Show which compiled kernels are in use.")
    ] = False,
) -> None:
    """Count the params and MACs of a network (--set reference=true sets an option of its space)."""
    if kernels:
        from ..kernels import info as kernels_info

        print_json(kernels_info())
        return
    if source is None:
        raise ConfigError("name a network (archloom info fbnet_a), a file or a folder; or ask for --kernels")
    from ..config_files import override
    from ..cost import MACS, count
    from ..source import open_source

    host = source_host(source, plugin, trust=trust)
    opened = open_source(source, host, options=override({}, sets or []))
    model = opened.build(num_classes)
    if resolution is not None and len(opened.shape) != 3:
        raise ConfigError(
            f"a resolution is of images, and an input of {source} has shape {opened.shape}; leave it out"
        )
    shape = opened.shape if resolution is None else (opened.shape[0], resolution, resolution)
    cost = count(model, shape)
    gives = _gives(opened, num_classes)
    published = {} if opened.found is None else dict(opened.found.published)
    facts = {
        "name": source,
        "params": cost.params,
        "macs": cost.macs,
        "input": list(shape),
        **gives,
        "published": published,
        opened.kind: opened.document[opened.kind],
    }
    if as_json:
        print_json(facts)
        return
    table = make_table("", source)
    table.add_row("params", f"{cost.params:,}")
    table.add_row("MACs", f"{cost.macs:,}")
    table.add_row("input", "x".join(map(str, shape)))
    for name, value in gives.items():
        table.add_row(
            name.removeprefix("num_"), "x".join(map(str, value)) if name == "outputs" else str(value)
        )
    for name, value in published.items():
        table.add_row(f"published {name}", str(value))
    out.print(table)
    out.print(f"MACs: {MACS}.")


def _gives(opened: Source, num_classes: int | None) -> dict[str, Any]:
    """How many classes a network tells apart, or the shape of one output."""
    if num_classes is None and opened.outputs is not None:
        return {"outputs": list(opened.outputs)}
    return {"num_classes": num_classes or len(opened.classes or ()) or 1000}


def list_plugins(plugin: PluginFiles = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List everything that is registered, with its options and where it comes from."""
    host = make_host(plugin)
    if as_json:
        listing = {
            "plugins": [entry.to_json() for entry in host.entries()],
            "broken": [str(broken) for broken in host.broken],
        }
        print_json(listing)
        return
    table = make_table("kind", "name", "distribution", "version", "options")
    for entry in host.entries():
        options = ", ".join(
            option.name + ("" if option.required else f"={option.default!r}") for option in entry.options
        )
        name = f"{entry.name} (default)" if entry.default else entry.name
        table.add_row(entry.kind, name, entry.distribution, entry.version, options)
    out.print(table)
