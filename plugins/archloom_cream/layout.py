"""The fixed numbers of the space's forms, and what a candidate's name means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from archloom import SpaceError

from .blocks import BlockSpec

SE = 0.25
SKIP = "skip"
_CANDIDATE = re.compile(r"k(\d+(?:\.\d+)*)(?:_d(\d+))?_e(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Form:
    """The fixed numbers of a space. stem: channels, stride, also of the block behind it, which keeps both.

    stages: (channels, blocks, stride of the first). tail: channels of the last 1x1 convolution. features:
    of the head's. sides: the resolutions that a range of MACs may choose, the preferred first.
    """

    stem: tuple[int, int]
    stages: tuple[tuple[int, int, int], ...]
    tail: int
    features: int
    sides: tuple[int, ...]


FORMS: Mapping[Literal["imagenet", "small"], Form] = MappingProxyType(
    {
        "imagenet": Form(
            (16, 2),
            ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2)),
            320,
            1280,
            tuple(range(224, 0, -32)),
        ),
        "small": Form((16, 1), ((24, 2, 1), (40, 2, 2), (80, 2, 2)), 160, 320, tuple(range(32, 4, -4))),
    }
)


@dataclass(frozen=True)
class Layer:
    """One searched block: its stage (from 1), its place in the stage, input and output channels, stride."""

    stage: int
    position: int
    c_in: int
    c_out: int
    stride: int


def candidate_spec(name: str) -> BlockSpec:
    """The block of a candidate's name; its channels and stride are the layer's."""
    if name == "basic":
        return BlockSpec("basic", 1)
    if name == "bottleneck":
        return BlockSpec("bottleneck", 1)
    match = _CANDIDATE.fullmatch(name)
    if match is None:
        hint = "; say skip: true to let blocks be left out" if name == SKIP else ""
        raise SpaceError(
            f"'{name}' names no block of the Cream space{hint}. There are k5_e6 (kernel, expansion), k3_d2_e6 "
            "(with a dilation), k3.5_e4 (several kernels), basic and bottleneck"
        )
    kernels = tuple(int(kernel) for kernel in match[1].split("."))
    return BlockSpec("ir", 1, kernels, 1, float(match[3]), SE, int(match[2] or 1))


def checked_stages(stages: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """[channels, blocks, stride] of each; a SpaceError where one is something else, or where there is none."""
    if not stages:
        raise SpaceError(
            "the Cream space needs a stage; give [channels, blocks, stride], or leave 'stages' out"
        )
    for numbers in stages:
        if len(numbers) != 3 or any(isinstance(n, bool) for n in numbers) or min(numbers) < 1:
            raise SpaceError(
                f"a stage is [channels, blocks, stride], three positive whole numbers, not {list(numbers)}"
            )
    return [(channels, blocks, stride) for channels, blocks, stride in stages]
