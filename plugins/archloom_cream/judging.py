"""How accurate a path is: cut out of the supernet, BatchNorm recalibrated there, on held-out images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from archloom import Architecture, Model, RunContext, Split, batches, python_rng
from archloom.meta import evaluating
from archloom.space import side_of
from archloom.training import precision_context, recalibrate_batchnorm

from .paths import PathCosts, Shape

BATCH = 128
"""Images of a batch that BatchNorm is recalibrated with, or that is judged at once."""

Stream = list[tuple[Tensor, Tensor]]


class Judge:
    """Held-out top-1 of paths, in %; the supernet stays as it is.

    images: at most so many of the split `held_out` are judged on, always the same ones; each rank takes its
    share of them. recalibration: batches of the weights split, without augmentation. Both are kept in memory.
    """

    def __init__(
        self,
        supernet: Model,
        costs: PathCosts,
        context: RunContext,
        *,
        held_out: Split,
        images: int,
        recalibration: int,
    ) -> None:
        self.supernet, self.costs, self.context = supernet, costs, context
        self.held_out: Split = held_out
        self.images, self.recalibration = images, recalibration
        self._kept: dict[Shape, tuple[Stream, Stream]] = {}

    def __call__(self, architecture: Architecture) -> float:
        """The accuracy of a path, equal on all ranks."""
        calibrating, judged = self._data(self.costs.shape(architecture))
        child = self.supernet.extract(architecture)
        recalibrate_batchnorm(child, calibrating)
        counted = torch.zeros(2, dtype=torch.float64, device=self.context.device)
        with evaluating(child), torch.inference_mode():
            for x, y in judged:
                with precision_context(self.context.device, self.context.precision):
                    hits = child(x).argmax(1) == y
                counted += torch.stack(
                    [hits.sum().double(), torch.tensor(len(y), device=self.context.device)]
                )
        correct, images = self.context.ranks.sum(counted).tolist()
        return float(100 * correct / images)

    def _data(self, shape: Shape) -> tuple[Stream, Stream]:
        if shape not in self._kept:
            ranks, device = self.context.ranks, self.context.device
            side = side_of(shape, self.context.task)
            calibrating = self._chosen("weights", self.recalibration * BATCH, side)
            judged = self._chosen(self.held_out, self.images, side)
            self._kept[shape] = (
                list(batches(calibrating, BATCH, device=device)),
                # every rank has an image or more: ranks without one would still take part in the sum
                list(batches(judged, BATCH * ranks.world, ranks=ranks, device=device)),
            )
        return self._kept[shape]

    def _chosen(self, split: Split, count: int, side: int | None) -> Subset[Any]:
        """At most `count` images of a split, drawn once from the seed."""
        data = self.context.task.dataset(split, resolution=side)
        positions = list(range(len(data)))  # type: ignore[arg-type]
        python_rng(self.context.seed, "judged", split).shuffle(positions)
        return Subset(data, positions[:count])
