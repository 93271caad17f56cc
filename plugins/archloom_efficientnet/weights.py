"""Weights from files and to files, in every format of `formats`: all that fits, or nothing at all.

Files are data: safetensors, or `torch.load(weights_only=True)`. A safetensors file that we wrote says its
format, padding and BatchNorm constants in its header, and gets them back when it is read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from archloom.errors import ConfigError, WeightsError

from .config import NetworkConfig
from .formats import Behaviour, behaviour, check_format, detect, key_map, unwrap
from .hub import download

log = logging.getLogger("archloom_efficientnet")

STEM = "features.stem.conv.weight"
CLASSIFIER = ("classifier.weight", "classifier.bias")


class Network(Protocol):
    """What weights are loaded into and written from: an `EfficientNet`, which itself imports this module."""

    config: NetworkConfig

    @property
    def in_channels(self) -> int: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def set_behaviour(self, *, padding: Any, epsilon: float, momentum: float) -> None: ...


N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class Weights:
    """A state dict under our keys, with what its format says of the network it was made for."""

    state: Mapping[str, Tensor]
    weight_format: str
    behaviour: Behaviour
    where: str
    unknown: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """How many classes its classifier has; None where it has none."""
        weight = self.state.get(CLASSIFIER[0])
        return None if weight is None else len(weight)


@dataclass(frozen=True)
class Loaded:
    """What `load` did. left_out: keys of ours that kept their value; notes: sentences, also logged."""

    weight_format: str
    behaviour: Behaviour
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read(
    source: str | Path | Mapping[str, Any], config: NetworkConfig, weight_format: str | None = None
) -> Weights:
    """A file or a state dict of the network `config`, under our keys.

    weight_format: one of `formats.FORMATS`; None to go by the file's header or keys, which timm's alone do
    not settle. Raises WeightsError for a file that is missing, unreadable or in no known format.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    header: dict[str, str] = {}
    if not isinstance(source, Mapping):
        source, header = _read_file(Path(source))
    state = unwrap(source)
    if weight_format is not None:
        check_format(weight_format)
    name = weight_format or header.get("archloom.weight_format") or detect(state, where)
    ours = {theirs: key for key, theirs in key_map(name, config).items()}
    unknown = tuple(key for key in state if key not in ours)
    found = {ours[key]: value for key, value in state.items() if key in ours}
    odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{where} holds something other than tensors: {_some(odd)}. Nothing was loaded.")
    # a header speaks for its own format; whoever names another one means that one's behaviour
    own = header.get("archloom.weight_format") == name
    return Weights(
        found, name, _behaviour_of(header, where) if own else behaviour(name, config), where, unknown
    )


def load(
    model: Network,
    source: str | Path | Mapping[str, Any] | Weights,
    weight_format: str | None = None,
    *,
    classifier: Literal["load", "reset"] = "load",
) -> Loaded:
    """Copy weights into `model`, and give it their padding, epsilon and momentum.

    classifier: "load" wants the file's classifier to fit; "reset" leaves the model's as it is. A model
    without one (`include_top=False`) takes all the rest. A stem of three input channels is summed or
    repeated for another number. Raises WeightsError, with the model unchanged, where anything else is
    missing, left over or of another shape.
    """
    if classifier not in ("load", "reset"):
        raise ConfigError(f"classifier is 'load' or 'reset', not {classifier!r}")
    weights = source if isinstance(source, Weights) else read(source, model.config, weight_format)
    state, notes = dict(weights.state), []
    wanted = model.state_dict()
    left_out: tuple[str, ...] = ()
    if not model.config.include_top:
        left_out = tuple(key for key in CLASSIFIER if state.pop(key, None) is not None)
        if left_out:
            notes.append(f"include_top=False: {_some(left_out)} of {weights.where} left out")
    elif classifier == "reset":
        left_out = tuple(key for key in wanted if key.startswith("classifier."))
        for key in CLASSIFIER:
            state.pop(key, None)
        notes.append(f"classifier='reset': the classifier is not that of {weights.where} but a fresh one")
    channels = model.in_channels
    if STEM in state and STEM in wanted and state[STEM].ndim == 4 and state[STEM].shape[1] == 3 != channels:
        state[STEM] = adapt_stem(state[STEM], channels)
        how = "summed" if channels == 1 else "repeated and scaled"
        notes.append(f"the stem's three input channels were {how} for {channels}")
    _check(state, wanted, left_out, weights)
    for key in wanted:
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros_like(wanted[key])
    model.load_state_dict({**{key: wanted[key] for key in left_out if key in wanted}, **state})
    b = weights.behaviour
    model.set_behaviour(padding=b.padding, epsilon=b.epsilon, momentum=b.momentum)
    for note in notes:
        log.warning(note)
    return Loaded(weights.weight_format, b, left_out, tuple(notes))


