"""A source with its trained weights in it: what is judged, asked, looked at and exported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .errors import ArchloomError, ConfigError, WeightsError
from .metrics import Scoring, scoring_of
from .model import Model
from .plugins import Host
from .resolve import device_of
from .source import Source, choose, open_source, plugins_beside
from .space import side_of
from .surroundings import plainly
from .task import Task
from .training import Recipe
from .weightfiles import split_format
from .weights import load_weights


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in eval mode on `device`.

    shape: of one input, (C, H, W) for images, as it is asked about. weights: the file that they came from; None
    where it was asked for untrained. task, recipe: what it was trained on and how, where that is known; `no_task` says
    why the task is not there. plugins: the files that it needs besides what is installed.
    """

    source: Source
    model: Model
    host: Host
    shape: tuple[int, ...]
    weights: Path | None
    device: torch.device
    task: Task | None
    recipe: Recipe | None
    no_task: str
    plugins: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        assert self.source.classes is not None  # open_trained saw to it
        return self.source.classes

    @property
    def scoring(self) -> Scoring:
        """How its outputs are scored, as far as that is known."""
        return scoring_of(self.source if self.task is None else self.task, self.model)

    @property
    def resolution(self) -> int | None:
        """The side to ask the task's images in; None for the task's own shape."""
        return None if self.task is None else side_of(self.shape, self.task)

    def needs_task(self, why: str) -> Task:
        """The task, or a ConfigError that says what it is needed for."""
        if self.task is None:
            raise ConfigError(f"{why} needs the task: {self.no_task}")
        return self.task


@plainly
def open_trained(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    task: str | None = None,
    overrides: Iterable[str] = (),
    resolution: int | None = None,
    untrained: bool = False,
    seed: int = 0,
    device: str = "cpu",
    plugins: Iterable[str | Path] = (),
    trust: bool = False,
    host: Host | None = None,
) -> Trained:
    """Open a source, build its network and load its weights.

    weights: a file in any known format (FORMAT:FILE where its keys do not say which); default: those beside the
    source. task: by name, with `overrides` of its options ("task.root=photos"); default: the one beside the source.
    plugins: files besides those that a folder names; trust: run the folder's also where they never ran on this
    machine. A `host` has its plugins already, and both are left out. A task that is not named and cannot be made
    here, as where its images are missing, is left out. untrained: take weights drawn from `seed` instead.
    Raises ConfigError, UnknownName, TaskError and WeightsError.
    """
    if resolution is not None and resolution < 1:
        raise ConfigError(f"resolution must be at least 1 pixel, not {resolution}")
    host = host or Host(plugins_beside(source, plugins, trust=trust))
    made, recipe, told = _task(source, host, task, list(overrides))
    opened = open_source(source, host, task=made)
    if not opened.classes and opened.outputs is None:
        names = tuple(str(number) for number in range(1000))
        opened = replace(opened, classes=names, document={**opened.document, "classes": list(names)})
    shape = opened.shape
    if resolution is not None:
        if len(shape) != 3:
            raise ConfigError(
                f"a resolution is of images, and an input of {source} has shape {shape}; leave it out"
            )
        shape = (shape[0], resolution, resolution)
    where = device_of(device)
    file = None if untrained else _weights_file(source, opened, weights)
    model = opened.build(seed=seed)
    if file is not None:
        named, file = split_format(file)
        try:
            loaded = load_weights(model, file, named)
        except WeightsError as error:
            if task is None and made is None:
                raise WeightsError(
                    f"{error} The network was built for {len(opened.classes or ())} classes; "
                    "--task says another number"
                ) from error
            raise
        if loaded.options and "space" in opened.document:  # the network that these weights need
            space = {**opened.document["space"], **loaded.options}
            opened = replace(opened, document={**opened.document, "space": space})
    return Trained(opened, model.to(where).eval(), host, shape, file, where, made, recipe, told, host.files)


def default_folder(source: str | Path, kind: str) -> Path:
    """Where what is made of a source goes: KIND in its folder; beside it, KIND-NAME, where it is no folder."""
    path = Path(source)
    return path / kind if path.is_dir() else Path("runs") / f"{kind}-{path.stem}"


def _weights_file(source: str | Path, opened: Source, weights: str | Path | None) -> Path:
    if weights is not None:
        return Path(weights)
    if opened.weights is None:
        raise ConfigError(
            f"there are no weights beside {source}: train them (archloom retrain {source}), or say --weights"
        )
    return opened.weights


def _task(
    source: str | Path, host: Host, task: str | None, overrides: list[str]
) -> tuple[Task | None, Recipe | None, str]:
    """The task and recipe, or the reason why there is none; where one was asked for, the reason is raised."""
    try:
        chosen = choose(source, host, task=task, overrides=overrides)
    except ArchloomError as error:
        if task is not None or overrides:
            raise
        return None, None, str(error)
    return chosen.task, chosen.recipe, ""
