"""A training from its first epoch to its last: checked, gone on with, judged and kept after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from ..augmentation import Erased
from ..errors import ConfigError
from ..metrics import said_of_main
from ..model import Model
from ..task import Split, Task
from .checkpoint import State, owner_of
from .precision import Precision
from .recipe import Recipe
from .trainable import check_single_images, check_trainable, way_out_of_single_images
from .trainer import Trainer


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    metrics: lr, loss and the task's metrics (accuracy, `top5` and other top-k) of the training data, `validation.`
    before those of the watched split, seconds, images_per_second; `recalibrated`, the images that BatchNorm's
    statistics were taken anew from, where they were. network: what the epoch is judged by, the averaged weights where
    the recipe averages, else the model itself. main: the task's main metric (name, unit, direction), where that is not
    accuracy.
    """

    number: int
    of: int
    metrics: Mapping[str, float]
    network: nn.Module
    main: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """What an event says of it."""
        said = {"number": self.number, "of": self.of, "metrics": dict(self.metrics)}
        return said if self.main is None else {**said, "main": dict(self.main)}


def train(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    splits: tuple[Split, ...] = ("weights", "architecture"),
    watch: Split | None = "validation",
    resolution: int | None = None,
    folder: Path | None = None,
    workers: int | None = None,
    teacher: nn.Module | None = None,
    until: int | None = None,
    network: str = "",
) -> Iterator[Epoch]:
    """Train `model` in place on `splits`, yielding after each epoch. What cannot be is refused at once.

    Order, augmentation, mixing and dropout are functions of (seed, epoch). With a `folder` a checkpoint is
    written there after each epoch, and a training found there goes on to the bit; epochs.csv has a line for
    each epoch; `best.pt` holds the state dict of the epoch with the best main metric on `watch` (the last one
    where nothing is watched), averaged where the recipe averages. teacher: the network that `recipe.teacher`
    means, with its weights; it is put into eval mode. until: stop after so many epochs of the recipe's. network: what
    the network is, where its layers' names and shapes may not tell it from others.

    Where the training was too short for BatchNorm's running statistics to settle, each watched epoch and the last one
    are judged with statistics taken anew from training images (`recipe.recalibrate`). The model has them, too, until
    the next epoch begins; `best.pt` has them, and the checkpoint goes on without.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"there is no precision '{precision}'; there are {', '.join(get_args(Precision))}")
    shape = (task.shape[0], resolution, resolution) if resolution else task.shape
    check_trainable(model.loss, task, recipe, watch=watch, teacher=teacher, shape=shape)
    data: Any = task.dataset(*splits, augment=recipe.policy or recipe.augment, resolution=resolution)
    if min(recipe.batch_size, len(data)) == 1:
        check_single_images(
            model, shape, way_out_of_single_images(recipe.batch_size, "recipe.batch_size", splits)
        )
    # made when the first epoch is asked for, since that moves the model to its device
    calibrating = partial(task.dataset, *splits, resolution=resolution)
    make = partial(
        Trainer,
        model,
        recipe,
        task,
        seed,
        torch.device(device),
        precision,
        workers,
        teacher,
        calibrating,
    )
    upto = recipe.epochs if until is None else min(until, recipe.epochs)
    owner = owner_of(model, recipe, [seed, precision, splits, watch, resolution, network])
    return _epochs(make, recipe, task, data, watch, resolution, folder, upto, owner)


def _epochs(
    make: Callable[[], Trainer],
    recipe: Recipe,
    task: Task,
    data: Any,
    watch: Split | None,
    resolution: int | None,
    folder: Path | None,
    upto: int,
    owner: str,
) -> Iterator[Epoch]:
    data = Erased(data, recipe.erasing) if recipe.erasing else data
    watched = task.dataset(watch, resolution=resolution) if watch else None
    trainer = make()
    state, main = trainer.state, trainer.scoring.metrics[0]
    state.owner = owner
    if folder is not None:
        state.resume(folder)
    steps, images = max(1, len(data) // recipe.batch_size), None
    while state.done < upto and not _ended(state, recipe):
        trained = trainer.epoch(data)
        last = state.done + 1 == upto
        images = trainer.settle(steps * (state.done + 1)) if last or watched is not None else 0
        judged = {} if watched is None else trainer.judge(watched, str(watch))
        first = {name: trained[name] for name in dict.fromkeys(("lr", "loss", main.name))}
        metrics = {**first, **judged, **trained, **({"recalibrated": images} if images else {})}
        score = judged.get(f"{watch}.{main.name}")
        improved = state.record(metrics, None if score is None else main.sign * score)
        if folder is not None:
            state.save(folder, improved, ended=_ended(state, recipe))
        if last and watched is not None:
            trainer.warn(metrics, str(watch), len(watched))  # type: ignore[arg-type]
        yield Epoch(state.done, recipe.epochs, metrics, state.network, said_of_main(task))
    if images is None:  # nothing was left to train: it may have been killed between its last epoch and this
        trainer.settle(steps * state.done)


def _ended(state: State, recipe: Recipe) -> bool:
    return state.done >= recipe.epochs or (recipe.patience is not None and state.stale >= recipe.patience)
