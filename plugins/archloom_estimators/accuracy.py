"""The task's main metric on the validation split, accuracy for classes: of a network trained for the purpose, or cut
out of a supernet."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from archloom import (
    FULL,
    INHERITED,
    TRAINING,
    Architecture,
    CheckpointError,
    ConfigError,
    Context,
    Metric,
    Model,
    Recipe,
    Task,
    batches,
)
from archloom.metrics import ACCURACY, Classification, scoring_of
from archloom.space import side_of
from archloom.training import GAP, by_chance, doubt, evaluate, load_checkpoint, recalibrate_batchnorm, train

logger = logging.getLogger("archloom")

CHECKPOINT = "training.pt"  # what `train` keeps in its folder


def _main(task: Task | None, fidelity: str) -> Metric:
    """The task's main metric at a fidelity; accuracy's where the task is not said."""
    main = ACCURACY if task is None else scoring_of(task).metrics[0]
    return Metric(f"{main.name}.{fidelity}", main.unit, main.direction)


class TrainedAccuracy:
    """The main metric after training from scratch for `epochs` epochs by a plain recipe (SGD, cosine): top-1 in %.

    That is a classifier's; of a task that declares its metrics it is the first of them.

    At a lower fidelity the same training stops earlier, with the learning rate that the whole one has there; at a
    higher one it goes on from its checkpoint. recalibrate: as in a recipe, BatchNorm's statistics are taken anew
    where the training was too short for them to settle ("auto"), "always" or "never".
    """

    metrics = (Metric("accuracy.trained", "%", "max"),)
    expense, needs = TRAINING, ("task",)

    def __init__(
        self,
        task: Task | None = None,
        *,
        epochs: int = 5,
        batch_size: int = 64,
        lr: float = 0.1,
        weight_decay: float = 4e-5,
        recalibrate: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        self.recipe = Recipe(
            epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, recalibrate=recalibrate
        )
        self.epochs = float(epochs)
        self.metrics = (_main(task, "trained"),)
        self._guessed: int | None = 0  # at chance so far; None once a network has learned
        self._said, self._noted = False, False

    def epochs_at(self, fidelity: float) -> int:
        """Whole epochs: a share of all, rounded, at least one where it is not nothing."""
        return max(1, round(fidelity * self.recipe.epochs)) if fidelity > 0 else 0

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = context.assemble(architecture)
        shape = context.shape(architecture)
        resolution = side_of(shape, context.task)
        last = self.epochs_at(context.fidelity.upto)
        folder = None if context.fidelity == FULL else context.kept(architecture)
        if folder is not None and _done(folder) > last:
            folder = None  # what is kept went further than is asked now
        try:
            trained = self._train(model, architecture, context, last, folder)
        except CheckpointError as error:  # another's is of no use: the training comes out the same without
            logger.warning("%s; the training of '%s' starts again", error, architecture)
            shutil.rmtree(str(folder))
            model = context.assemble(architecture)
            trained = self._train(model, architecture, context, last, folder)
        data: Any = context.task.dataset("validation", resolution=resolution)
        scoring = scoring_of(context.task)
        main = scoring.metrics[0].name
        judged = evaluate(model, batches(data, 512, device=context.device), context.task, context.precision)
        if folder is not None and last == self.recipe.epochs:
            shutil.rmtree(folder, ignore_errors=True)  # nothing goes on from a training that is complete
        if trained is not None and isinstance(scoring, Classification):
            self._warn(trained, judged[main], scoring.classes, len(data))
        return {self.metrics[0].name: judged[main]}

    def _train(
        self, model: Model, architecture: Architecture, context: Context, last: int, folder: Path | None
    ) -> float | None:
        """Train up to an epoch; the main metric on the training data in the last one that was trained now."""
        shape, trained = context.shape(architecture), None
        for epoch in train(
            model,
            context.task,
            self.recipe,
            seed=context.seed,
            device=context.device,
            precision=context.precision,
            watch=None,
            resolution=side_of(shape, context.task),
            folder=folder,
            until=last,
            network=json.dumps(architecture.to_json(), sort_keys=True),
        ):
            trained = epoch.metrics[scoring_of(context.task).metrics[0].name]
            if not self._noted and "recalibrated" in epoch.metrics:
                self._noted = True
                logger.info(
                    "%s: after %d epochs BatchNorm's running statistics have not settled; they are taken "
                    "anew from %d training images (recalibrate: %s)",
                    self.metrics[0].name,
                    *(epoch.number, epoch.metrics["recalibrated"], self.recipe.recalibrate),
                )
        return trained

    def _warn(self, trained: float, judged: float, classes: int, images: int) -> None:
        """Say once that accuracies are odd: one far below its training accuracy, or the first `MANY` all guessed."""
        if self._said:
            return
        guessed = by_chance(judged, classes, images)
        self._guessed = self._guessed + 1 if guessed and self._guessed is not None else None
        told = doubt(trained, judged, classes, images)
        if told is None or (guessed and trained - judged <= GAP and self._guessed != MANY):
            return
        self._said = True
        who = f"the first {MANY} networks" if self._guessed == MANY else "a network"
        logger.warning("accuracy.trained of %s is doubtful: %s", who, told)


MANY = 5
"""So many networks at chance in a row, from the first on, are more than bad luck."""


def _done(folder: Path) -> int:
    """Epochs of the training that is kept there; 0 where it cannot be used."""
    try:
        state = load_checkpoint(folder / CHECKPOINT)
    except CheckpointError:
        return 0
    return 0 if state is None else int(state["epoch"])


class InheritedAccuracy:
    """The main metric with a supernet's weights, cut out as a network of its own, BatchNorm recalibrated there: top-1
    in %, or the first of those that the task declares.

    batches: validation batches to judge on (None: all). recalibration: batches of the weights split, without
    augmentation, that BatchNorm's statistics are taken from (0: the supernet's are kept).
    """

    metrics = (Metric("accuracy.inherited", "%", "max"),)
    expense, needs = INHERITED, ("supernet",)

    def __init__(
        self,
        task: Task | None = None,
        *,
        batches: int | None = None,
        recalibration: int = 8,
        batch_size: int = 128,
    ) -> None:
        self.metrics = (_main(task, "inherited"),)
        self.batches, self.recalibration, self.batch_size = batches, recalibration, batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        if context.supernet is None:
            raise ConfigError("inherited_accuracy needs a method that trains a supernet; none has")
        shape = context.shape(architecture)
        resolution = side_of(shape, context.task)
        model = context.supernet.extract(architecture)
        if self.recalibration:
            data = context.task.dataset("weights", resolution=resolution)
            stream = batches(data, self.batch_size, seed=context.seed, shuffle=True, device=context.device)
            recalibrate_batchnorm(model, islice(stream, self.recalibration))
        held_out = context.task.dataset("validation", resolution=resolution)
        judged = evaluate(
            model,
            islice(batches(held_out, self.batch_size, device=context.device), self.batches),
            context.task,
            context.precision,
        )
        return {self.metrics[0].name: judged[scoring_of(context.task).metrics[0].name]}
