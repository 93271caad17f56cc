"""What a network costs before it is trained: params and MACs, by definitions that are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .model import call_on_meta, evaluating

MACS = "multiply-adds of convolutions and linear layers for one image (no bias, BatchNorm, activation or pooling)"
PARAMS = "all trainable parameters"

_COUNTED = ("convolution", "_convolution", "conv2d", "addmm", "mm", "linear")


@dataclass(frozen=True)
class Cost:
    """`params`: all trainable parameters. `macs`: see `MACS`."""

    params: int
    macs: int


def count(model: nn.Module, resolution: int | tuple[int, int, int] = 224, *selection: Any) -> Cost:
    """Params and MACs of `model` for one image.

    resolution: the side of a square RGB image, or (C, H, W). `selection`: further arguments of the
    forward, a path of a supernet for instance (params then still count the whole module).
    The forward runs on the meta device: nothing is computed, and the model, its mode and its BatchNorm
    statistics stay as they were.
    """
    shape = (3, resolution, resolution) if isinstance(resolution, int) else resolution
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), counter:
        call_on_meta(model, torch.empty(1, *shape, device="meta"), *selection)
    per_operator = counter.get_flop_counts().get("Global", {})  # absent where nothing was counted
    return Cost(
        params=sum(p.numel() for p in model.parameters() if p.requires_grad), macs=macs_of(per_operator)
    )


def macs_of(per_operator: Mapping[Any, int]) -> int:
    """The MACs in what PyTorch's counter of floating-point operations says of each operator."""
    return sum(n for op, n in per_operator.items() if str(op).split(".")[-1] in _COUNTED) // 2
