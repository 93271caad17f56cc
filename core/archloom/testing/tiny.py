"""A space and a task that are small enough for any check."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from ..architecture import Architecture, Choice
from ..model import Model, ModelParts, assemble_shared
from ..randomness import torch_rng
from ..space import Around, build_chain
from ..task import ImageTask, Task


class TinySpace:
    """Six layers of four blocks, 4,096 architectures: (N, in_channels, H, W) -> (N, 4, H, W)."""

    def __init__(self, *, in_channels: int = 1, layers: int = 6) -> None:
        self.in_channels = in_channels
        self.choices = [Choice(f"layer{i}", ("skip", "k1", "k3", "k5")) for i in range(layers)]

    def candidate(self, choice: Choice, option: Any) -> nn.Module:
        """(N, 4, H, W) -> (N, 4, H, W)."""
        if option == "skip":
            return nn.Identity()
        kernel = int(option[1:])
        conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU())

    def around(self, body: nn.Module) -> nn.Module:
        """A 1x1 convolution before the layers."""
        return Around(nn.Conv2d(self.in_channels, 4, 1), body)

    def build(self, architecture: Architecture) -> nn.Module:
        """The chosen layers in order."""
        return build_chain(self, architecture)


def tiny_task(shape: tuple[int, int, int] = (1, 8, 8), images: int = 64) -> ImageTask:
    """Noise of `shape` (C, H, W) with labels of four classes, always the same."""

    def noise(part: str) -> TensorDataset:
        drawn = torch.randn(images, *shape, generator=torch_rng(0, "tiny", part))
        return TensorDataset(drawn, torch.arange(images) % 4)

    return ImageTask(
        name="tiny",
        shape=shape,
        classes=("a", "b", "c", "d"),
        train=noise("train"),
        train_targets=[i % 4 for i in range(images)],
        test=noise("test"),
        eval_transform=lambda resolution: lambda image: image,
        in_memory=True,
    )


def tiny_supernet(space: Any, task: Task) -> Model:
    """The space's supernet as a model for the task, untrained."""
    return assemble_shared(space, task, ModelParts(), seed=0)
