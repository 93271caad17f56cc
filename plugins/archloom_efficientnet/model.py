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
from torch.utils.checkpoint import checkpoint

from archloom import ConfigError, WeightFormat
from archloom.graphs import is_scripting, typed

from . import weights
from .blocks import ConvNorm, MBConv, SqueezeExcite
from .config import NetworkConfig, Padding, from_block_strings, named
from .formats import Behaviour, behaviour, weight_formats
from .padding import Pair, SameConv2d, freeze_padding, unfreeze_padding


class Features(nn.Module):
    """Stem, stages of blocks and head convolution: (N, in_channels, H, W) -> (N, C, H / 32, W / 32)."""

    def __init__(self, config: NetworkConfig, in_channels: int = 3) -> None:
        super().__init__()
        if in_channels < 1:
            raise ConfigError(f"in_channels must be at least 1, not {in_channels}")
        self.config, self.in_channels = config, in_channels
        self.made_of = config  # what its maker asked for, whatever weights bring with them
        stages = config.stages()
        _check_chain(config)
        stem = SameConv2d(in_channels, stages[0][0].input_filters, 3, 2, rule=config.padding)
        self.stem = ConvNorm(stem, config)
        total = sum(map(len, stages))
        # block i of n drops at rate i / n: the first never, the last almost at the full rate
        rates = iter([config.drop_connect_rate * i / total for i in range(total)])
        self.stages: Any = nn.ModuleList(
            nn.ModuleList(MBConv(args, config, next(rates)) for args in stage) for stage in stages
        )
        self.out_channels = config.head()
        self.head = ConvNorm(SameConv2d(stages[-1][-1].output_filters, self.out_channels, 1), config)
        self.gradient_checkpointing = False
        initialize(self)

    def blocks(self) -> Iterator[MBConv]:
        """All blocks in order."""
        for stage in self.stages:
            yield from stage

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage:
                if is_scripting():  # noqa: SIM108 - TorchScript leaves out a branch, not half an expression
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

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """What weights are trained for: padding rule, BatchNorm's epsilon and momentum (TensorFlow's)."""
        self.config = self.config.override(**behaviour.options())
        for module in self.modules():
            if isinstance(module, SameConv2d):
                module.rule = behaviour.padding
            elif isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = behaviour.epsilon, 1 - behaviour.momentum

    def weight_facts(self) -> dict[str, Any]:
        """What a file of its weights must say, so that they are read back as they were."""
        return behaviour("archloom", self.config).options()

    @property
    @torch.jit.unused
    def weight_formats(self) -> list[WeightFormat]:
        """The formats that `archloom.load_weights` knows for it."""
        return weight_formats(self.made_of, adopt)

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
        self.config = self.made_of = config
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
        self.features.set_behaviour(Behaviour(padding, epsilon, momentum))
        self.config = self.features.config.override(
            num_classes=self.config.num_classes, include_top=self.config.include_top
        )

    @property
    @torch.jit.unused
    def weight_formats(self) -> list[WeightFormat]:
        """The formats that `archloom.load_weights` knows for it."""
        return weight_formats(self.made_of, adopt)


def adopt(model: nn.Module, behaviour: Behaviour) -> None:
    """Let the features inside a model compute as weights need it."""
    for module in model.modules():
        if isinstance(module, EfficientNet):
            b = behaviour
            module.set_behaviour(padding=b.padding, epsilon=b.epsilon, momentum=b.momentum)
        elif isinstance(module, Features):
            module.set_behaviour(behaviour)


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
        (m, m.momentum, tracked, tracked.clone())
        for m in norms
        if (tracked := m.num_batches_tracked) is not None
    ]
    try:
        for m in norms:
            m.momentum = 0.0
        yield
    finally:
        for m, momentum, tracked, before in kept:
            m.momentum = momentum
            tracked.copy_(before)
