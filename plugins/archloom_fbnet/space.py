"""The FBNet search space (paper, tables 1 and 2): a chain of layers, each one of nine blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from archloom import Architecture, Around, Choice, NamedArchitecture, SpaceError, WeightFormat, build_chain

from .named import NETWORKS
from .primitives import (
    CANDIDATES,
    INVERTED_RESIDUALS,
    BlockOptions,
    ConvNormReLU,
    Norm,
    divisible,
    primitive,
)
from .weights import REFERENCE

Form = Literal["imagenet", "cifar", "small"]

STAGES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    # (channels, layers, stride of the first layer)
    "imagenet": ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)),
    "cifar": ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)),
    "small": ((24, 2, 1), (40, 2, 2), (80, 3, 2)),
}
STEM_STRIDE = {"imagenet": 2, "cifar": 1, "small": 1}
HEAD_WIDTH = {"imagenet": 1504, "cifar": 1504, "small": 256}
STEM_WIDTH = 16


@dataclass(frozen=True)
class Layer:
    """One searched layer: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""

    c_in: int
    c_out: int
    stride: int


class FBNetSpace:
    """22 layers (7 in the small form) with nine candidate blocks each, between a stem and a 1x1 convolution.

    form: "imagenet" for images around 224, "cifar" for 32 (three halvings instead of five), "small" for 8
        to 32 (7 layers, two halvings).
    in_channels: of the images.
    candidates: names of `primitives.PRIMITIVES` instead of the paper's nine.
    expansion: for candidates whose name fixes none.
    stages: [channels, layers, stride] for each stage, instead of the form's; a stride of -2 enlarges.
    stem: [channels, stride] or [channels, stride, kernel], instead of the form's.
    width_ratio, width_divisor: all widths but the head's are scaled, and rounded to multiples.
    head_width: of the last 1x1 convolution; by default the form's.
    norm, norm_groups: BatchNorm, GroupNorm, or frozen BatchNorm, everywhere.
    dw_norm, dw_relu: norm and ReLU after depthwise convolutions. By default both; see `reference`.
    reference: the form of the reference code instead of the paper's. Its last 1x1 convolution has a bias
        and neither norm nor ReLU and is 1504 wide in all named networks; scaled widths are rounded to the
        nearest multiple instead of upwards; weights start from its distribution. It drops norm and ReLU
        after the depthwise convolutions in networks that it builds, but not in its supernet: then `build`
        and the supernet differ, and weights cannot be inherited unless dw_norm and dw_relu say which.
    """

    def __init__(
        self,
        *,
        form: Form = "imagenet",
        in_channels: int = 3,
        candidates: list[str] | None = None,
        expansion: float = 6.0,
        stages: list[list[int]] | None = None,
        stem: list[int] | None = None,
        width_ratio: float = 1.0,
        width_divisor: int = 8,
        head_width: int | None = None,
        norm: Norm = "bn",
        norm_groups: int = 8,
        dw_norm: bool | None = None,
        dw_relu: bool | None = None,
        reference: bool = False,
    ) -> None:
        if form not in STAGES:
            raise SpaceError(f"the FBNet space has no form '{form}'; it has {', '.join(STAGES)}")
        if width_ratio <= 0 or width_divisor < 1:
            raise SpaceError(
                "width_ratio must be positive and width_divisor at least 1, "
                f"not {width_ratio} and {width_divisor}"
            )
        self.form, self.in_channels, self.expansion, self.reference = form, in_channels, expansion, reference
        self.head_width = HEAD_WIDTH[form] if head_width is None else head_width
        for name, value in {
            "in_channels": in_channels,
            "head_width": self.head_width,
            "expansion": expansion,
        }.items():
            if not value > 0:
                raise SpaceError(f"{name} must be positive, not {value}")
        self.stem = _checked_stem([STEM_WIDTH, STEM_STRIDE[form]] if stem is None else stem)
        self.stages = _checked_stages(STAGES[form] if stages is None else stages)
        self._custom = stages is not None or stem is not None
        self.searched = BlockOptions(
            norm=norm,
            norm_groups=norm_groups,
            width_divisor=width_divisor,
            dw_norm=dw_norm is not False,
            dw_relu=dw_relu is not False,
        )
        # the reference's networks, as opposed to its supernet, drop what is not asked for
        self.built = BlockOptions(
            norm=norm,
            norm_groups=norm_groups,
            width_divisor=width_divisor,
            dw_norm=(not reference) if dw_norm is None else dw_norm,
            dw_relu=(not reference) if dw_relu is None else dw_relu,
        )
        self.width_ratio, self.width_divisor = width_ratio, width_divisor
        self.layers = self._layers()
        options = tuple(CANDIDATES if candidates is None else candidates)
        self.choices: Sequence[Choice] = [Choice(name, options) for name in self.layers]
        self.weight_formats: Sequence[WeightFormat] = (REFERENCE,)
        self.recommended_model: Mapping[str, Any] = {"head": {"type": "LinearHead", "dropout": 0.2}}

    def _width(self, channels: int) -> int:
        return divisible(channels * self.width_ratio, self.width_divisor, up=not self.reference)

    def _layers(self) -> dict[str, Layer]:
        layers: dict[str, Layer] = {}
        c_in = self._width(self.stem[0])
        for channels, count, stride in self.stages:
            c_out = self._width(channels)
            for position in range(count):
                layers[f"layer{len(layers)}"] = Layer(c_in, c_out, stride if position == 0 else 1)
                c_in = c_out
        return layers

    @property
    def named(self) -> Mapping[str, NamedArchitecture]:
        """The published networks that this space's layers and candidates can express.

        The options are those of the paper's form, or of the reference's where this space has it: the
        reference builds all of them at full width with a head of 1504.
        """
        options = self.choices[0].options
        if self._custom or len(self.layers) != 22:
            return {}
        return {
            name: NamedArchitecture(
                self.architecture(network.ops),
                resolution=32 if self.form == "cifar" else network.resolution,
                options={"reference": True}
                if self.reference
                else {"head_width": network.head_width, "width_ratio": network.width_ratio},
                published=network.published,
            )
            for name, network in NETWORKS.items()
            if set(network.ops) <= set(options)
        }

    def architecture(self, ops: Sequence[str]) -> Architecture:
        """One block name for each layer, in order, as an architecture of this space."""
        if len(ops) != len(self.layers):
            raise SpaceError(f"this FBNet space has {len(self.layers)} layers, not {len(ops)}")
        return Architecture(dict(zip(self.layers, ops, strict=True)))

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        """One block of the supernet, initialized."""
        return self._block(choice, option, self.searched)

    def around(self, body: nn.Module) -> nn.Module:
        """stem -> body -> 1x1 convolution to `head_width`."""
        channels, stride, kernel = (*self.stem, 3)[:3]
        stem = ConvNormReLU(self.in_channels, self._width(channels), kernel, stride, self.built)
        last = list(self.layers.values())[-1].c_out
        if self.reference:
            tail: nn.Sequential = nn.Sequential()
            tail.add_module("conv", nn.Conv2d(last, self.head_width, 1))
        else:
            tail = ConvNormReLU(last, self.head_width, 1, 1, self.built)
        return Around(initialize(stem, self.reference), body, initialize(tail, self.reference))

    def build(self, architecture: Architecture) -> nn.Module:
        """The network of `architecture`: (N, in_channels, H, W) -> (N, head_width, H', W')."""
        return build_chain(_Built(self), architecture)

    def scaled(
        self, architecture: Architecture, width: Callable[[int], int], depth: Callable[[int], int]
    ) -> nn.Module:
        """The network with other sizes: `width` changes every number of channels, `depth` that of each stage's
        blocks. What a stage lacks repeats its last block; skipped layers are no blocks, apart from a first one.
        """
        names = iter(self.layers)
        stages: list[tuple[int, ...]] = []
        ops: list[str] = []
        for channels, count, stride in self.stages:
            found = [str(architecture[next(names)]) for _ in range(count)]
            blocks = found[:1] + [op for op in found[1:] if op != "skip"]
            wanted = depth(len(blocks))
            stages.append((width(self._width(channels)), wanted, stride))
            ops += (blocks + blocks[-1:] * wanted)[:wanted]
        larger = copy.copy(self)
        larger.stages, larger.stem = stages, (width(self._width(self.stem[0])), *self.stem[1:])
        larger.width_ratio, larger.head_width = 1.0, width(self.head_width)
        larger.layers = larger._layers()
        options = self.choices[0].options
        larger.choices = [Choice(name, options) for name in larger.layers]
        return larger.build(larger.architecture(ops))

    def _block(self, choice: Choice, option: str, options: BlockOptions) -> nn.Module:
        layer = self.layers[choice.name]
        kind = INVERTED_RESIDUALS.get(option)
        if kind is not None and kind.kernel == 1 and layer.stride > 1:
            raise SpaceError(
                f"'{option}' cannot stand in {choice.name}, which halves the image: it has no convolution "
                "that carries a stride; leave it out of the candidates"
            )
        block = primitive(option, layer.c_in, layer.c_out, self.expansion, layer.stride, options)
        return initialize(block, self.reference)


