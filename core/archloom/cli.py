"""The command line. The only module that prints, parses arguments or exits."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import version
from .errors import ArchloomError, ConfigError

app = typer.Typer(
    name="archloom",
    help="Neural-architecture search in which every space, strategy and estimator is a plugin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
latency_app = typer.Typer(help="Latency tables of a space on this device.", no_args_is_help=True)
app.add_typer(latency_app, name="latency")

# a pipe or a file has no width: tables get room there
_width = None if sys.stdout.isatty() else 160
out = Console(highlight=False, soft_wrap=True, width=_width)
err = Console(stderr=True, highlight=False, soft_wrap=True)

PluginFiles = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file that registers things; can be repeated.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key: budget.trials=20; can be repeated.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or float16.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Entry point of the console script: errors become one or two lines and an exit code."""
    debug = "--debug" in sys.argv
    warnings.showwarning = lambda message, *_, **__: err.print(f"[yellow]warning:[/] {escape(str(message))}")
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer hands Ctrl-C on as this value, other versions of it as Abort
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except ArchloomError as error:
        if debug:
            raise
        err.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; what was done is saved" + _how_to_resume())
        sys.exit(130)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            sys.exit(error.exit_code)
        if debug:
            raise
        err.print(f"[red]error:[/] {type(error).__name__}: {escape(str(error))} (--debug shows where)")
        sys.exit(1)


_started: list[str] = []  # the run folder that this process works in, for the message after Ctrl-C


def _how_to_resume() -> str:
    return f". Go on with: archloom resume {_started[-1]}" if _started else ""


# -- search and resume ------------------------------------------------------------------------------


@app.command()
def search(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/configuration.md.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", "--run", help="The run folder (under torchrun say --folder); default: new, in runs/."
        ),
    ] = None,
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first estimator that raises.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a search from a configuration file."""
    from .config import read_config
    from .session import search as run_search

    overrides = _overrides(sets, device, precision, plugin)
    if strict:
        overrides.append("strict=true")
    checked = read_config(config, overrides)
    host = _host(checked.plugins)
    with _progress() as notify:
        _print_result(run_search(checked, folder, host=host, notify=notify))


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")],
    sets: Sets = None,
    plugin: PluginFiles = None,
    device: DeviceOption = None,
    debug: Debug = False,
) -> None:
    """Go on with an interrupted run, or with a finished one under a larger budget."""
    from .config import override
    from .session import read_stored
    from .session import resume as run_resume

    overrides = _overrides(sets, device, None, plugin)
    stored = override(read_stored(folder), overrides)
    host = _host(stored.get("plugins", []))
    with _progress() as notify:
        _print_result(run_resume(folder, overrides=tuple(overrides), host=host, notify=notify))


def _overrides(
    sets: list[str] | None, device: str | None, precision: str | None, plugins: list[Path] | None
) -> list[str]:
    overrides = list(sets or [])
    if device:
        overrides.append(f"device={device}")
    if precision:
        overrides.append(f"precision={precision}")
    if plugins:
        overrides.append(f"plugins={json.dumps([str(path.resolve()) for path in plugins])}")
    return overrides


def _host(files: list[Any] | None) -> Any:
    from .plugins import Host

    host = Host(files or [])
    for broken in host.broken:
        err.print(f"[yellow]warning:[/] {escape(str(broken))}")
    return host


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Events as a live progress bar on a terminal, as one line each elsewhere. Silent on other ranks."""
    if os.environ.get("RANK", "0") != "0":
        yield lambda event: None
        return
    from .progress import Bars, Lines

    with Bars(err) if err.is_terminal else Lines(err) as show:

        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                _started.append(event["folder"])
            show(event)

        yield notify


