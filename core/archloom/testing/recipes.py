"""The contract of recipes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..errors import ArchloomError
from ..model import LinearHead, Model
from ..randomness import forked_rng
from ..training import Recipe, learning_rate, train
from .checks import Contract, global_generators_untouched, require, same
from .tiny import tiny_task


class RecipeContract(Contract):
    """Checks a recipe. Override `task` where it needs a certain one, as one that takes augmentation policies."""

    kind = "recipe"

    def task(self) -> Any:
        """The data."""
        return tiny_task()

    def _recipe(self) -> Recipe:
        recipe = self._make()
        require(
            isinstance(recipe, Recipe),
            f"the factory gave {type(recipe).__name__}, not an archloom.training.Recipe; a kind of one's own inherits "
            "from it",
        )
        return recipe

    def _short(self) -> Recipe:
        """The recipe for two epochs of this task."""
        recipe, size = self._recipe(), len(self.task().dataset("weights"))
        return replace(
            recipe,
            epochs=2,
            warmup_epochs=min(recipe.warmup_epochs, 1.0),
            batch_size=min(recipe.batch_size, max(2, size // 2)),
            compile=False,
        )

    def test_it_is_a_recipe_of_plain_values(self) -> None:
        recipe = self._recipe()
        require(
            recipe == self._recipe(), "two recipes of the same options differ; a recipe is its numbers alone"
        )
        try:
            read = json.loads(json.dumps(asdict(recipe)))
            again = type(recipe)(**read)
        except (TypeError, ValueError, ArchloomError) as error:
            raise AssertionError(
                f"it cannot be written down and read back: {error}; keep to numbers, texts and lists, which a run "
                "stores beside the network"
            ) from error
        require(again == recipe, "written down and read back it is another recipe")

    def test_its_learning_rate_is_a_number_at_every_moment(self) -> None:
        recipe = self._recipe()
        for step in range(101):
            epoch = recipe.epochs * step / 100
            try:
                rate = learning_rate(recipe, epoch)
            except ArithmeticError as error:
                raise AssertionError(f"after {epoch:g} epochs it has no learning rate: {error}") from error
            require(
                math.isfinite(rate) and rate >= 0,
                f"after {epoch:g} of {recipe.epochs} epochs its rate is {rate}",
            )
        require(
            any(learning_rate(recipe, recipe.epochs * step / 100) > 0 for step in range(100)),
            "its learning rate is never above 0",
        )

    def test_it_trains_a_network_to_the_same_weights_under_one_seed(self) -> None:
        self.task()  # what a library draws while it is imported is not the recipe's
        with global_generators_untouched("the training"):
            first = self._trained()
        with forked_rng(99, "elsewhere"):
            second = self._trained()
        require(
            same(first, second),
            "two trainings of one seed ended at different weights; a recipe draws nothing",
        )
        fresh = dict(_network(self.task()).state_dict())
        require(not same(first, fresh), "trained by it a network stayed as it was")

    def _trained(self) -> dict[str, Any]:
        task, recipe = self.task(), self._short()
        model = _network(task)
        with TemporaryDirectory() as folder:
            try:
                list(train(model, task, recipe, seed=3, folder=Path(folder)))
            except ArchloomError as error:
                raise AssertionError(f"it cannot train a small network: {error}") from error
        state = dict(model.state_dict())
        broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
        require(not broken, f"trained by it {', '.join(broken[:3])} is not finite; is its rate too high?")
        return state


def _network(task: Any) -> Model:
    """A convolution with BatchNorm, and a linear layer."""
    with forked_rng(0, "network"):
        backbone = nn.Sequential(
            nn.Conv2d(task.shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        return Model(backbone, nn.Flatten(), LinearHead(4, len(task.classes)), nn.CrossEntropyLoss())
