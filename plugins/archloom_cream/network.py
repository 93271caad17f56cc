"""What stands around the searched blocks: the network with its stages' features, the pooling, the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import Around

from .blocks import initialize


class CreamNetwork(Around):
    """stem -> body -> tail, (N, in_channels, H, W) -> (N, C, H / 32, W / 32) in the ImageNet form.

    `feature_info` has one entry for each searched stage: its channels (`num_chs`), by how much it is smaller
    than the image (`reduction`), and the name of its last block (`module`).
    """

    def __init__(
        self, stem: nn.Module, body: nn.Module, tail: nn.Module, info: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(stem, body, tail)
        self.feature_info = [dict(entry) for entry in info]

    def forward_features(self, x: Tensor) -> Tensor:
        """The feature map that the network ends at; the same as calling it."""
        return self(x)

    def stage_features(self, x: Tensor) -> list[Tensor]:
        """The feature map after each stage, in the order of `feature_info`; a supernet's, inside `running`."""
        ends = {entry["module"].removeprefix("body.") for entry in self.feature_info}
        x, maps = self.stem(x), []
        for name, layer in self.body.named_children():
            x = layer(x)
            if name in ends:
                maps.append(x)
        return maps


class CreamPool(nn.Module):
    """(N, C, H, W) -> (N, C), over the whole image: mean, maximum, the mean of both, or both (N, 2 C)."""

    def __init__(self, *, pool: Literal["avg", "max", "avgmax", "catavgmax"] = "avg") -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "avg":
            return x.mean((2, 3))
        if self.pool == "max":
            return x.amax((2, 3))
        mean, most = x.mean((2, 3)), x.amax((2, 3))
        if self.pool == "avgmax":
            return 0.5 * (mean + most)
        return torch.cat((mean, most), dim=1)


class CreamHead(nn.Module):
    """Pooled features (N, in_channels) -> 1x1 convolution with bias -> Swish -> dropout -> (N, num_classes).

    The convolution comes after the pooling, as in MobileNetV3, and has no norm. It is a convolution rather
    than a linear layer because released weights are stored as one's, (features, in_channels, 1, 1).
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, features: int = 1280, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, features, 1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, num_classes)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels) -> (N, features), what the classifier sees."""
        return F.silu(self.conv(x[:, :, None, None]).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.forward_features(x)))

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for `num_classes`, on the old one's device and in its type; its weights are drawn
        from the global generator."""
        old = self.fc.weight
        fresh = nn.Linear(self.fc.in_features, num_classes, device=old.device, dtype=old.dtype)
        initialize(fresh)
        self.fc = fresh