def _print_result(result: Any) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if not result.complete:
        out.print(f"{result.reason}. Go on with: archloom resume {result.folder} --set budget.epochs=...")
        return
    measured = sum(trial.source is None and trial.status != "infeasible" for trial in result.trials)
    out.print(f"{len(result.trials)} trials, {measured} measured; {result.reason}.")
    if result.architecture is None:
        table = Table("trial", "architecture", *result.front[0].metrics)
        for trial in result.front:
            table.add_row(
                str(trial.number), str(trial.architecture), *(f"{v:.4g}" for v in trial.metrics.values())
            )
        out.print(table)
        out.print(
            "This is the Pareto front; 'pick' in the configuration says how to choose one network from it."
        )
    else:
        out.print(f"found: {result.architecture}")
        trial = next(
            t for t in result.trials if t.architecture == result.architecture and t.scores is not None
        )
        table = Table("metric", "value", title="the found architecture")
        for name, value in trial.metrics.items():
            table.add_row(name, _number(value))
        out.print(table)
    if result.groups:
        table = Table(
            "",
            "networks",
            "trainings",
            "test top-1 %",
            "spread",
            "MACs",
            "params",
            "latency ms",
            title="trained from scratch",
        )
        for group in result.groups:
            spread = "-" if group.spread is None else f"{group.spread:.2f}"
            table.add_row(
                group.role,
                str(group.networks),
                str(group.trainings),
                f"{group.accuracy:.2f}",
                spread,
                f"{group.macs:,.0f}",
                f"{group.params:,.0f}",
                f"{group.latency:.2f}",
            )
        out.print(table)
    for sentence in result.verdict:
        out.print(sentence[0].upper() + sentence[1:] + ".")
    out.print(f"run folder: {result.folder}   report: {result.folder / 'report.html'}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


# -- after a search ---------------------------------------------------------------------------------


@app.command()
def retrain(
    source: Annotated[str, typer.Argument(help="A run folder, an architecture file, or a name.")],
    task: Annotated[str | None, typer.Option(help="A task by name; default: the run's.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe by name; default: the run's.")] = None,
    sets: Sets = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where weights and metrics go.")] = None,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Train a found or named architecture from scratch. --set task.train_size=500, --set recipe.epochs=90."""
    from .retraining import retrain as run_retrain

    with _progress() as notify:
        trained = run_retrain(
            source,
            folder,
            task=task,
            recipe=recipe,
            overrides=sets or [],
            seed=seed,
            device=device,
            precision=precision,
            host=_host(plugin),
            notify=notify,
        )
    table = Table("metric", "value", title=f"trained from scratch: {source}")
    for name, value in trained.metrics.items():
        table.add_row(name, _number(value))
    out.print(table)
    out.print(f"weights: {trained.folder / 'weights.safetensors'}")


@app.command()
def evaluate(
    source: Annotated[str, typer.Argument(help="A run folder, an architecture file, or a name.")],
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
    from .retraining import evaluate as run_evaluate

    metrics = run_evaluate(
        source,
        weights,
        task=task,
        split=split,
        overrides=sets or [],
        device=device,
        precision=precision,
        host=_host(plugin),
    )
    if as_json:
        print(json.dumps(metrics, indent=1))
        return
    table = Table("metric", split)
    for name, value in metrics.items():
        table.add_row(name, _number(value))
    out.print(table)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Write the run's report.html anew."""
    from .report import write_report

    out.print(f"report: {write_report(folder)}")


@app.command()
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
    as_json: AsJson = False,
    debug: Debug = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Say which compiled kernels run.")] = False,
) -> None:
    """Params and MACs of any named or found architecture. --set reference=true gives options to its space."""
    if kernels:
        from .kernels import info as kernels_info

        print(json.dumps(kernels_info(), indent=1))
        return
    if source is None:
        raise ConfigError(
            "which network? Name one (archloom info fbnet_a), a file or a run folder; or ask for --kernels"
        )
    from .config import override
    from .cost import MACS, count
    from .zoo import find

    found = find(source, _host(plugin), override({}, sets or []))
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
        print(json.dumps(facts, indent=1))
        return
    table = Table("", source)
    table.add_row("params", f"{cost.params:,}")
    table.add_row("MACs", f"{cost.macs:,}")
    table.add_row("input", "x".join(map(str, shape)))
    table.add_row("classes", str(classes))
    for name, value in found.published.items():
        table.add_row(f"published {name}", str(value))
    out.print(table)
    out.print(f"MACs: {MACS}.")


@app.command("plugins")
def list_plugins(plugin: PluginFiles = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List everything that is registered: name, kind, distribution, version, options."""
    host = _host(plugin)
    if as_json:
        listing = {
            "plugins": [entry.to_json() for entry in host.entries()],
            "broken": [str(broken) for broken in host.broken],
        }
        print(json.dumps(listing, indent=1, default=str))
        return
    table = Table("kind", "name", "distribution", "version", "options")
    for entry in host.entries():
        options = ", ".join(
            option.name + ("" if option.required else f"={option.default!r}") for option in entry.options
        )
        table.add_row(entry.kind, entry.name, entry.distribution, entry.version, escape(options))
    out.print(table)


@latency_app.command("build")
def latency_build(
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
    from .config import override, parse_part
    from .latency import build_table
    from .resolve import device_of, make
    from .run import write_json

    host = _host(plugin)
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


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("archloom").propagate = False
    if show_version:
        out.print(version())
        raise typer.Exit
