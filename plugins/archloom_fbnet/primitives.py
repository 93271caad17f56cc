"""The 39 building blocks of the FBNet space, from one factory.

`primitive` makes every block there is: a candidate in a supernet, an entry of a latency table, a layer
of a derived network. What differs between those is in `BlockOptions`, never in a second code path.

The inverted-residual block (paper, figure 3):

    1x1 conv (g groups) BN ReLU -> [shuffle] -> [up-sample] -> KxK depthwise BN ReLU -> 1x1 conv (g) BN
    -> + x where shape is kept -> [squeeze and excitation]

Parameter names are those under which trained weights of this family are commonly stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import SpaceError, nearest
from archloom.graphs import is_scripting, unhooked

Norm = Literal["bn", "gn", "frozen_bn"]


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network have in common.

    norm: BatchNorm, GroupNorm with `norm_groups` groups, or BatchNorm with everything fixed.
    width_divisor: inner widths are rounded to its multiples.
    dw_norm, dw_relu: norm and ReLU after the (last) depthwise convolution.
    """

    norm: Norm = "bn"
    norm_groups: int = 8
    width_divisor: int = 1
    dw_norm: bool = True
    dw_relu: bool = True


@dataclass(frozen=True)
class InvertedResidual:
    """The parameters of one kind of inverted-residual block.

    expansion: inner width over input width; None where the layer gives it. groups: of both 1x1
    convolutions, with a channel shuffle between them where there are several. twice: two depthwise
    convolutions in a row, the first of which has the stride.
    """

    kernel: int
    expansion: float | None = None
    groups: int = 1
    se: bool = False
    twice: bool = False


def _inverted_residuals() -> dict[str, InvertedResidual]:
    table = {f"ir_k{k}": InvertedResidual(k) for k in (1, 3, 5, 7)}
    table["shuffle"] = InvertedResidual(3, groups=4)
    table |= {f"ir_k{k}_e{e}": InvertedResidual(k, e) for k in (3, 5, 7) for e in (1, 3, 6)}
    for k in (3, 5):
        table[f"ir_k{k}_s2"] = InvertedResidual(k, 1, groups=2)
        table[f"ir_k{k}_s4"] = InvertedResidual(k, 4, groups=4)
        for kind in ("e1", "e3", "e6", "s2", "s4"):
            plain = table[f"ir_k{k}_{kind}"]
            table[f"ir_k{k}_{kind}_se"] = InvertedResidual(k, plain.expansion, plain.groups, se=True)
    for name, k in (("ir_k3_sep", 3), ("ir_k7_sep", 7)):
        table[name] = InvertedResidual(k, twice=True)
    for name, k in (("ir_k33", 3), ("ir_k7_sep", 7)):
        table |= {f"{name}_e{e}": InvertedResidual(k, e, twice=True) for e in (1, 3, 6)}
    return table


INVERTED_RESIDUALS: Mapping[str, InvertedResidual] = MappingProxyType(_inverted_residuals())
PRIMITIVES: tuple[str, ...] = ("skip", "basic_block", "shift_5x5", *INVERTED_RESIDUALS)

CANDIDATES: tuple[str, ...] = (
    "ir_k3_e1", "ir_k3_s2", "ir_k3_e3", "ir_k3_e6", "ir_k5_e1", "ir_k5_s2", "ir_k5_e3", "ir_k5_e6", "skip",
)  # fmt: skip
"""The nine candidates of the paper's table 2, in the order of the published latency tables."""


def primitive(
    name: str,
    c_in: int,
    c_out: int,
    expansion: float,
    stride: int,
    options: BlockOptions = BlockOptions(),
) -> nn.Module:
    """The block `name`: (N, c_in, H, W) -> (N, c_out, H', W').

    expansion: used by the blocks whose name does not fix one. stride: 1, 2 or 4; -2 or -4 enlarge the
    image by that factor instead (nearest neighbour). Raises SpaceError for an unknown name and for widths
    or strides that the block cannot have.
    """
    if name == "skip":
        return Skip(c_in, c_out, stride, options)
    if name == "basic_block":
        return BasicBlock(c_in, c_out, stride, options)
    if name == "shift_5x5":
        return ShiftBlock(c_in, c_out, expansion, stride, options)
    if name not in INVERTED_RESIDUALS:
        near = nearest(name, PRIMITIVES)
        hint = f"; did you mean '{near}'?" if near else "."
        raise SpaceError(f"there is no block '{name}'{hint} Known: {', '.join(sorted(PRIMITIVES))}.")
    return InvertedResidualBlock(c_in, c_out, expansion, stride, INVERTED_RESIDUALS[name], options)


