"""A space and a task that are small enough for any check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from ..architecture import Architecture, Choice
from ..context import RunContext, remembered
from ..cost import count
from ..estimator import STATIC, Context, Metric
from ..model import Model, ModelParts, assemble_shared
from ..objective import Objective
from ..randomness import torch_rng
from ..ranks import Ranks
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


class _Counts:
    """params and macs, as the contracts' runs measure them."""

    metrics: tuple[Metric, ...] = (Metric("params", "parameters", "min"), Metric("macs", "MACs", "min"))
    expense: int = STATIC
    needs: tuple[str, ...] = ()

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        cost = count(context.outline(architecture), context.shape(architecture))
        return {"params": float(cost.params), "macs": float(cost.macs)}


def run_context(
    space: Any,
    task: Task,
    *,
    seed: int = 0,
    objectives: Sequence[Objective] = (Objective("macs", "min"),),
    ranks: Ranks | None = None,
) -> RunContext:
    """What a run on the CPU hands to the factories of strategies and methods; params and macs are its costs.

    To make one by hand in a test: `Annealing(context.space, context.rng)`. The metrics are those and the objectives'.
    """
    measured = [*_Counts.metrics, *(Metric(one.metric, "1", one.direction) for one in objectives)]
    context = RunContext(
        space=space,
        task=task,
        model=ModelParts(),
        seed=seed,
        device=torch.device("cpu"),
        precision="float32",
        recorded=remembered(),
        ranks=ranks or Ranks(),
        objectives=tuple(objectives),
        metrics={metric.name: metric for metric in reversed(measured)},
    )
    return context.counting([_Counts()])
