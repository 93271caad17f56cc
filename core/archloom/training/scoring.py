"""What a network reaches: while it is trained, and on a split of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..metrics import Scoring, Totals, scoring_of
from ..model import evaluating
from ..surroundings import plainly
from .precision import precision_context


class Tally:
    """Loss and metrics of what a training goes through. They stay on the device: nothing waits for them."""

    def __init__(self, scoring: Scoring, device: torch.device) -> None:
        self._totals, self._items = Totals(scoring), 0
        self.loss = torch.zeros((), device=device)  # summed over the items

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch: its mean loss, outputs (N, ...), targets (N, ...)."""
        self.loss += loss * len(targets)
        self._totals.add(outputs.float(), targets)
        self._items += len(targets)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Mean `loss`, that which is trained with; the task's metrics; and what `seconds` make of them."""
        values = self._totals.numbers().values()
        return {
            "loss": float(self.loss) / self._items,
            **{name: value for name, value in values.items() if name != "loss"},
            "seconds": seconds,
            "images_per_second": self._items / seconds,
        }


GAP = 30.0
"""Points by which training accuracy may exceed the held-out one before it is said."""


def by_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy (%) on so many images is no better than guessing, to two standard errors."""
    chance = 1 / classes
    return accuracy <= 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / images))


def doubt(trained: float, judged: float, classes: int, images: int) -> str | None:
    """What is odd about a training's result, as a sentence; None where nothing is.

    trained: accuracy (%) on the training images. judged: on `images` held-out ones.
    """
    gap = f"it reads {trained:.1f} % of its training images and {judged:.1f} % of {images} held-out ones"
    why = "; there may be too few training images, or BatchNorm's statistics may not fit (recipe.recalibrate)"
    if not by_chance(judged, classes, images):
        return gap + why if trained - judged > GAP else None
    chance = f", and guessing among {classes} classes reads as many"
    if trained - judged > GAP:
        return gap + chance + why
    return f"{gap}{chance}; train for more epochs, on more images, or with another lr"


@plainly
def evaluate(
    model: nn.Module,
    stream: Iterable[tuple[Tensor, Tensor]],
    task: Any,
    precision: str = "float32",
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """The metrics of a task on the batches of a split; of a task of classes, or of a number of classes instead of one:
    `accuracy` (top-1, %), `top5` and more (%, see `topk_of`) and `loss` (cross entropy, nats)."""
    totals = Totals(scoring_of(task, model))
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for x, y in stream:
            with precision_context(device, precision):
                outputs = (forward or model)(x).float()
            totals.add(outputs, y)
    return totals.values()
