"""How other implementations name the same tensors, and how their networks behave.

The tensors have the same shapes everywhere. What differs besides the names is the padding and BatchNorm's
constants, which no state dict says: a `WeightFormat` of this module says them.

    lukemelas    efficientnet_pytorch 0.7, also the TensorFlow release converted
    timm_tf      timm's tf_efficientnet_*: the same network, timm's names
    timm         timm's efficientnet_*: symmetric padding, epsilon 1e-5
    torchvision  symmetric padding, epsilon 1e-5 for b0 to b4 and 1e-3 for b5 to b7
    archloom     our own names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from archloom.errors import UnknownName, WeightsError

from .config import NetworkConfig, Padding

FormatName = Literal["archloom", "lukemelas", "timm_tf", "timm", "torchvision"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_CONV, _BIASED = ("weight",), ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


_TORCHVISION_FROM_TENSORFLOW = ("efficientnet-b5", "efficientnet-b6", "efficientnet-b7")


@dataclass(frozen=True)
class Behaviour:
    """What weights are trained for. momentum is TensorFlow's: the share of the old statistics kept."""

    padding: Padding
    epsilon: float
    momentum: float


def behaviour(weight_format: str, config: NetworkConfig) -> Behaviour:
    """How the format's own implementation computes the network."""
    check_format(weight_format)
    if weight_format == "archloom":
        return Behaviour(config.padding, config.batch_norm_epsilon, config.batch_norm_momentum)
    if weight_format == "lukemelas":
        return Behaviour("same", 1e-3, 0.99)
    if weight_format == "timm_tf":
        return Behaviour("same", 1e-3, 0.9)
    if weight_format == "torchvision" and config.name in _TORCHVISION_FROM_TENSORFLOW:
        return Behaviour("symmetric", 1e-3, 0.99)
    return Behaviour("symmetric", 1e-5, 0.9)


def check_format(name: str) -> None:
    """UnknownName where there is no such format."""
    if name not in FORMATS:
        raise UnknownName("weight format", name, FORMATS)


def key_map(weight_format: str, config: NetworkConfig) -> dict[str, str]:
    """Our key -> theirs, for a whole `EfficientNet` of `config` with its classifier."""
    check_format(weight_format)
    position = {"archloom": 0, "lukemelas": 1, "timm_tf": 2, "timm": 2, "torchvision": 3}[weight_format]
    return {
        f"{names[0]}.{leaf}": f"{names[position]}.{leaf}"
        for names, leaves in _modules(config)
        for leaf in leaves
    }


Names = tuple[str, str, str, str]
"""ours, lukemelas, timm, torchvision"""


def _modules(config: NetworkConfig) -> Iterator[tuple[Names, tuple[str, ...]]]:
    yield ("features.stem.conv", "_conv_stem", "conv_stem", "features.0.0"), _CONV
    yield ("features.stem.bn", "_bn0", "bn1", "features.0.1"), _NORM
    stages = config.stages()
    flat = 0
    for s, stage in enumerate(stages):
        for j, block in enumerate(stage):
            prefixes = (
                f"features.stages.{s}.{j}.",
                f"_blocks.{flat}.",
                f"blocks.{s}.{j}.",
                f"features.{s + 1}.{j}.block.",
            )
            for names, leaves in _block(block.expand_ratio != 1, bool(block.se_ratio)):
                joined = tuple(prefix + name for prefix, name in zip(prefixes, names, strict=True))
                yield joined, leaves  # type: ignore[misc]
            flat += 1
    last = len(stages) + 1
    yield ("features.head.conv", "_conv_head", "conv_head", f"features.{last}.0"), _CONV
    yield ("features.head.bn", "_bn1", "bn2", f"features.{last}.1"), _NORM
    yield ("classifier", "_fc", "classifier", "classifier.1"), _BIASED


def _block(expands: bool, squeezes: bool) -> Iterator[tuple[Names, tuple[str, ...]]]:
    """A block's modules. timm and torchvision number them in order: what is absent shifts the rest."""
    if expands:
        yield ("expand.conv", "_expand_conv", "conv_pw", "0.0"), _CONV
        yield ("expand.bn", "_bn0", "bn1", "0.1"), _NORM
    d = int(expands)
    yield ("depthwise.conv", "_depthwise_conv", "conv_dw", f"{d}.0"), _CONV
    yield ("depthwise.bn", "_bn1", f"bn{d + 1}", f"{d}.1"), _NORM
    if squeezes:
        yield ("se.reduce", "_se_reduce", "se.conv_reduce", f"{d + 1}.fc1"), _BIASED
        yield ("se.expand", "_se_expand", "se.conv_expand", f"{d + 1}.fc2"), _BIASED
    p = d + 1 + int(squeezes)
    # timm calls a block without expansion depthwise-separable, and its second convolution the pointwise
    yield ("project.conv", "_project_conv", "conv_pwl" if expands else "conv_pw", f"{p}.0"), _CONV
    yield ("project.bn", "_bn2", f"bn{d + 2}", f"{p}.1"), _NORM


_TELLING = {
    "archloom": "features.stem.conv.weight",
    "lukemelas": "_conv_stem.weight",
    "torchvision": "features.0.0.weight",
    "timm": "conv_stem.weight",
}


def detect(state: Mapping[str, Any], where: str) -> str:
    """The format of a state dict. timm's two networks share their keys: WeightsError asks which it is."""
    found = [name for name, key in _TELLING.items() if key in state]
    if found == ["timm"]:
        raise WeightsError(
            f"{where} has timm's keys, which do not say the network: give weight_format='timm_tf' for a "
            "tf_efficientnet (SAME padding, epsilon 1e-3) or 'timm' for an efficientnet (symmetric, 1e-5)"
        )
    if len(found) != 1:
        keys = ", ".join(list(state)[:5]) or "none"
        raise WeightsError(
            f"{where} is in none of the formats {', '.join(FORMATS)}; its first keys: {keys}. "
            "Nothing was loaded."
        )
    return found[0]


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a training checkpoint (`state_dict`, `model`), without DataParallel's prefix."""
    for layer in ("state_dict", "model"):
        inner = state.get(layer)
        if isinstance(inner, Mapping):
            state = inner
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state
