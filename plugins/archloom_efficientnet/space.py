"""The named networks as a search space whose one choice is the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from archloom import Architecture, Choice, NamedArchitecture, WeightFormat

from .config import NAMED, BlockArgs, NetworkConfig, Padding
from .formats import weight_formats
from .model import Features, adopt

if TYPE_CHECKING:
    from archloom import Task

# top-1 accuracy on ImageNet in %: columns of the first version (ICML) and of arXiv v5; the paper's FLOPs
# are multiply-adds, in units of 1e9. b8: AdvProp (1911.09665), l2: Noisy Student (1911.04252).
_PUBLISHED: dict[str, dict[str, float]] = {
    "efficientnet-b0": {"top1": 77.1, "top1.icml": 76.3, "gmacs": 0.39, "params": 5288548},
    "efficientnet-b1": {"top1": 79.1, "top1.icml": 78.8, "gmacs": 0.70, "params": 7794184},
    "efficientnet-b2": {"top1": 80.1, "top1.icml": 79.8, "gmacs": 1.0, "params": 9109994},
    "efficientnet-b3": {"top1": 81.6, "top1.icml": 81.1, "gmacs": 1.8, "params": 12233232},
    "efficientnet-b4": {"top1": 82.9, "top1.icml": 82.6, "gmacs": 4.2, "params": 19341616},
    "efficientnet-b5": {"top1": 83.6, "top1.icml": 83.3, "gmacs": 9.9, "params": 30389784},
    "efficientnet-b6": {"top1": 84.0, "top1.icml": 84.0, "gmacs": 19.0, "params": 43040704},
    "efficientnet-b7": {"top1": 84.3, "top1.icml": 84.4, "gmacs": 37.0, "params": 66347960},
    "efficientnet-b8": {"params": 87413142},
    "efficientnet-l2": {"params": 480309308},
}


class EfficientNetSpace:
    """Which of the released networks. `build` ends at the feature map, head convolution included.

    padding, batch_norm_epsilon, batch_norm_momentum (TensorFlow's) and drop_connect_rate are those of
    `NetworkConfig`; `native_resolution=False` leaves the images at the task's size. blocks, head_filters:
    block strings and the last convolution's channels instead of B0's, which each network then scales.
    """

    def __init__(
        self,
        *,
        padding: Padding = "same",
        batch_norm_epsilon: float = 1e-3,
        batch_norm_momentum: float = 0.99,
        drop_connect_rate: float = 0.2,
        in_channels: int = 3,
        native_resolution: bool = True,
        blocks: list[str] | None = None,
        head_filters: int = 1280,
    ) -> None:
        self.choices = (Choice("network", tuple(NAMED)),)
        self.in_channels, self.native_resolution = in_channels, native_resolution
        self.overrides: dict[str, Any] = {
            "padding": padding,
            "batch_norm_epsilon": batch_norm_epsilon,
            "batch_norm_momentum": batch_norm_momentum,
            "drop_connect_rate": drop_connect_rate,
            "head_filters": head_filters,
        }
        if blocks is not None:
            self.overrides["blocks"] = tuple(BlockArgs.decode(string) for string in blocks)
        own = blocks is not None or head_filters != NetworkConfig().head_filters
        self.named = {
            name: NamedArchitecture(
                Architecture({"network": name}), int(config.image_size or 0), published=_PUBLISHED[name]
            )
            for name, config in NAMED.items()
            if not own
        }
        self.recommended_model = {"head": {"type": "LinearHead", "dropout": 0.2}}

    def build(self, architecture: Architecture) -> nn.Module:
        """(N, in_channels, H, W) -> (N, C, ceil(H / 32), ceil(W / 32))."""
        return Features(self.config(architecture), self.in_channels)

    def config(self, architecture: Architecture) -> NetworkConfig:
        """The network's description, with what this space was told of it."""
        return NAMED[str(architecture["network"])].override(**self.overrides)

    def scaled(
        self, architecture: Architecture, width: Callable[[int], int], depth: Callable[[int], int]
    ) -> nn.Module:
        """The network with every number of channels and of a stage's blocks changed by the two functions."""
        return Features(self.config(architecture).scaled(width, depth), self.in_channels)

    def input_shape(self, architecture: Architecture, task: Task) -> tuple[int, ...]:
        """The network's native resolution, unless the space was told to keep the task's."""
        if not self.native_resolution:
            return (*task.shape,)
        size = int(NAMED[str(architecture["network"])].image_size or 0)
        return task.shape[0], size, size

    def weight_formats(self, architecture: Architecture) -> list[WeightFormat]:
        """All formats; the network adopts the padding and the constants that the weights were trained with."""
        return weight_formats(self.config(architecture), adopt)
