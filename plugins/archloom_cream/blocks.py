"""The building blocks of the Cream networks, and the one description from which each is made.

`BlockSpec` says what a block is, `make_block` builds it: a candidate in a supernet, a layer of a published
network and a line of a block string are the same code. Notation: (N, C, H, W) -> (N, C', H / s, W / s).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import SpaceError

BlockType = Literal["ds", "ir", "cn", "basic", "bottleneck"]
TYPES: tuple[BlockType, ...] = ("ds", "ir", "cn", "basic", "bottleneck")

DIVISOR = 8
"""Inner widths are multiples of this."""


def divisible(value: float, divisor: int = DIVISOR) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor` and not more than a tenth below."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


@dataclass(frozen=True)
class BlockSpec:
    """One block, apart from the number of its input channels.

    type: "ds" depthwise separable, "ir" inverted residual, "cn" convolution with norm and Swish, "basic"
        and "bottleneck" the two residual units of ResNet.
    channels: of the output. kernels: of the depthwise (or only) convolution; several share its channels.
    expansion: inner width of "ir" over its input channels; 1 for the other types, where it says nothing.
    se: width of the squeeze over the inner width, 0 for none; without effect in "cn" and the ResNet units.
    residual: whether input is added where shapes allow it; without effect in "cn" and the ResNet units.
    """

    type: BlockType
    channels: int
    kernels: tuple[int, ...] = (3,)
    stride: int = 1
    expansion: float = 1
    se: float = 0.0
    dilation: int = 1
    residual: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))
        wrong = [
            told
            for broken, told in (
                (self.type not in TYPES, f"the type is one of {', '.join(TYPES)}, not '{self.type}'"),
                (self.channels < 1, f"channels must be at least 1, not {self.channels}"),
                (not self.kernels, "a block needs a kernel"),
                (any(k < 1 or k % 2 == 0 for k in self.kernels), f"kernels are odd, not {self.kernels}"),
                (self.stride < 1, f"the stride must be at least 1, not {self.stride}"),
                (not self.expansion > 0, f"the expansion must be positive, not {self.expansion}"),
                (not 0 <= self.se <= 1, f"the squeeze ratio lies between 0 and 1, not at {self.se}"),
                (self.dilation < 1, f"the dilation must be at least 1, not {self.dilation}"),
                (
                    len(self.kernels) > 1 and self.type not in ("ds", "ir"),
                    f"a block of type '{self.type}' has one kernel, not {self.kernels}",
                ),
                (
                    self.expansion != 1 and self.type != "ir",
                    f"a block of type '{self.type}' does not expand; only 'ir' does",
                ),
            )
            if broken
        ]
        if wrong:
            raise SpaceError(f"this is no block: {'; '.join(wrong)}")

    def adds_input(self, c_in: int) -> bool:
        """Whether the input of `c_in` channels is added to the output of a "ds" or "ir" block."""
        return self.residual and self.stride == 1 and c_in == self.channels

    def inner(self, c_in: int) -> int:
        """Channels of the depthwise convolution of a "ds" or "ir" block."""
        return divisible(c_in * self.expansion) if self.type == "ir" else c_in

    def squeezed(self, c_in: int) -> int:
        """Channels in the middle of the squeeze-and-excitation; 0 where there is none."""
        return divisible(self.inner(c_in) * self.se) if self.se and self.type in ("ds", "ir") else 0


def shares(channels: int, parts: int) -> list[int]:
    """`channels` in `parts` equal shares; the first takes what is left over."""
    share = channels // parts
    if share < 1:
        raise SpaceError(f"{channels} channels cannot be shared among {parts} kernels")
    return [channels - share * (parts - 1), *[share] * (parts - 1)]


def conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)


class MixedDepthwise(nn.ModuleList):
    """A depthwise convolution whose channels are shared among several kernel sizes (MixNet, 1907.09595)."""

    def __init__(self, channels: int, kernels: Sequence[int], stride: int, dilation: int) -> None:
        split = shares(channels, len(kernels))
        parts = zip(split, kernels, strict=True)
        super().__init__(conv(c, c, k, stride, dilation, groups=c) for c, k in parts)
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        shared, done = x.split(self.split, dim=1), []
        for position, part in enumerate(self):
            done.append(part(shared[position]))
        return torch.cat(done, dim=1)


class ConvNorm(nn.Module):
    """convolution -> BatchNorm -> Swish, ReLU or nothing."""

    def __init__(self, convolution: nn.Module, channels: int, act: Literal["swish", "relu"] | None) -> None:
        super().__init__()
        self.conv, self.bn = convolution, nn.BatchNorm2d(channels)
        self.swish, self.relu = act == "swish", act == "relu"

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        if self.swish:
            return F.silu(x)
        return F.relu(x) if self.relu else x


class SqueezeExcite(nn.Module):
    """x * hardsigmoid(W2 relu(W1 mean(x))): (N, channels, H, W) -> the same. Both W have biases."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Separable(nn.Module):
    """[1x1 expansion] -> depthwise -> squeeze-and-excitation -> 1x1 projection, which has no activation.

    "ir" has the expansion (also at ratio 1), "ds" has not.
    """

    def __init__(self, spec: BlockSpec, c_in: int) -> None:
        super().__init__()
        inner, squeezed = spec.inner(c_in), spec.squeezed(c_in)
        self.adds_input = spec.adds_input(c_in)
        if spec.type == "ir":
            self.expand = ConvNorm(conv(c_in, inner, 1), inner, "swish")
        self.depthwise = ConvNorm(_depthwise(spec, inner), inner, "swish")
        if squeezed:
            self.se = SqueezeExcite(inner, squeezed)
        self.project = ConvNorm(conv(inner, spec.channels, 1), spec.channels, None)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.children():
            y = part(y)
        return x + y if self.adds_input else y


