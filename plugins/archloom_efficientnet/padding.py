"""TensorFlow's SAME padding for convolutions and max-pooling, right at every size.

For input i, kernel k and stride s the output is ceil(i / s), the padding max((ceil(i / s) - 1) s + k - i, 0)
in all, its smaller half in front. Where the halves are equal (stride 1 with an odd kernel, stride 2 at an
odd size) PyTorch's own padding does it at no cost; where they differ by one, a zero row and column go
behind, which a layer before may have written already (`margin`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import ConfigError
from archloom.graphs import is_scripting, typed
from archloom.meta import output_shape

from .config import Padding

Pair = tuple[int, int]


def same_padding(size: int, kernel: int, stride: int) -> Pair:
    """(before, after) in one direction."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@torch.fx.wrap
def pad_same(x: Tensor, kernel: list[int], stride: list[int], value: float) -> Tensor:
    """x (..., H, W) with SAME padding of `value` around, for TorchScript and torch.fx: the sizes stay open.

    Where sizes are values rather than numbers this is one node of a graph, without a branch.
    """
    height, width = x.shape[-2], x.shape[-1]
    rows = max((-(-height // stride[0]) - 1) * stride[0] + kernel[0] - height, 0)
    columns = max((-(-width // stride[1]) - 1) * stride[1] + kernel[1] - width, 0)
    top, left = rows // 2, columns // 2
    return F.pad(x, [left, columns - left, top, rows - top], value=value)


@torch.fx.wrap
def of_size(x: Tensor, height: int, width: int) -> Tensor:
    """x (..., height, width) itself; another size is an error, also inside a graph."""
    if x.shape[-2] != height or x.shape[-1] != width:
        raise ValueError(
            f"padding is frozen for an input of {height} x {width}, and {x.shape[-2]} x {x.shape[-1]} came; "
            "freeze it for the other size, or make it dynamic again"
        )
    return x


_pad_same_in_trace: Any = torch.jit.script_if_tracing(pad_same)
_of_size_in_trace: Any = torch.jit.script_if_tracing(of_size)


class _Same:
    """What convolution and pooling share: `before` on both sides, and `margin` more rows and columns behind.

    `static_size` (height, width) freezes the amounts for one input size: an exported graph then holds
    constants. Another size is refused rather than padded wrongly.
    """

    def _set(self, kernel: Pair, step: Pair, rule: Padding) -> None:
        self.kernel, self.step, self.rule = kernel, step, rule
        self.static_size: Pair | None = None
        self.asked: dict[_Same, Pair] | None = None

    def amounts(self, size: Pair) -> tuple[Pair, Pair]:
        """(before, margin), each (height, width), for an input of `size` (height, width)."""
        if self.asked is not None:
            self.asked[self] = size
        if self.static_size is not None and size != self.static_size:
            raise ConfigError(
                f"padding is frozen for an input of {self.static_size[0]} x {self.static_size[1]}, and "
                f"{size[0]} x {size[1]} came; freeze it for the other size, or make it dynamic again"
            )
        if self.rule == "symmetric":
            return ((self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2), (0, 0)
        (top, bottom), (left, right) = (
            same_padding(i, k, s) for i, k, s in zip(size, self.kernel, self.step, strict=True)
        )
        return (top, left), (bottom - top, right - left)

    def padded(self, x: Tensor, value: float = 0.0) -> tuple[Tensor, Pair]:
        """(x, before): x with its margin behind, and what is to be padded on both sides of it.

        Where a graph is made, sizes are not numbers: it pads all around then, by a rule that holds for every
        size, or refuses every size but the frozen one.
        """
        tracing = torch._C._get_tracing_state() is not None
        if self.static_size is not None and (tracing or isinstance(x, torch.fx.Proxy)):
            x = (_of_size_in_trace if tracing else of_size)(x, *self.static_size)
            before, margin = self.amounts(self.static_size)
        elif self.rule == "symmetric":
            return x, ((self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2)
        elif tracing or isinstance(x, torch.fx.Proxy):
            pad = _pad_same_in_trace if tracing else pad_same
            return pad(x, list(self.kernel), list(self.step), value), (0, 0)
        else:
            before, margin = self.amounts(_size(x))
        return pad_behind(x, margin, value), before


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
        self._set(_pair(kernel_size), _pair(stride), rule)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, before: Pair | None = None) -> Tensor:
        """The convolution with other weights. With `before` given, x already ends in its margin of zeros."""
        if self.kernel == (1, 1) == self.step:
            return F.conv2d(x, weight, bias, groups=self.groups)
        if before is None:
            x, before = self.padded(x)
        return F.conv2d(x, weight, bias, self.step, before, groups=self.groups)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            if self.static_size is not None:
                x = of_size(x, self.static_size[0], self.static_size[1])
            before = [0, 0]
            if self.rule == "symmetric":
                before = [(self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2]
            else:
                x = pad_same(x, [self.kernel[0], self.kernel[1]], [self.step[0], self.step[1]], 0.0)
            return F.conv2d(x, self.weight, self.bias, self.step, before, groups=self.groups)
        return self.convolve(x, self.weight, self.bias)


class SameMaxPool2d(nn.Module, _Same):
    """Max-pooling padded as TensorFlow does, with minus infinity: no padded value is ever the maximum."""

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        super().__init__()
        self._set(_pair(kernel_size), _pair(kernel_size if stride is None else stride), "same")

    @typed
    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            if self.static_size is not None:
                x = of_size(x, self.static_size[0], self.static_size[1])
            x = pad_same(x, [self.kernel[0], self.kernel[1]], [self.step[0], self.step[1]], -math.inf)
            return F.max_pool2d(x, self.kernel, self.step)
        x, before = self.padded(x, -math.inf)
        return F.max_pool2d(x, self.kernel, self.step, before)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel}, stride={self.step}"


def pad_behind(x: Tensor, margin: Pair, value: float = 0.0) -> Tensor:
    """x with `margin` (rows, columns) more of `value` behind; x itself where there is none."""
    return x if margin == (0, 0) else F.pad(x, (0, margin[1], 0, margin[0]), value=value)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def freeze_padding(module: nn.Module, shape: tuple[int, ...]) -> None:
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
