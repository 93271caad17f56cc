"""How the reference code names its tensors, in networks and in its supernet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from archloom import WeightFormat

Place = tuple[int, int]
"""(stage, block), stages counted from 1, blocks from 0."""

_INVERTED = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
_SEPARABLE = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
_LAYER = re.compile(r"backbone\.body\.(\w+)\.(.+)")
_SHARED = re.compile(r"backbone\.network\.body\.(\w+)\.options\.(\d+)\.(.+)")


def _inside(part: str, names: Mapping[str, tuple[str, str]]) -> str | None:
    """A tensor's name inside a separable block; None for a block that the reference does not have."""
    if part.startswith("se."):
        return f"se.conv_{part.removeprefix('se.')}"
    layer, _, rest = part.partition(".")
    if layer not in names or not rest.startswith(("conv.", "bn.")):
        return None
    kind, _, leaf = rest.partition(".")
    return f"{names[layer][kind == 'bn']}.{leaf}"


def _conv_bn(part: str, conv: str, bn: str) -> str:
    return (
        part.replace("conv.", f"{conv}.", 1) if part.startswith("conv.") else part.replace("bn.", f"{bn}.", 1)
    )


def their_key(places: Mapping[str, Place], last_stage: int) -> Callable[[str], str | None]:
    """A function from a whole model's keys to the reference's, None where it has no such tensor.

    places: where the reference numbers each choice's block. last_stage: the number of the tail.
    """

    def theirs(ours: str) -> str | None:
        shared = ours.startswith("backbone.network.")
        zero = ".0" if shared else ""  # in a supernet the fixed stages, too, have a list of one block
        around = ours.removeprefix("backbone.network." if shared else "backbone.")
        if around.startswith("stem.conv."):
            return _conv_bn(around.removeprefix("stem.conv."), "conv_stem", "bn1")
        if around.startswith("stem.block."):
            inside = _inside(around.removeprefix("stem.block."), _SEPARABLE)
            return inside and f"blocks.0.0{zero}.{inside}"
        if around.startswith("tail."):
            return f"blocks.{last_stage}.0{zero}.{_conv_bn(around.removeprefix('tail.'), 'conv', 'bn1')}"
        if ours.startswith("head."):
            return ours.replace("head.conv.", "conv_head.").replace("head.fc.", "classifier.")
        match = (_SHARED if shared else _LAYER).fullmatch(ours)
        if match is None or match[1] not in places:
            return None
        inside = _inside(match[match.lastindex or 0], _INVERTED)
        stage, block = places[match[1]]
        return inside and ".".join(map(str, (*("blocks", stage, block), *match.groups()[1:-1], inside)))

    return theirs


def reference_format(places: Mapping[str, Place], depths: Sequence[int]) -> WeightFormat:
    """The reference's checkpoints of networks and supernets.

    Of a supernet's, the meta network is left out: it is the method's, not the network's. So is the fifth
    block of stage 3 in a supernet of four: the reference builds it, and neither runs nor trains it.
    """
    extra = [r"meta_layer\..+"]
    if len(depths) > 2 and depths[2] == 4:
        extra.append(r"blocks\.3\.4\.\d+\..+")
    left_out = re.compile("|".join(extra))

    def unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in state.items() if not left_out.fullmatch(key)}

    return WeightFormat("cream-reference", their_key(places, len(depths) + 1), unwrap)
