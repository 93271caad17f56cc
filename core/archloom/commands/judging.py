"""`archloom evaluate` and `archloom predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import (
    AsJson,
    Debug,
    PluginFiles,
    Sets,
    Trust,
    complain,
    err,
    make_table,
    out,
    print_json,
    source_host,
    warn,
)
from ..errors import ConfigError
from ..standing import number, quantity
from .export import SourceArgument

if TYPE_CHECKING:
    from ..trained import Trained

Weights = Annotated[Path | None, typer.Option(help="A weights file; default: the source's.")]
TaskName = Annotated[str | None, typer.Option(help="A task by name; default: the source's.")]


def evaluate(
    source: SourceArgument,
    weights: Weights = None,
    task: TaskName = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    images: Annotated[
        Path | None,
        typer.Option(help="Evaluate the images of a folder DIR/CLASS/IMAGE instead of a split."),
    ] = None,
    topk: Annotated[str | None, typer.Option(help="Which top-k accuracies: 1,5.")] = None,
    tta: Annotated[str, typer.Option(help="Test-time augmentation: none, flip or crops.")] = "none",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out image files that cannot be read.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Output folder for an HTML page, CSV and JSON.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square images; default: the source's.")
    ] = None,
    sets: Sets = None,
    device: str = "cpu",
    precision: str = "float32",
    plugin: PluginFiles = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Evaluate a trained network: top-k accuracy, figures for each class, confusions, calibration."""
    from ..judging.evaluation import check_words
    from ..judging.evaluation import evaluate as run_evaluate
    from ..judging.page import write_evaluation
    from ..metrics import Classification
    from ..trained import open_trained

    check_words(split, tta)
    ks = _numbers(topk)
    trained = open_trained(
        source,
        weights,
        task=task,
        overrides=sets or [],
        resolution=resolution,
        device=device,
        plugins=plugin or [],
        trust=trust,
        host=source_host(source, plugin, trust=trust),
    )
    if not isinstance(trained.scoring, Classification) and images is None and ks is None and tta == "none":
        _score(trained, split, precision, folder, as_json=as_json)
        return
    found = run_evaluate(
        trained,
        split=split,
        images=images,
        topk=ks,
        tta=tta,  # type: ignore[arg-type]  # evaluate says what there is
        precision=precision,
        skip=skip_unreadable,
    )
    where = str(images) if images is not None else split
    for message in found.unreadable:
        warn(f"left out: {message}")
    if folder is not None:
        written = write_evaluation(found, folder, f"{Path(source).name} on {where}")
        err.print(f"page: {written}")
    if as_json:
        print_json(found.to_json())
        return
    table = make_table("metric", where)
    for name, value in found.metrics().items():
        table.add_row(name, number(value))
    table.add_row("images", f"{found.images:,}")
    out.print(table)
    if len(found.classes) <= 30:
        by_class = make_table("class", "precision %", "recall %", "F1 %", "images")
        for each in found.per_class:
            figures = (f"{value:.2f}" for value in (each.precision, each.recall, each.f1))
            by_class.add_row(each.name, *figures, f"{each.support:,}")
        out.print(by_class)


def _score(trained: Trained, split: str, precision: str, folder: Path | None, *, as_json: bool) -> None:
    """Judge by the metrics that the task declares."""
    from ..judging.scores import score
    from ..run import write_json

    found = score(trained, split=split, precision=precision)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation.json", found.to_json())
        err.print(f"written: {folder / 'evaluation.json'}")
    if as_json:
        print_json(found.to_json())
        return
    table = make_table("metric", split)
    for name, value in found.values.items():
        table.add_row(name, quantity(value, found.units[name]))
    table.add_row("items", f"{found.items:,}")
    out.print(table)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--topk takes whole numbers, as 1,5, not '{text}'")
    return [int(part) for part in parts]


def predict(
    source: SourceArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    topk: Annotated[int, typer.Option(help="How many classes to name for each image.")] = 5,
    cam: Annotated[Path | None, typer.Option(help="Output folder for class-activation maps.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")
    ] = False,
    weights: Weights = None,
    task: TaskName = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square images; default: the source's.")
    ] = None,
    sets: Sets = None,
    device: str = "cpu",
    plugin: PluginFiles = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Classify image files. The exit code is 1 if a file could not be read."""
    from ..judging.images import image_files
    from ..judging.looking import class_activation, need_cam
    from ..judging.prediction import predict as run_predict
    from ..trained import open_trained

    files = image_files(images)
    if cam is not None:
        need_cam()
    trained = open_trained(
        source,
        weights,
        task=task,
        overrides=sets or [],
        resolution=resolution,
        device=device,
        plugins=plugin or [],
        trust=trust,
        host=source_host(source, plugin, trust=trust),
    )
    found = list(run_predict(trained, files, topk=topk, stop=strict))
    maps = (
        class_activation(trained, [each for each in found if each.error is None], cam)
        if cam is not None
        else {}
    )
    for each in found:
        if each.error is not None:
            complain(each.error)
    if as_json:
        listing = [each.to_json() for each in found]
        for entry, each in zip(listing, found, strict=True):
            if each.path in maps:
                entry["cam"] = str(maps[each.path])
        print_json(listing)
    else:
        table = make_table("image", "class", "probability")
        for each in found:
            for position, (name, probability) in enumerate(each.classes):
                table.add_row("" if position else str(each.path), name, f"{probability:.4f}")
        out.print(table)
        if maps:
            out.print(f"class-activation maps: {cam}")
    if any(each.error is not None for each in found):
        raise typer.Exit(1)
