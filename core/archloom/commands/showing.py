"""`archloom report`, `archloom info` and `archloom plugins`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Write the run's report.html anew."""
    from ..report import write_report

    out.print(f"report: {write_report(folder)}")


def info(
    source: Annotated[
        str | None, typer.Argument(help="A named architecture, an architecture file, or a run folder.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square input; default: the network's own.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes")] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Say which compiled kernels run.")] = False,
) -> None:
    """Params and MACs of any named or found architecture. --set reference=true gives options to its space."""
    if kernels:
        from ..kernels import info as kernels_info

        print_json(kernels_info())
        return
    if source is None:
        raise ConfigError(
            "which network? Name one (archloom info fbnet_a), a file or a run folder; or ask for --kernels"
        )
    from ..config import override
    from ..cost import MACS, count
    from ..zoo import find

    found = find(source, source_host(source, plugin, trust=trust), override({}, sets or []))
    model = found.build(num_classes)
    shape = found.shape if resolution is None else (found.shape[0], resolution, resolution)
    cost = count(model, shape)
    classes = num_classes or len(found.classes or ()) or 1000
    facts = {
        "name": source,
        "params": cost.params,
        "macs": cost.macs,
        "input": list(shape),
        "num_classes": classes,
        "published": dict(found.published),
        "architecture": found.architecture.to_json(),
    }
    if as_json:
        print_json(facts)
        return
    table = make_table("", source)
    table.add_row("params", f"{cost.params:,}")
    table.add_row("MACs", f"{cost.macs:,}")
    table.add_row("input", "x".join(map(str, shape)))
    table.add_row("classes", str(classes))
    for name, value in found.published.items():
        table.add_row(f"published {name}", str(value))
    out.print(table)
    out.print(f"MACs: {MACS}.")


def list_plugins(plugin: PluginFiles = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List everything that is registered: name, kind, distribution, version, options."""
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
        table.add_row(entry.kind, entry.name, entry.distribution, entry.version, options)
    out.print(table)
