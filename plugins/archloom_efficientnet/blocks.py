"""MBConv and its parts. Each is a plain module to whoever looks; what nobody watches is run in one and in place.

A module with a hook is called, and so is one of another class or with a forward of its own: the rest stays fused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom.graphs import is_scripting, typed

from . import layers
from .config import BlockArgs, NetworkConfig
from .padding import Pair, SameConv2d, pad_behind


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, and swish unless `act` is False: (N, C, H, W) -> (N, C', H', W').

    `margin` asks for that many rows and columns of zeros behind the result, `before` says that x brings
    its own (see `padding`).
    """

    def __init__(self, conv: SameConv2d, config: NetworkConfig, *, act: bool = True) -> None:
        super().__init__()
        self.conv = conv
        momentum = 1 - config.batch_norm_momentum
        self.bn = nn.BatchNorm2d(conv.out_channels, eps=config.batch_norm_epsilon, momentum=momentum)
        self.act, self.plain = act, False

    @typed
    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            y = self.bn(self.conv(x))
            return F.silu(y) if self.act else y
        return self.run(x)

    def run(self, x: Tensor, before: Pair | None = None, margin: Pair = (0, 0)) -> Tensor:
        """The forward, where x may bring its own margin and a margin is written behind the result."""
        if self.foldable(x):
            return pad_behind(self.infer(x, *layers.folded(self.conv, self.bn), before), margin)
        conv = self.conv
        y = conv(x) if before is None else conv.convolve(x, conv.weight, conv.bias, before)
        if self.act:
            return layers.bn_swish(y, self.bn, margin, plain=self.plain)
        return pad_behind(self.bn(y), margin)

    def takes_margin(self) -> bool:
        """Whether x may bring its margin: nobody sees it between here and the convolution."""
        return type(self) is ConvNorm and type(self.conv) is SameConv2d and layers.unwatched(self, self.conv)

    def gives_its_own(self) -> bool:
        """Whether what it gives is a new tensor that nobody else can hold."""
        return type(self) is ConvNorm and layers.unwatched(self) and (self.act or layers.is_ordinary(self.bn))

    def foldable(self, x: Tensor) -> bool:
        """Whether BatchNorm can go into the convolution on the fly: the same sum, one pass less."""
        return (
            not (self.plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and layers.may_fuse(x)
            and x.device.type == "cpu"
            and type(self.conv) is SameConv2d
            and layers.may_fold(self.conv, self.bn)
        )

    def infer(self, x: Tensor, weight: Tensor, bias: Tensor, before: Pair | None = None) -> Tensor:
        """The forward with folded weights."""
        y = self.conv.convolve(x, weight, bias, before)
        return F.silu(y, inplace=True) if self.act else y


class SqueezeExcite(nn.Module):
    """x * sigmoid(expand(swish(reduce(mean of x over the image)))), (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.plain = False

    @typed
    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            return x * torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return layers.scale_gate(x, self._logits(x), plain=self.plain)

    def gate_(self, x: Tensor) -> Tensor:
        """The forward written into x, which must be the caller's alone."""
        return x.mul_(torch.sigmoid(self._logits(x)))

    def _logits(self, x: Tensor) -> Tensor:
        return self.expand(F.silu(self.reduce(layers.pooled(x))))


class MBConv(nn.Module):
    """expand 1x1 -> depthwise k x k -> squeeze-and-excite -> project 1x1, plus the input where shapes agree.

    (N, input_filters, H, W) -> (N, output_filters, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, args: BlockArgs, config: NetworkConfig, drop_connect_rate: float = 0.0) -> None:
        super().__init__()
        self.args, self.drop_connect_rate = args, drop_connect_rate
        width = args.input_filters * args.expand_ratio
        self.expand = (
            ConvNorm(SameConv2d(args.input_filters, width, 1), config) if args.expand_ratio != 1 else None
        )
        depthwise = SameConv2d(width, width, args.kernel_size, args.stride, groups=width, rule=config.padding)
        self.depthwise = ConvNorm(depthwise, config)
        # the ratio is of the block's input, not of the expanded width
        squeezed = max(1, int(args.input_filters * (args.se_ratio or 0)))
        self.se = SqueezeExcite(width, squeezed) if args.se_ratio else None
        self.project = ConvNorm(SameConv2d(width, args.output_filters, 1), config, act=False)
        self.residual = args.id_skip and args.stride == (1, 1) and args.input_filters == args.output_filters

    @typed
    def forward(self, x: Tensor) -> Tensor:
        if not is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half a condition
            if layers.may_fuse(x):
                return self._run(x)
        y = x
        if self.expand is not None:
            y = self.expand(y)
        y = self.depthwise(y)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        if self.residual:
            y = layers.drop_connect_add(y, x, self.drop_connect_rate, self.training)
        return y

    def _run(self, x: Tensor) -> Tensor:
        """The forward, in place and in one where nobody watches: whatever has a hook is called."""
        if self._infers_at_once(x):
            return self._infer(x)
        own = not torch.is_grad_enabled()
        before, margin = None, (0, 0)
        y = x
        if self.expand is not None:
            if (
                type(self.expand) is ConvNorm
                and layers.unwatched(self.expand)
                and self.depthwise.takes_margin()
            ):
                before, margin = self.depthwise.conv.amounts((x.shape[2], x.shape[3]))
                y = self.expand.run(x, margin=margin)
            else:
                y = self.expand(x)
        y = self.depthwise(y) if before is None else self.depthwise.run(y, before)
        if self.se is not None:
            y = self.se.gate_(y) if own and self._gates_its_own() else self.se(y)
        y = self.project(y)
        if not self.residual:
            return y
        if own and not self.training and self.project.gives_its_own():
            return y.add_(x)
        return layers.drop_connect_add(y, x, self.drop_connect_rate, self.training)

    def _gates_its_own(self) -> bool:
        """Whether nobody else holds what the squeeze-and-excitation is given."""
        return type(self.se) is SqueezeExcite and layers.unwatched(self.se) and self.depthwise.gives_its_own()

    def _infers_at_once(self, x: Tensor) -> bool:
        """Whether the block is run in slices of the batch, without calling its parts."""
        parts = [part for part in (self.expand, self.depthwise, self.project) if part is not None]
        if not all(type(part) is ConvNorm and layers.unwatched(part) and part.foldable(x) for part in parts):
            return False
        if self.se is None:
            return True
        return type(self.se) is SqueezeExcite and layers.unwatched(self.se, self.se.reduce, self.se.expand)

    def _infer(self, x: Tensor) -> Tensor:
        """The forward without gradients: BatchNorm folded, the batch in slices that the cache holds."""
        expand = None if self.expand is None else layers.folded(self.expand.conv, self.expand.bn)
        depthwise = layers.folded(self.depthwise.conv, self.depthwise.bn)
        project = layers.folded(self.project.conv, self.project.bn)
        outputs = []
        for part in layers.slices(x, x[0].nbytes * self.args.expand_ratio if len(x) else 0):
            skip = y = x[part]
            if self.expand is not None and expand is not None:
                y = self.expand.infer(y, *expand)
            y = self.depthwise.infer(y, *depthwise)
            if self.se is not None:
                y = self.se.gate_(y)
            y = self.project.infer(y, *project)
            if self.residual:
                rate = self.drop_connect_rate
                y = layers.drop_connect_add(y, skip, rate, True) if self.training else y.add_(skip)
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
