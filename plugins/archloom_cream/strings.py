"""Block strings: a network's stages as text, `ds_r1_k3_s1_e1_c16_se0.25`, and back.

    string  type and fields, joined by "_"
    type    ds, ir, cn, basic, bottleneck (`BlockSpec.type`)
    r4      repeats         k3.5  kernels, several joined by "."      s2    stride of the stage's first block
    e6      expansion       c24   output channels                     se0.25  squeeze ratio
    d2      dilation        noskip  no residual

A stage is a list of strings. Only its first block can have a stride: all others have 1, whatever their
string says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

from archloom import SpaceError

from .blocks import TYPES, BlockSpec

Rounding = Literal["ceil", "round"]

_FIELD = re.compile(r"(se|[rksecd])(\d.*)")
_MEANING = {
    "k": "kernels",
    "s": "stride",
    "e": "expansion",
    "c": "channels",
    "se": "se",
    "d": "dilation",
}


def decode_block(text: str) -> tuple[BlockSpec, int]:
    """One string -> the block and its repeats. `k` and `c` must be given; repeats and stride default to 1."""
    kind, *parts = text.split("_")
    if kind not in TYPES:
        raise SpaceError(f"block string '{text}': the type '{kind}' is none of {', '.join(TYPES)}")
    fields: dict[str, Any] = {}
    repeats = 1
    for part in parts:
        match = _FIELD.fullmatch(part)
        name = "noskip" if part == "noskip" else match[1] if match else None
        if name is None:
            known = "r, k, s, e, c, se, d, each with a number, and noskip"
            raise SpaceError(f"block string '{text}': '{part}' is no field; there are {known}")
        meant = "residual" if name == "noskip" else _MEANING.get(name, "repeats")
        if meant in fields:
            raise SpaceError(f"block string '{text}' gives '{name}' twice")
        fields[meant] = False if match is None else _value(text, name, match[2])
    repeats = fields.pop("repeats", 1)
    if lacking := [name for name, meant in (("k", "kernels"), ("c", "channels")) if meant not in fields]:
        raise SpaceError(f"block string '{text}' lacks {' and '.join(lacking)}")
    if repeats < 1:
        raise SpaceError(f"block string '{text}': a block is repeated at least once, not {repeats} times")
    try:
        return BlockSpec(type=kind, **fields), repeats
    except SpaceError as error:
        raise SpaceError(f"block string '{text}': {error}") from error


def _value(text: str, name: str, number: str) -> Any:
    try:
        if name == "k":
            return tuple(int(kernel) for kernel in number.split("."))
        return float(number) if name in ("e", "se") else int(number)
    except ValueError:
        raise SpaceError(f"block string '{text}': '{number}' is no number for '{name}'") from None


def encode_block(spec: BlockSpec, repeats: int = 1) -> str:
    """The inverse of `decode_block`."""
    parts = [
        spec.type,
        f"r{repeats}",
        f"k{'.'.join(map(str, spec.kernels))}",
        f"s{spec.stride}",
        f"e{_plain(spec.expansion)}" if spec.type in ("ds", "ir") else "",
        f"c{spec.channels}",
        f"se{_plain(spec.se)}" if spec.se else "",
        f"d{spec.dilation}" if spec.dilation != 1 else "",
        "" if spec.residual else "noskip",
    ]
    return "_".join(filter(None, parts))


def _plain(number: float) -> str:
    """All digits and no exponent, whose sign would be taken for something else."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def scale_depth(repeats: Sequence[int], depth: float, rounding: Rounding = "ceil") -> list[int]:
    """The repeats of one stage's strings, scaled together: their sum times `depth`, rounded, shared anew.

    Shares are given from the last string to the first, each in proportion to what is left, and none goes
    below one. rounding: of the sum; "round" takes halves to the even number and gives at least one.
    """
    if depth <= 0:
        raise SpaceError(f"the depth factor must be positive, not {depth}")
    left = sum(repeats)
    target = math.ceil(left * depth) if rounding == "ceil" else max(1, round(left * depth))
    scaled = []
    for count in reversed(repeats):
        share = max(1, round(count / left * target))
        scaled.append(share)
        left, target = left - count, target - share
    return scaled[::-1]


def decode_stage(
    strings: Sequence[str], depth: float = 1.0, rounding: Rounding = "ceil"
) -> tuple[BlockSpec, ...]:
    """The blocks of one stage in order. depth: factor on the number of blocks, see `scale_depth`."""
    if not strings:
        raise SpaceError("a stage needs at least one block string")
    decoded = [decode_block(text) for text in strings]
    counts = scale_depth([repeats for _, repeats in decoded], depth, rounding)
    blocks = [spec for (spec, _), count in zip(decoded, counts, strict=True) for _ in range(count)]
    return (blocks[0], *(replace(block, stride=1) for block in blocks[1:]))


def encode_stage(blocks: Sequence[BlockSpec]) -> list[str]:
    """The inverse of `decode_stage` at depth 1; equal neighbours share a string."""
    if odd := [block for block in blocks[1:] if block.stride != 1]:
        raise SpaceError(f"only the first block of a stage can have a stride; here a later one is {odd[0]}")
    groups: list[tuple[BlockSpec, int]] = []
    for block in blocks:
        if groups and replace(groups[-1][0], stride=1) == block:
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        else:
            groups.append((block, 1))
    return [encode_block(block, repeats) for block, repeats in groups]
