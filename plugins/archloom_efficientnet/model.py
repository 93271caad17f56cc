"""EfficientNet: MBConv blocks between a stem and a head convolution, then pooling, dropout and classifier.

Source: Tan and Le, EfficientNet (arXiv 1905.11946); the constants are those of its TensorFlow release.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from archloom.errors import ConfigError
from archloom.graphs import typed

from . import layers, weights
from .config import BlockArgs, NetworkConfig, Padding, from_block_strings, named
from .padding import Pair, SameConv2d, freeze_padding, pad_behind, unfreeze_padding


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
        if torch.jit.is_scripting():
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
        if torch.jit.is_scripting():
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
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half a condition
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


class Features(nn.Module):
    """Stem, stages of blocks and head convolution: (N, in_channels, H, W) -> (N, C, H / 32, W / 32)."""

    def __init__(self, config: NetworkConfig, in_channels: int = 3) -> None:
        super().__init__()
        if in_channels < 1:
            raise ConfigError(f"in_channels must be at least 1, not {in_channels}")
        self.config, self.in_channels = config, in_channels
        stages = config.stages()
        _check_chain(config)
        stem = SameConv2d(in_channels, stages[0][0].input_filters, 3, 2, rule=config.padding)
        self.stem = ConvNorm(stem, config)
        total = sum(map(len, stages))
        # block i of n drops at rate i / n: the first never, the last almost at the full rate
        rates = iter([config.drop_connect_rate * i / total for i in range(total)])
        self.stages = nn.ModuleList(
            nn.ModuleList(MBConv(args, config, next(rates)) for args in stage) for stage in stages
        )
        self.out_channels = config.head()
        self.head = ConvNorm(SameConv2d(stages[-1][-1].output_filters, self.out_channels, 1), config)
        self.gradient_checkpointing = False
        initialize(self)

    def blocks(self) -> Iterator[MBConv]:
        """All blocks in order."""
        for stage in self.stages:
            yield from stage  # type: ignore[misc]

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage:
                if torch.jit.is_scripting():  # noqa: SIM108 - TorchScript leaves out a branch, not half an expression
                    x = block(x)
                else:
                    x = self._run(block, x)
        return self.head(x)

    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """`reduction_1` ...: the last tensor before each further reduction, the last block's, the head's.

        Numbered by the strides of the network, so that an image too small to shrink any further keeps
        the numbering.
        """
        found: list[Tensor] = []
        x = self.stem(x)
        for block in self.blocks():
            if block.args.stride != (1, 1):
                found.append(x)
            x = self._run(block, x)
        found += [x, self.head(x)]
        return {f"reduction_{level}": tensor for level, tensor in enumerate(found, start=1)}

    def _run(self, block: MBConv, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled() and not isinstance(x, torch.fx.Proxy):
            return checkpoint(
                block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block))
            )
        return block(x)


class EfficientNet(nn.Module):
    """A whole classifier: (N, in_channels, H, W) -> (N, num_classes).

    `features`, `pooling`, `dropout` and `classifier` may be replaced by modules of one's own. With
    `include_top=False` there is neither dropout nor classifier, and the forward gives the pooled features
    (N, C). `from_name`, `from_block_strings` and `from_pretrained` are the usual ways to one.
    """

    def __init__(self, config: NetworkConfig, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.features = Features(config, in_channels)
        self.pooling: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.dropout: nn.Module = nn.Dropout(config.dropout_rate) if config.include_top else nn.Identity()
        self.classifier: nn.Module = nn.Identity()
        if config.include_top:
            self.classifier = nn.Linear(self.features.out_channels, config.num_classes)
            initialize(self.classifier)

    @classmethod
    def from_name(cls, name: str, in_channels: int = 3, **overrides: Any) -> EfficientNet:
        """`efficientnet-b0` to `-b8` or `-l2`; `overrides` are fields of `NetworkConfig`."""
        return cls(named(name).override(**overrides), in_channels)

    @classmethod
    def from_block_strings(
        cls, strings: Iterable[str], in_channels: int = 3, **overrides: Any
    ) -> EfficientNet:
        """A network of one's own stages, such as `r2_k3_s22_e6_i16_o24_se0.25`."""
        return cls(from_block_strings(strings, **overrides), in_channels)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        weights_path: str | Path | None = None,
        advprop: bool = False,
        in_channels: int = 3,
        num_classes: int | None = None,
        *,
        weight_format: str | None = None,
        classifier: Literal["load", "reset"] = "load",
        tag: str | None = None,
        **overrides: Any,
    ) -> EfficientNet:
        """A named network with weights from a file, or from the model hub where no file is given.

        num_classes: None for as many as the file has. Another number than the file's is refused unless
        `classifier="reset"` asks for a fresh classifier. in_channels: a file's three-channel stem is
        summed or repeated. weight_format, tag: see `weights.read` and `hub.download`. Padding, BatchNorm
        epsilon and momentum come with the weights; what `overrides` say wins. Raises WeightsError where
        the file does not fit.
        """
        return weights.pretrained(
            cls,
            named(name),
            weights_path,
            advprop=advprop,
            in_channels=in_channels,
            num_classes=num_classes,
            weight_format=weight_format,
            classifier=classifier,
            tag=tag,
            overrides=overrides,
        )

    @staticmethod
    def get_image_size(name: str) -> int:
        """The native resolution of a named network: the side of its square images, in pixels."""
        size = named(name).image_size
        if size is None:
            raise ConfigError(f"network '{name}' has no native resolution")
        return size

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.features.in_channels

    def extract_features(self, x: Tensor) -> Tensor:
        """The head convolution's map, (N, C, H / 32, W / 32)."""
        return self.features(x)

    def extract_endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """The map of every reduction level, `reduction_1` (half the image) to `reduction_6` (the head)."""
        return self.features.endpoints(x)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.pooling(self.features(x)).flatten(1)
        return self.classifier(self.dropout(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh classifier for `num_classes`, in the network's mode, on its device and in its type."""
        self.config = self.config.override(num_classes=num_classes, include_top=True)
        parameter = next(self.parameters())
        self.classifier = nn.Linear(self.features.out_channels, num_classes)
        initialize(self.classifier)
        self.classifier.to(parameter.device, parameter.dtype).train(self.training)
        if isinstance(self.dropout, nn.Identity):
            self.dropout = nn.Dropout(self.config.dropout_rate).train(self.training)

    def set_swish(self, memory_efficient: bool = True) -> None:
        """False: plain `F.silu` and BatchNorm modules throughout, for exporters and second derivatives."""
        for module in self.modules():
            if isinstance(module, ConvNorm | SqueezeExcite):
                module.plain = not memory_efficient

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass; all gradients and statistics stay the same."""
        self.features.gradient_checkpointing = enabled

    def set_static_padding(self, image_size: int | Pair | None) -> None:
        """Freeze the SAME padding for images of one size, for export; None makes it dynamic again."""
        if image_size is None:
            unfreeze_padding(self)
            return
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        freeze_padding(self, (self.features.in_channels, height, width))

    def set_behaviour(self, *, padding: Padding, epsilon: float, momentum: float) -> None:
        """What weights are trained for: padding rule, BatchNorm's epsilon and momentum (TensorFlow's)."""
        self.config = self.features.config = self.config.override(
            padding=padding, batch_norm_epsilon=epsilon, batch_norm_momentum=momentum
        )
        for module in self.features.modules():
            if isinstance(module, SameConv2d):
                module.rule = padding
            elif isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = epsilon, 1 - momentum


def initialize(module: nn.Module) -> None:
    """Draw weights as the TensorFlow release does, from PyTorch's global generator.

    Convolutions: normal, deviation sqrt(2 / fan_out), fan_out per group; linear layers: uniform within
    1 / sqrt(out_features); biases zero.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -(layer.out_features**-0.5), layer.out_features**-0.5)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _check_chain(config: NetworkConfig) -> None:
    for before, block in zip(config.blocks, config.blocks[1:], strict=False):
        if before.output_filters != block.input_filters:
            raise ConfigError(
                f"block '{block.encode()}' takes {block.input_filters} channels, and the one before it "
                f"gives {before.output_filters}"
            )


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """A forward inside the block leaves BatchNorm's running statistics as they are: it is the second one."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.momentum is not None]
    kept = [
        (m, m.momentum, m.num_batches_tracked.clone()) for m in norms if m.num_batches_tracked is not None
    ]
    try:
        for m in norms:
            m.momentum = 0.0
        yield
    finally:
        for m, momentum, tracked in kept:
            m.momentum = momentum
            m.num_batches_tracked.copy_(tracked)  # type: ignore[union-attr]
