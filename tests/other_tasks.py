"""A plugin file: a regression on images and a classification of series, with a space for both."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.data import ConcatDataset, TensorDataset

import archloom
from archloom.architecture import Choice
from archloom.errors import ConfigError
from archloom.metrics import Metric
from archloom.randomness import torch_rng
from archloom.space import Around, build_chain

SIZES = {"weights": 48, "architecture": 16, "validation": 16, "test": 16}


def splits(draw):
    """split -> TensorDataset of what `draw(count, split)` gives."""
    return {split: TensorDataset(*draw(count, split)) for split, count in SIZES.items()}


class Drawn:
    """Data in memory: `dataset` of the four splits."""

    def dataset(self, *splits, augment=False, resolution=None):
        if resolution is not None:
            raise ConfigError("these come in one size")
        return self.data[splits[0]] if len(splits) == 1 else ConcatDataset([self.data[s] for s in splits])


class Brightness(Drawn):
    """Images (1, 8, 8); their target is how bright the left half is, in lux."""

    name, shape, classes = "brightness", (1, 8, 8), ()
    metrics, outputs = (Metric("rmse", "lux", "min"), Metric("mae", "lux", "min")), (1,)

    def __init__(self) -> None:
        self.data = splits(self._draw)

    @staticmethod
    def _draw(count, split):
        images = torch.rand(count, 1, 8, 8, generator=torch_rng(0, "brightness", split))
        return images, 10 * images[..., :4].mean((1, 2, 3))[:, None]

    def score(self, outputs, targets):
        error = outputs - targets
        return {"squares": error.square().sum(), "absolute": error.abs().sum(), "items": len(targets)}

    def values(self, totals):
        return {
            "rmse": math.sqrt(totals["squares"] / totals["items"]),
            "mae": totals["absolute"] / totals["items"],
        }

    def example_targets(self, count):
        return torch.zeros(count, 1)


class Waves(Drawn):
    """Series (2, 16) of three frequencies, to be told apart."""

    name, shape, classes = "waves", (2, 16), ("slow", "medium", "fast")

    def __init__(self) -> None:
        self.data = splits(self._draw)

    @staticmethod
    def _draw(count, split):
        labels = torch.arange(count) % 3
        turns = torch.arange(16) / 16 * (1 + 2 * labels[:, None]) * 2 * math.pi
        noise = torch.randn(count, 2, 16, generator=torch_rng(0, "waves", split))
        return torch.stack([turns.sin(), turns.cos()], 1) + 0.1 * noise, labels


class Plain:
    """Two layers, each a skip or a convolution of one of two kernels; of images or of series."""

    def __init__(self, *, dimensions: int = 2, in_channels: int = 1) -> None:
        self.conv = nn.Conv2d if dimensions == 2 else nn.Conv1d
        self.norm = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d
        self.in_channels = in_channels
        self.choices = [Choice(f"layer{i}", ("skip", "k3", "k5")) for i in range(2)]

    def candidate(self, choice, option):
        if option == "skip":
            return nn.Identity()
        kernel = int(option[1])
        conv = self.conv(4, 4, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, self.norm(4), nn.ReLU())

    def around(self, body):
        return Around(self.conv(self.in_channels, 4, 1), body)

    def build(self, architecture):
        return build_chain(self, architecture)


@archloom.hookimpl
def register_tasks(register):
    register("brightness", Brightness)
    register("waves", Waves)


@archloom.hookimpl
def register_search_spaces(register):
    register("plain", Plain)