def divisible(width: float, divisor: int, *, up: bool = False) -> int:
    """`width`, cut to an integer, as a multiple of `divisor`: the nearest (half up), or the next above.

    Never less than one `divisor`.
    """
    if divisor <= 1:
        return max(int(width), 1)
    multiple = math.ceil(width / divisor) if up else math.floor(int(width) / divisor + 0.5)
    return max(multiple, 1) * divisor


def make_norm(channels: int, options: BlockOptions) -> nn.Module:
    """The norm layer that `options` name, for `channels` channels."""
    if options.norm == "bn":
        return nn.BatchNorm2d(channels)
    if options.norm == "frozen_bn":
        from torchvision.ops import FrozenBatchNorm2d  # takes a second, which only its users should spend

        return FrozenBatchNorm2d(channels)
    if channels % options.norm_groups:
        raise SpaceError(
            f"GroupNorm with {options.norm_groups} groups cannot take {channels} channels; "
            "choose norm_groups (or width_divisor) so that it divides every width"
        )
    return nn.GroupNorm(options.norm_groups, channels)


class Sequence(nn.Sequential):
    """Layers one after another. A ReLU works in place where no hook or extractor may hold what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            for layer in self:
                x = layer(x)
            return x
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        before: nn.Module | None = None
        for layer in self:
            if type(layer) is nn.ReLU and before is not None and unhooked(layer) and gives_its_own(before, x):
                x = F.relu(x, inplace=True)
            else:
                x = layer(x)
            before = layer
        return x


def gives_its_own(layer: nn.Module, result: Tensor) -> bool:
    """Whether nobody but its caller can hold what `layer`, or the last layer in it, has given."""
    last = layer[-1] if isinstance(layer, nn.Sequential) and len(layer) else layer
    return unhooked(layer) and unhooked(last) and not isinstance(result, torch.fx.Proxy)


def added(y: Tensor, x: Tensor, giver: nn.Module) -> Tensor:
    """y + x, written into y where nobody but `giver`'s caller can hold it."""
    return y.add_(x) if gives_its_own(giver, y) else y + x


class ConvNormReLU(Sequence):
    """conv (without bias), norm, ReLU; the last two where asked for. Padding keeps the size at stride 1."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int,
        options: BlockOptions,
        *,
        groups: int = 1,
        norm: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("conv", conv)
        if norm:
            self.add_module("bn", make_norm(c_out, options))
        if relu:
            self.add_module("relu", nn.ReLU())


class Upsample(nn.Module):
    """Nearest-neighbour enlargement by `factor`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode="nearest")


def _split_stride(stride: int, block: str, allowed: tuple[int, ...] = (1, 2, 4, -2, -4)) -> tuple[int, int]:
    """(stride of the convolution, factor of the up-sampling)."""
    if stride not in allowed:
        raise SpaceError(f"the block {block} cannot have stride {stride}; it takes {list(allowed)}")
    return (1, -stride) if stride < 0 else (stride, 1)


class Skip(nn.Module):
    """The input itself; where the shape changes, a 1x1 convolution with norm and ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        stride, factor = _split_stride(stride, "skip")
        self.upsample = Upsample(factor) if factor > 1 else nn.Identity()
        changes = c_in != c_out or stride != 1 or factor != 1
        self.conv = ConvNormReLU(c_in, c_out, 1, stride, options) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.upsample(x))


class BasicBlock(Sequence):
    """Two 3x3 convolutions, the first at the input's width and with the stride; a residual where it fits."""

    def __init__(self, c_in: int, c_out: int, stride: int, options: BlockOptions) -> None:
        stride, _ = _split_stride(stride, "basic_block", (1, 2))
        super().__init__(
            nn.Conv2d(c_in, c_in, 3, stride, 1, bias=False),
            make_norm(c_in, options),
            nn.ReLU(),
            nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False),
            make_norm(c_out, options),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            y = x
            for layer in self:
                y = layer(y)
            return y + x if self.residual else y
        y = self.run(x)
        return added(y, x, self[-1]) if self.residual else y


