"""Noise with labels: for benchmarks, where the data should cost nothing and be everywhere the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from archloom import ImageTask, torch_rng

from .common import at_least, shares
from .transforms import Standardize

TILE = 4


class Noise(Dataset[tuple[Tensor, int]]):
    """`count` images of standard normal noise, each a function of (seed, part, index).

    Labels go round the classes. Separable: a pattern of 4 x 4 pixels, the class's own, is laid over the
    whole image with the variance of the noise, so that one convolution can tell the classes apart.
    """

    def __init__(
        self, count: int, shape: tuple[int, int, int], classes: int, separable: bool, seed: int, part: str
    ) -> None:
        self.count, self.shape, self.classes, self.seed, self.part = count, shape, classes, seed, part
        self.patterns = None
        if separable:
            tiles = torch.randn(classes, shape[0], TILE, TILE, generator=torch_rng(seed, "patterns"))
            repeats = -(-shape[1] // TILE), -(-shape[2] // TILE)
            self.patterns = tiles.repeat(1, 1, *repeats)[..., : shape[1], : shape[2]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        image = torch.randn(self.shape, generator=torch_rng(self.seed, self.part, index))
        label = index % self.classes
        return image if self.patterns is None else (image + self.patterns[label]) / 2**0.5, label


def fake(
    *,
    size: int = 1024,
    test_size: int = 256,
    channels: int = 3,
    height: int = 32,
    width: int = 32,
    classes: int = 10,
    separable: bool = False,
    architecture: float = 0.2,
    validation: float = 0.2,
    train_size: int | None = None,
    seed: int = 0,
) -> ImageTask:
    """Seeded noise with labels, for benchmarks; held in memory.

    `size` images of (channels, height, width) are shared out among weights, architecture and validation,
    `test_size` others are the test split. `separable`: each class has a pattern that can be learnt;
    otherwise there is nothing to learn. `train_size`: images of weights and architecture together.
    """
    at_least("fake", 1, size=size, test_size=test_size, channels=channels, height=height, width=width)
    at_least("fake", 2, classes=classes)
    shape = (channels, height, width)
    train = Noise(size, shape, classes, separable, seed, "train")
    return ImageTask(
        name="fake",
        shape=shape,
        classes=tuple(f"class {label}" for label in range(classes)),
        train=train,
        train_targets=[index % classes for index in range(size)],
        test=Noise(test_size, shape, classes, separable, seed, "test"),
        eval_transform=_transform,
        fractions=shares("fake", architecture, validation),
        train_size=train_size,
        split_seed=seed,
        in_memory=True,
    )


def _transform(resolution: int | None) -> Callable[[Tensor], Tensor]:
    return Standardize(resolution=resolution)
