"""Necks, heads and losses by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

import archloom
from archloom.model import GlobalAverage, LinearHead


def linear_head(in_channels: int, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """Dropout, then one linear layer."""
    return LinearHead(in_channels, num_classes, dropout)


def cross_entropy(*, label_smoothing: float = 0.0, reduction: Literal["mean", "sum"] = "mean") -> nn.Module:
    """Cross entropy of logits against class indices or class probabilities."""
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing, reduction=reduction)


@archloom.hookimpl
def register_components(register):
    register("neck.GlobalAverage", GlobalAverage)
    register("head.LinearHead", linear_head)
    register("loss.CrossEntropyLoss", cross_entropy)