class Shift(nn.Module):
    """A fixed depthwise convolution that moves each group of channels by one offset of a KxK window.

    Channels are shared out over the K*K offsets in row-major order; the centre also takes the remainder.
    The kernel is a frozen parameter: it is stored with the weights and never trained.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        share, remainder = divmod(channels, kernel**2)
        centre = kernel**2 // 2
        counts = [share + remainder * (offset == centre) for offset in range(kernel**2)]
        offset_of = torch.repeat_interleave(torch.arange(kernel**2), torch.tensor(counts))
        onehot = F.one_hot(offset_of, kernel**2).float()
        self.kernel = nn.Parameter(onehot.view(channels, 1, kernel, kernel), requires_grad=False)
        self.stride, self.padding, self.groups = stride, kernel // 2, channels

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, self.stride, self.padding, groups=self.groups)


class ShiftBlock(Sequence):
    """1x1 conv, norm, ReLU, 5x5 shift, 1x1 conv, norm; a residual where shape is kept.

    The inner width is a multiple of 8 whatever the options' width divisor.
    """

    def __init__(self, c_in: int, c_out: int, expansion: float, stride: int, options: BlockOptions) -> None:
        stride, _ = _split_stride(stride, "shift_5x5", (1, 2))
        c_mid = divisible(c_in * expansion, 8)
        super().__init__(
            nn.Conv2d(c_in, c_mid, 1, bias=False),
            make_norm(c_mid, options),
            nn.ReLU(),
            Shift(c_mid, 5, stride),
            nn.Conv2d(c_mid, c_out, 1, bias=False),
            make_norm(c_out, options),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            y = x
            for layer in self:
                y = layer(y)
            return y + x if self.residual else y
        y = self.run(x)
        return added(y, x, self[-1]) if self.residual else y


def interleave(x: Tensor, groups: int) -> Tensor:
    """Channels of x (N, C, H, W) as (groups, C / groups) read as (C / groups, groups), in x's memory format."""
    if x.is_contiguous(memory_format=torch.channels_last):
        # F.channel_shuffle would give the other layout, and the next convolution would convert back
        y = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).transpose(3, 4).flatten(3)
        return y.permute(0, 3, 1, 2)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


torch.fx.wrap("interleave")  # one step of a graph, which asks for the layout when it runs


class ChannelShuffle(nn.Module):
    """Channels of g groups interleaved: (g, C/g) read as (C/g, g)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return interleave(x, self.groups)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), inner width C / 4 but at least 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 8)
        self.op = Sequence(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.op(x)


class InvertedResidualBlock(nn.Module):
    """The block of the module's docstring. The excitation comes after the residual is added.

    With kernel 1 there is no depthwise convolution, hence nothing that carries a stride: the image keeps
    its size, and a stride other than 1 only removes the residual.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        expansion: float,
        stride: int,
        kind: InvertedResidual,
        options: BlockOptions,
    ) -> None:
        super().__init__()
        kernel, groups = kind.kernel, kind.groups
        self.residual = stride == 1 and c_in == c_out
        stride, factor = _split_stride(stride, "inverted residual")
        c_mid = divisible(
            c_in * (expansion if kind.expansion is None else kind.expansion), options.width_divisor
        )
        if any(width % groups for width in (c_in, c_mid, c_out)):
            raise SpaceError(
                f"{groups} groups do not divide the widths {c_in}, {c_mid}, {c_out}; "
                "choose a width_ratio or width_divisor that gives multiples"
            )
        self.pw = ConvNormReLU(c_in, c_mid, 1, 1, options, groups=groups)
        self.shuffle = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.upsample = Upsample(factor) if factor > 1 else nn.Identity()
        last = {"norm": options.dw_norm, "relu": options.dw_relu}
        self.dw: nn.Module = nn.Identity()
        if kind.twice:
            self.dw = nn.Sequential()
            self.dw.add_module("dw1", ConvNormReLU(c_mid, c_mid, kernel, stride, options, groups=c_mid))
            self.dw.add_module("dw2", ConvNormReLU(c_mid, c_mid, kernel, 1, options, groups=c_mid, **last))
        elif kernel > 1:
            self.dw = ConvNormReLU(c_mid, c_mid, kernel, stride, options, groups=c_mid, **last)
        self.pwl = ConvNormReLU(c_mid, c_out, 1, 1, options, groups=groups, relu=False)
        self.se4 = SqueezeExcitation(c_out) if kind.se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwl(self.dw(self.upsample(self.shuffle(self.pw(x)))))
        if is_scripting():
            return self.se4(y + x if self.residual else y)
        return self.se4(added(y, x, self.pwl) if self.residual else y)