def _depthwise(spec: BlockSpec, inner: int) -> nn.Module:
    if len(spec.kernels) > 1:
        return MixedDepthwise(inner, spec.kernels, spec.stride, spec.dilation)
    return conv(inner, inner, spec.kernels[0], spec.stride, spec.dilation, groups=inner)


class ResidualUnit(nn.Module):
    """relu(layers(x) + shortcut(x)), ResNet's (1512.03385); the shortcut is a 1x1 where shapes differ.

    "basic": two KxK convolutions. "bottleneck": 1x1 to a quarter of the output channels, KxK, 1x1.
    """

    def __init__(self, spec: BlockSpec, c_in: int) -> None:
        super().__init__()
        k, c_out = spec.kernels[0], spec.channels
        if spec.type == "basic":
            self.layers = nn.Sequential(
                ConvNorm(conv(c_in, c_out, k, spec.stride, spec.dilation), c_out, "relu"),
                ConvNorm(conv(c_out, c_out, k, 1, spec.dilation), c_out, None),
            )
        else:
            inner = divisible(c_out / 4)
            self.layers = nn.Sequential(
                ConvNorm(conv(c_in, inner, 1), inner, "relu"),
                ConvNorm(conv(inner, inner, k, spec.stride, spec.dilation), inner, "relu"),
                ConvNorm(conv(inner, c_out, 1), c_out, None),
            )
        if spec.stride != 1 or c_in != c_out:
            self.shortcut = ConvNorm(conv(c_in, c_out, 1, spec.stride), c_out, None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def make_block(spec: BlockSpec, c_in: int) -> nn.Module:
    """The block that `spec` describes: (N, c_in, H, W) -> (N, spec.channels, ceil(H / s), ceil(W / s))."""
    if spec.type in ("ds", "ir"):
        return Separable(spec, c_in)
    if spec.type == "cn":
        layer = conv(c_in, spec.channels, spec.kernels[0], spec.stride, spec.dilation)
        return ConvNorm(layer, spec.channels, "swish")
    return ResidualUnit(spec, c_in)


def initialize(module: nn.Module) -> nn.Module:
    """Draw all weights from the global generator; returns the module.

    Convolutions: normal with variance 2 / fan_out, fan_out = k k C_out / groups. Linear layers: uniform
    within 1 / sqrt(C_out). Biases 0, norm layers as PyTorch makes them.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            fan_out = math.prod(child.kernel_size) * child.out_channels // child.groups
            nn.init.normal_(child.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(child, nn.Linear):
            bound = 1.0 / math.sqrt(child.out_features)
            nn.init.uniform_(child.weight, -bound, bound)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
    return module