def _check(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], left_out: tuple[str, ...], weights: Weights
) -> None:
    """WeightsError that names the keys, unless `state` fits what the model wants."""
    # files converted from TensorFlow, and those of PyTorch before 0.4.1, do not count batches
    missing = [
        k for k in wanted if k not in state and k not in left_out and not k.endswith("num_batches_tracked")
    ]
    extra = [*weights.unknown, *(key for key in state if key not in wanted)]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the model's {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{what} {_some(keys)}"
        for what, keys in (("lacks", missing), ("has unknown", extra), ("differs in shape:", shapes))
        if keys
    ]
    if not problems:
        return
    hint = ""
    if any(line.startswith("classifier.") for line in [*shapes, *missing]):
        hint = " For a fresh classifier say classifier='reset'; for none, include_top=False."
    elif any(line.startswith(STEM) for line in shapes):
        hint = " Only a stem of 3 input channels can be adapted to another number."
    raise WeightsError(
        f"{weights.where} ({weights.weight_format}) does not fit: it {'; it '.join(problems)}."
        f"{hint} Nothing was loaded."
    )


def _some(keys: Any, most: int = 6) -> str:
    keys = list(keys)
    rest = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {rest} more" if rest > 0 else "")


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """A stem (O, 3, k, k) for another number of input channels, (O, in_channels, k, k), as timm does it.

    One channel gets the sum. More get red, green, blue in turn, scaled by 3 / in_channels: an image
    of equal channels then gives the same response.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    turns = math.ceil(in_channels / 3)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels] * (3 / in_channels)


def export_state(model: Network, weight_format: str = "archloom") -> dict[str, Tensor]:
    """The model's state dict under the format's keys; tensors are shared, not copied.

    A log message says so where the format's own implementation pads otherwise or has another epsilon.
    """
    state = model.state_dict()
    names = key_map(weight_format, model.config)
    odd = [key for key in state if key not in names]
    if odd:
        raise WeightsError(
            f"{weight_format} has no name for {_some(odd)}; a replaced module cannot be written"
        )
    config, theirs = model.config, behaviour(weight_format, model.config)
    if (theirs.padding, theirs.epsilon) != (config.padding, config.batch_norm_epsilon):
        log.warning(
            f"{weight_format} computes this network with {theirs.padding} padding and epsilon "
            f"{theirs.epsilon:g}, this model with {config.padding} and {config.batch_norm_epsilon:g}: "
            "the same weights give other logits there"
        )
    return {names[key]: value for key, value in state.items()}


def save(model: Network, path: str | Path, weight_format: str = "archloom") -> Path:
    """Write the weights to `path`: `.safetensors`, whose header carries padding, epsilon and momentum, or
    `.pt`/`.pth`, which can not and holds the state dict alone."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ConfigError(f"weights go to a .safetensors, .pt or .pth file, not '{path.name}'")
    state = {
        key: value.detach().cpu().contiguous() for key, value in export_state(model, weight_format).items()
    }
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".safetensors":
        config = model.config
        header = {
            "format": "pt",
            "archloom.weight_format": weight_format,
            "archloom.padding": config.padding,
            "archloom.batch_norm_epsilon": repr(config.batch_norm_epsilon),
            "archloom.batch_norm_momentum": repr(config.batch_norm_momentum),
        }
        safetensors.torch.save_file(state, partial, header)
    else:
        torch.save(state, partial)
    return partial.replace(path)


def _read_file(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes the unpickler fail in many ways
        raise WeightsError(
            f"{path} cannot be read as weights ({error}); it must be safetensors or a state dict that "
            "torch.load(weights_only=True) accepts"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state, {}


def _behaviour_of(header: Mapping[str, str], where: str) -> Behaviour:
    try:
        padding = header["archloom.padding"]
        if padding not in ("same", "symmetric"):
            raise ValueError(f"padding {padding!r}")
        return Behaviour(
            padding,  # type: ignore[arg-type]
            float(header["archloom.batch_norm_epsilon"]),
            float(header["archloom.batch_norm_momentum"]),
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{where} has a header that cannot be understood: {error}") from error


def pretrained(
    make: Callable[[NetworkConfig, int], N],
    config: NetworkConfig,
    weights_path: str | Path | None,
    *,
    advprop: bool,
    in_channels: int,
    num_classes: int | None,
    weight_format: str | None,
    classifier: Literal["load", "reset"],
    tag: str | None,
    overrides: Mapping[str, Any],
) -> N:
    """`EfficientNet.from_pretrained`, which documents it."""
    config = config.override(**overrides)
    if weights_path is None:
        weights_path, weight_format = download(str(config.name), tag=tag, advprop=advprop)
    elif tag is not None or advprop:
        raise ConfigError("tag and advprop choose among the hub's files; with weights_path leave them out")
    weights = read(weights_path, config, weight_format)
    if num_classes is None:
        num_classes = weights.num_classes or config.num_classes
    model = make(config.override(num_classes=num_classes), in_channels)
    load(model, weights, classifier=classifier)
    said = {
        key: overrides[key]
        for key in ("padding", "batch_norm_epsilon", "batch_norm_momentum")
        if key in overrides
    }
    if said:
        own = model.config.override(**said)
        model.set_behaviour(
            padding=own.padding, epsilon=own.batch_norm_epsilon, momentum=own.batch_norm_momentum
        )
    return model
