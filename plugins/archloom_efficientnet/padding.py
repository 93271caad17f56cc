"""TensorFlow's SAME padding for convolutions and max-pooling, right at every size.

For input i, kernel k and stride s the output is ceil(i / s), the padding max((ceil(i / s) - 1) s + k - i, 0)
in all, its smaller half in front. Where the halves are equal (stride 1 with an odd kernel, stride 2 at an
odd size) PyTorch's own padding does it at no cost; where they differ by one, a zero row and column go
behind, which a layer before may have written already (`margin`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom.errors import ConfigError
from archloom.model import output_shape

from .config import Padding

Pair = tuple[int, int]


def same_padding(size: int, kernel: int, stride: int) -> Pair:
    """(before, after) in one direction."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Same:
    """What convolution and pooling share: `before` on both sides, and `margin` more rows and columns behind.

    `static_size` (height, width) freezes the amounts for one input size: an exported graph then holds
    constants. Another size is refused rather than padded wrongly.
    """

    kernel: Pair
    step: Pair
    rule: Padding
    static_size: Pair | None = None
    asked: dict[_Same, Pair] | None = None

    def amounts(self, size: Pair) -> tuple[Pair, Pair]:
        """(before, margin), each (height, width), for an input of `size` (height, width)."""
        if self.asked is not None:
            self.asked[self] = size
        if self.static_size is not None:
            # while a graph is traced sizes are tensors, and the comparison would become part of it
            if not is_tracing() and size != self.static_size:
                raise ConfigError(
                    f"padding is frozen for an input of {self.static_size[0]} x {self.static_size[1]}, and "
                    f"{size[0]} x {size[1]} came; freeze it for the other size, or make it dynamic again"
                )
            size = self.static_size
        if self.rule == "symmetric":
            return ((self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2), (0, 0)
        (top, bottom), (left, right) = (
            same_padding(i, k, s) for i, k, s in zip(size, self.kernel, self.step, strict=True)
        )
        return (top, left), (bottom - top, right - left)


def is_tracing() -> bool:
    """Whether a graph is being made rather than run."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _size(x: Tensor) -> Pair:
    return x.shape[-2], x.shape[-1]


class SameConv2d(nn.Conv2d, _Same):
    """`nn.Conv2d` without dilation, padded by `rule`; its parameters and state keys are `nn.Conv2d`'s."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        rule: Padding = "same",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        self.kernel: Pair = self.kernel_size  # type: ignore[assignment]
        self.step: Pair = self.stride  # type: ignore[assignment]
        self.rule = rule

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, before: Pair | None = None) -> Tensor:
        """The convolution with other weights. With `before` given, x already ends in its margin of zeros."""
        if self.kernel == (1, 1) == self.step:
            return F.conv2d(x, weight, bias, groups=self.groups)
        if before is None:
            before, margin = self.amounts(_size(x))
            x = pad_behind(x, margin)
        return F.conv2d(x, weight, bias, self.stride, before, groups=self.groups)

    def forward(self, x: Tensor, before: Pair | None = None) -> Tensor:
        return self.convolve(x, self.weight, self.bias, before)


class SameMaxPool2d(nn.Module, _Same):
    """Max-pooling padded as TensorFlow does, with minus infinity: no padded value is ever the maximum."""

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        super().__init__()
        self.kernel = _pair(kernel_size)
        self.step = self.kernel if stride is None else _pair(stride)
        self.rule = "same"

    def forward(self, x: Tensor) -> Tensor:
        before, margin = self.amounts(_size(x))
        return F.max_pool2d(pad_behind(x, margin, -math.inf), self.kernel, self.step, before)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel}, stride={self.step}"


def pad_behind(x: Tensor, margin: Pair, value: float = 0.0) -> Tensor:
    """x with `margin` (rows, columns) more of `value` behind; x itself where there is none."""
    return x if margin == (0, 0) else F.pad(x, (0, margin[1], 0, margin[0]), value=value)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def freeze_padding(module: nn.Module, shape: tuple[int, int, int]) -> None:
    """Bake into every SAME layer of `module` the padding that images of `shape` (C, H, W) need, for export.

    A trace that computes nothing finds the layers' sizes. A layer that the trace does not reach stays
    dynamic. `unfreeze_padding` is the way back.
    """
    unfreeze_padding(module)
    layers = [layer for layer in module.modules() if isinstance(layer, _Same)]
    asked: dict[_Same, Pair] = {}
    try:
        for layer in layers:
            layer.asked = asked
        output_shape(module, shape)
    finally:
        for layer in layers:
            layer.asked = None
    for reached, size in asked.items():
        reached.static_size = size


def unfreeze_padding(module: nn.Module) -> None:
    """Let every SAME layer of `module` find its padding from the image again."""
    for layer in module.modules():
        if isinstance(layer, _Same):
            layer.static_size = None
