"""Weights to files, in every format of `formats`, and networks whose weights come from one.

`archloom.load_weights` is what reads them. A safetensors file that we write says its format, padding and
BatchNorm constants in its header, and gets them back when it is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from archloom import ConfigError, WeightsError
from archloom import weights as core

from .config import NetworkConfig
from .formats import behaviour, classes_in, key_map
from .hub import download

log = logging.getLogger("archloom")


class Network(Protocol):
    """What weights are loaded into and written from: an `EfficientNet`, which itself imports this module."""

    config: NetworkConfig

    def state_dict(self) -> dict[str, Any]: ...

    def set_behaviour(self, *, padding: Any, epsilon: float, momentum: float) -> None: ...


N = TypeVar("N", bound=Network)


def export_state(model: Network, weight_format: str = "archloom") -> dict[str, Tensor]:
    """The model's state dict under the format's keys; tensors are shared, not copied.

    A log message says so where the format's own implementation pads otherwise or has another epsilon.
    """
    state = model.state_dict()
    names = key_map(weight_format, model.config)
    if odd := [key for key in state if key not in names]:
        more = f" and {len(odd) - 6} more" if len(odd) > 6 else ""
        raise WeightsError(
            f"{weight_format} has no name for {', '.join(odd[:6])}{more}; a replaced module cannot be written"
        )
    config, theirs = model.config, behaviour(weight_format, model.config)
    if theirs[:2] != (config.padding, config.batch_norm_epsilon):
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
        facts = {"weight_format": weight_format, **behaviour("archloom", model.config).options()}
        safetensors.torch.save_file(state, partial, core.written_header(facts))
    else:
        torch.save(state, partial)
    return partial.replace(path)


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
    given = core.read(weights_path)
    if num_classes is None:
        num_classes = classes_in(given.state) or config.num_classes
    model = make(config.override(num_classes=num_classes), in_channels)
    core.load_weights(model, given, weight_format, classifier=classifier)  # type: ignore[arg-type]
    said = ("padding", "batch_norm_epsilon", "batch_norm_momentum")
    if any(key in overrides for key in said):
        own = model.config.override(**{key: overrides[key] for key in said if key in overrides})
        model.set_behaviour(
            padding=own.padding, epsilon=own.batch_norm_epsilon, momentum=own.batch_norm_momentum
        )
    return model
