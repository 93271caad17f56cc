"""The space of NAS-Bench-Macro (Su et al., CVPR 2021): eight layers with three candidates each.

A stem, stages of two, three and three layers whose first one halves the image and doubles the channels, and a
1x1 convolution; 3^8 = 6,561 networks, written as eight digits that index the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from archloom import Architecture, Around, Choice, SpaceError, build_chain

OPTIONS = ("identity", "k3_e3", "k5_e6")
"""In the order of the table's digits 0, 1 and 2."""

STAGES = ((64, 2), (128, 3), (256, 3))  # (channels, layers)
STEM_WIDTH, HEAD_WIDTH = 32, 1280


@dataclass(frozen=True)
class Layer:
    """One searched layer: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""

    c_in: int
    c_out: int
    stride: int


def _layers() -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    c_in = STEM_WIDTH
    for channels, count in STAGES:
        for position in range(count):
            layers[f"layer{len(layers)}"] = Layer(c_in, channels, 2 if position == 0 else 1)
            c_in = channels
    return layers


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, then BatchNorm; the image keeps its size at stride 1."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]


class InvertedResidual(nn.Module):
    """1x1 to c_in * expansion, depthwise k x k, 1x1 to c_out; plus the input where the shape is kept.

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.block = nn.Sequential(
            *conv_norm(c_in, hidden, 1),
            nn.ReLU(),
            *conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            *conv_norm(hidden, c_out, 1),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MacroSpace:
    """NAS-Bench-Macro's space: (N, in_channels, H, W) -> (N, 1280, H / 8, W / 8); made for 32x32 images.

    The published params and FLOPs are those of `in_channels` 3, 32x32 images, and a linear head (with bias)
    for 10 classes after global average pooling.

    Where a layer changes the shape, "identity" is a 1x1 convolution with the stride, and BatchNorm. Within a
    stage identities after the first layer commute with their neighbours, so that the 6,561 codes are 3,969
    different networks; see `canonical`.
    """

    def __init__(self, *, in_channels: int = 3) -> None:
        if in_channels < 1:
            raise SpaceError(f"in_channels must be at least 1, not {in_channels}")
        self.in_channels = in_channels
        self.layers: Mapping[str, Layer] = _layers()
        self.choices: Sequence[Choice] = [Choice(name, OPTIONS) for name in self.layers]

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        """One candidate of one layer, initialized as PyTorch does."""
        layer = self.layers[choice.name]
        match OPTIONS[choice.index(option)]:
            case "identity":
                if layer.stride == 1 and layer.c_in == layer.c_out:
                    return nn.Identity()
                return nn.Sequential(*conv_norm(layer.c_in, layer.c_out, 1, layer.stride))
            case "k3_e3":
                return InvertedResidual(layer.c_in, layer.c_out, 3, 3, layer.stride)
            case _:
                return InvertedResidual(layer.c_in, layer.c_out, 5, 6, layer.stride)

    def around(self, body: nn.Module) -> nn.Module:
        """3x3 stem -> body -> 1x1 convolution to 1280 channels."""
        stem = nn.Sequential(*conv_norm(self.in_channels, STEM_WIDTH, 3), nn.ReLU())
        tail = nn.Sequential(*conv_norm(STAGES[-1][0], HEAD_WIDTH, 1), nn.ReLU())
        return Around(stem, body, tail)

    def build(self, architecture: Architecture) -> nn.Module:
        """The network of `architecture`, without pooling and classifier."""
        return build_chain(self, architecture)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The one of the 3,969 networks that this code is."""
        return decode(canonical(encode(architecture)))


NAMES = tuple(_layers())


def decode(code: str) -> Architecture:
    """The architecture of eight digits: `decode("22212202")`; a SpaceError for anything else."""
    if len(code) != len(NAMES) or not set(code) <= set("012"):
        raise SpaceError(f"a code of NAS-Bench-Macro has {len(NAMES)} digits 0, 1 or 2; {code!r} has not")
    return Architecture({name: OPTIONS[int(digit)] for name, digit in zip(NAMES, code, strict=True)})


def encode(architecture: Architecture) -> str:
    """The inverse of `decode`; a SpaceError for an architecture of another space."""
    if set(architecture) != set(NAMES) or not set(architecture.values()) <= set(OPTIONS):
        raise SpaceError(
            f"'{architecture}' is no architecture of NAS-Bench-Macro, whose layers {NAMES[0]} to {NAMES[-1]} "
            f"are each one of {', '.join(OPTIONS)}"
        )
    return "".join(str(OPTIONS.index(str(architecture[name]))) for name in NAMES)


def canonical(code: str) -> str:
    """The code of the same network that was trained: a stage's identities, but for its first layer's, last."""
    stages, start = [], 0
    for _, count in STAGES:
        first, others = code[start], code[start + 1 : start + count]
        stages.append(first + others.replace("0", "").ljust(count - 1, "0"))
        start += count
    return "".join(stages)
