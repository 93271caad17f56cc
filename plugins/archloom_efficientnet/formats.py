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

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from archloom import UnknownName, WeightFormat, WeightsError

from .config import NetworkConfig, Padding

FormatName = Literal["archloom", "lukemelas", "timm_tf", "timm", "torchvision"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

OURS = ("classifier.weight", "classifier.bias")
"""Our keys of the classifier."""

_CONV, _BIASED = ("weight",), ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


_TORCHVISION_FROM_TENSORFLOW = ("efficientnet-b5", "efficientnet-b6", "efficientnet-b7")


class Behaviour(NamedTuple):
    """What weights are trained for. momentum is TensorFlow's: the share of the old statistics kept."""

    padding: Padding
    epsilon: float
    momentum: float

    def options(self) -> dict[str, Any]:
        """The same as fields of `NetworkConfig`, options of the space and entries of a file's header."""
        return {
            "padding": self.padding,
            "batch_norm_epsilon": self.epsilon,
            "batch_norm_momentum": self.momentum,
        }


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
                ours, lukemelas, timm, torchvision = map(str.__add__, prefixes, names)
                yield (ours, lukemelas, timm, torchvision), leaves
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


ABOUT = {
    "timm_tf": "tf_efficientnet_*: SAME padding, epsilon 1e-3",
    "timm": "efficientnet_*: symmetric padding, epsilon 1e-5",
}
"""Of the two that share their keys, what an error says to whoever must choose."""


def weight_formats(
    config: NetworkConfig, adopt: Callable[[nn.Module, Behaviour], None]
) -> list[WeightFormat]:
    """The formats of weights for networks of `config`, of an `EfficientNet` as of a model around its features.

    adopt(model, behaviour) makes a network compute so. Of timm's two networks both are offered, since their keys
    are the same; where `config` departs from the release's padding and epsilon, the one that computes so.
    """

    def entry(name: str, theirs: Callable[[str], str | None], classifier: tuple[str, ...]) -> WeightFormat:
        def adopted(model: nn.Module, header: Mapping[str, str]) -> Mapping[str, Any]:
            if name == "archloom" and not header:
                return {}  # of the network itself, as it is
            found = told(header) if header else behaviour(name, config)
            adopt(model, found)
            return found.options()

        about = ABOUT.get(name, f"padding and epsilon of {name}")
        return WeightFormat(name, theirs, classifier=classifier, adopt=adopted, about=about)

    found = [
        entry("archloom", lambda key: key, OURS),
        entry("archloom", canonical, OURS),
        entry("archloom", _as_a_model, ("head.fc.weight", "head.fc.bias")),
    ]
    for name in FORMATS[1:]:
        if name not in _shunned(config):
            keys = key_map(name, config)
            found.append(entry(name, _by(keys), tuple(keys[key] for key in OURS)))
    return found


def _shunned(config: NetworkConfig) -> set[str]:
    """Which of timm's two networks a configuration rules out: none, unless it says that it computes as the other."""
    own, release = (config.padding, config.batch_norm_epsilon), NetworkConfig()
    if own == (release.padding, release.batch_norm_epsilon):
        return set()
    agree = {name for name in ABOUT if own == behaviour(name, config)[:2]}
    return set(ABOUT) - agree if agree else set()


def canonical(key: str) -> str | None:
    """A key of a model around our features, or of the features alone, as `EfficientNet` has it."""
    if key.startswith(("features.", "classifier.")):
        return key
    if key.startswith("head.fc."):
        return f"classifier.{key.removeprefix('head.fc.')}"
    if key.startswith("loss."):
        return None
    return f"features.{key.removeprefix('backbone.')}"


def _as_a_model(key: str) -> str | None:
    ours = canonical(key)
    if ours is None:
        return None
    return ours.replace("features.", "backbone.", 1).replace("classifier.", "head.fc.", 1)


def _by(keys: Mapping[str, str]) -> Callable[[str], str | None]:
    return lambda key: keys.get(canonical(key) or "")


def told(header: Mapping[str, str]) -> Behaviour:
    """What the header of a file of ours says; WeightsError where it cannot be understood."""
    try:
        padding = header["archloom.padding"]
        if padding not in ("same", "symmetric"):
            raise ValueError(f"padding {padding!r}")
        epsilon = float(header["archloom.batch_norm_epsilon"])
        momentum = float(header["archloom.batch_norm_momentum"])
        if not (0 < epsilon < 1 and 0 <= momentum <= 1):
            raise ValueError(f"epsilon {epsilon} and momentum {momentum}")
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"the weights have a header that cannot be understood: {error}. Nothing was loaded; write the file anew"
        ) from error
    return Behaviour("same" if padding == "same" else "symmetric", epsilon, momentum)


def classes_in(state: Mapping[str, Any]) -> int | None:
    """How many classes the classifier of a state dict has, in whatever format; None where it has none."""
    names = ("_fc.weight", "classifier.weight", "classifier.1.weight", "head.fc.weight")
    for key, value in state.items():
        if any(key == name or key.endswith(f".{name}") for name in names) and isinstance(value, Tensor):
            return len(value)
    return None