class _Built:
    """A space's view for `build`: the same blocks with the options of built networks."""

    def __init__(self, space: FBNetSpace) -> None:
        self._space, self.choices = space, space.choices
        self.around = space.around

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        return self._space._block(choice, option, self._space.built)


def initialize(module: nn.Module, reference: bool = False) -> nn.Module:
    """Draw the weights of all convolutions from the global generator; returns the module.

    Normal with variance 2 / fan_out, biases 0. `reference`: uniform with variance 2 / fan_in, which is
    what the reference's last pass leaves. Norm layers stay as PyTorch makes them (weight 1, bias 0).
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            if reference:
                nn.init.kaiming_uniform_(child.weight)
            else:
                nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    return module


def _checked_stem(numbers: Sequence[int]) -> tuple[int, ...]:
    """[channels, stride] or [channels, stride, kernel]; a SpaceError where it is something else."""
    if not _whole(numbers, (2, 3)) or min(numbers) < 1 or (len(numbers) == 3 and numbers[2] % 2 == 0):
        raise SpaceError(
            "the stem is [channels, stride] or [channels, stride, kernel], positive whole numbers and the kernel odd, "
            f"not {numbers}"
        )
    return tuple(numbers)


def _checked_stages(stages: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """[channels, layers, stride] for each; a SpaceError where one is something else, or where there is none."""
    if not stages:
        raise SpaceError(
            "the FBNet space needs a stage; give [channels, layers, stride], or leave 'stages' out"
        )
    for number, stage in enumerate(stages):
        if not _whole(stage, (3,)) or min(stage[:2]) < 1 or stage[2] == 0:
            raise SpaceError(
                "a stage is [channels, layers, stride]: two positive whole numbers, and a stride that is not 0 "
                f"(below 0 it enlarges); stages[{number}] is {stage}"
            )
    return [tuple(stage) for stage in stages]


def _whole(numbers: Any, lengths: tuple[int, ...]) -> bool:
    return (
        isinstance(numbers, Sequence)
        and len(numbers) in lengths
        and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    )
