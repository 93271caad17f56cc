"""How the reference code names its tensors, for networks and for its supernet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archloom import WeightFormat, WeightsError

_RULES = (
    (re.compile(r"backbone\.(?:network\.)?stem\.(.+)"), r"first.\1"),
    (re.compile(r"backbone\.body\.layer(\d+)\.(.+)"), r"stages.xif\1_0.\2"),
    (
        re.compile(r"backbone\.network\.body\.layer(\d+)\.options\.(\d+)\.(.+)"),
        r"stages_to_search.\1.ops.\2.\3",
    ),
    (re.compile(r"backbone\.(?:network\.)?tail\.conv\.(.+)"), r"last_stages.conv_k1.\1"),
    (re.compile(r"head\.fc\.(.+)"), r"last_stages.fc.\1"),
)
_THETAS = re.compile(r"stages_to_search\.(\d+)\.thetas")


def their_key(ours: str) -> str | None:
    """The reference's name for a tensor of a whole model's state dict; None where it has no such tensor."""
    for pattern, replacement in _RULES:
        if pattern.fullmatch(ours):
            return pattern.sub(replacement, ours)
    return None


def _without_wrapper(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def without_thetas(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without the prefix of a data-parallel wrapper, and without thetas: see `read_thetas`."""
    return {key: value for key, value in _without_wrapper(state).items() if not _THETAS.fullmatch(key)}


def read_thetas(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The architecture parameters of the reference's supernet checkpoint: choice -> theta (n,)."""
    thetas = {
        int(match[1]): value
        for key, value in _without_wrapper(state).items()
        if (match := _THETAS.fullmatch(key))
    }
    if not thetas:
        raise WeightsError(
            "this checkpoint has no 'stages_to_search.N.thetas': it is not of the reference's supernet"
        )
    return {f"layer{index}": thetas[index] for index in sorted(thetas)}


REFERENCE = WeightFormat("fbnet-reference", their_key, without_thetas)
"""The reference code's checkpoints, of a network or of its supernet."""
