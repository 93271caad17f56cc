"""Networks by name or from a file, and weights from whoever trained them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .architecture import Architecture
from .config import ModelConfig
from .documents import read_json
from .errors import ConfigError, UnknownName, WeightsError
from .model import Model, ModelParts
from .plugins import Host
from .randomness import forked_rng
from .resolve import model_parts
from .space import NamedArchitecture, SearchSpace, WeightFormat, check, weight_formats
from .trust import beside

FORMAT = "archloom architecture 1"


@dataclass(frozen=True)
class Found:
    """An architecture with its space, and what its file or its authors say about it.

    The sections are the plain data that space and parts were made from, as a configuration has them.
    """

    space: SearchSpace
    architecture: Architecture
    shape: tuple[int, int, int]
    classes: tuple[str, ...] | None
    parts: ModelParts
    published: Mapping[str, Any]
    space_section: Mapping[str, Any]
    model_section: Mapping[str, Any]

    def build(self, num_classes: int | None = None, *, seed: int = 0) -> Model:
        """The whole model, its weights drawn from `seed`."""
        count = num_classes if num_classes is not None else len(self.classes or ()) or 1000
        with forked_rng(seed, "backbone"):
            backbone = self.space.build(self.architecture)
        model = self.parts.assemble(backbone, shape=self.shape, num_classes=count, seed=seed)
        model.weight_formats = weight_formats(self.space, self.architecture)
        return model


def architecture_document(
    space: Mapping[str, Any],
    architecture: Architecture,
    *,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    model: Mapping[str, Any],
    **facts: Any,
) -> dict[str, Any]:
    """What `architecture.json` holds: enough to build the network anywhere."""
    return {
        "format": FORMAT,
        "space": dict(space),
        "architecture": architecture.to_json(),
        "shape": list(shape),
        "classes": list(classes),
        "model": dict(model),
        **facts,
    }


def find(name: str | Path | Mapping[str, Any], host: Host, options: Mapping[str, Any] | None = None) -> Found:
    """A named architecture, an architecture file, a run folder that holds one, or such a file's content.

    `options` are given to the architecture's space, over those that the name implies.
    """
    options = dict(options or {})
    if isinstance(name, Mapping):
        return _from_document(name, host, options, "the architecture")
    path = Path(name)
    if path.is_dir():
        path = path / "architecture.json"
    if path.is_file():
        return _from_document(read_json(path, "the architecture"), host, options, str(path))
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigError(f"there is no architecture file {name}")
    return _from_name(str(name), host, options)


def _from_document(document: Any, host: Host, options: dict[str, Any], where: str) -> Found:
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ConfigError(f"{where} is no architecture file of archloom (its 'format' is not '{FORMAT}')")
    try:
        given = dict(document["space"])
        entry = host.get("space", given.pop("type"))
        space = entry.make(entry.validate(given | options, where), host=host)
        model = ModelConfig.model_validate(document["model"])
        return Found(
            space=space,
            architecture=check(space, Architecture.from_json(document["architecture"])),
            shape=tuple(document["shape"]),
            classes=tuple(document["classes"]),
            parts=model_parts(host, model),
            published={},
            space_section={"type": entry.name, **given, **options},
            model_section=model.model_dump(),
        )
    except KeyError as error:
        raise ConfigError(f"{where} lacks {error}") from error
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise ConfigError(f"{where} is damaged: {' '.join(str(error).split())}") from error


def _from_name(name: str, host: Host, options: dict[str, Any]) -> Found:
    known: list[str] = []
    for entry in host.entries("space"):
        if any(option.required for option in entry.options):
            continue
        accepted = {option.name for option in entry.options}
        if not options.keys() <= accepted:
            theirs = _names(entry.make(entry.validate({}), host=host))
            if name not in theirs:
                known += theirs
                continue
        space = entry.make(entry.validate(options), host=host)
        named: Mapping[str, NamedArchitecture] = getattr(space, "named", {})
        known += named
        if name in named:
            return _named(entry, named[name], options, host)
    raise UnknownName("architecture", name, known, "An architecture.json file or a run folder is taken too.")


def _names(space: Any) -> list[str]:
    return list(getattr(space, "named", {}))


def _named(entry: Any, found: NamedArchitecture, options: dict[str, Any], host: Host) -> Found:
    space = entry.make(entry.validate({**found.options, **options}), host=host)
    model = ModelConfig.model_validate(getattr(space, "recommended_model", {}))
    side = found.resolution
    return Found(
        space=space,
        architecture=check(space, found.architecture),
        shape=(getattr(space, "in_channels", 3), side, side),
        classes=None,
        parts=model_parts(host, model),
        published=found.published,
        space_section={"type": entry.name, **found.options, **options},
        model_section=model.model_dump(),
    )


def build(
    name: str | Path | Mapping[str, Any],
    num_classes: int | None = None,
    *,
    seed: int = 0,
    host: Host | None = None,
    trust: bool = False,
    **options: Any,
) -> Model:
    """A network by name ("fbnet_a"), from an architecture file, or from a run folder.

    num_classes: 1000 for a name, the file's own for a file, unless given. options: those of the
    architecture's space (`reference=True`). Weights are drawn from `seed`. Plugin files that a run folder names are
    loaded with it; trust: also where they never ran on this machine.
    """
    host = host or Host([] if isinstance(name, Mapping) else beside(name, trust=trust))
    return find(name, host, options).build(num_classes, seed=seed)


# -- weights ----------------------------------------------------------------------------------------


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Any]) -> str:
    """Load weights in whatever known format they are; the format's name.

    Formats: our own state dict, and those that the model's space knows. A file is safetensors or a
    PyTorch file of tensors (never code). Wrappings as "state_dict" and a "module." prefix are taken off.
    On a mismatch a WeightsError names missing, unexpected and wrongly shaped keys, and nothing changes.
    """
    given = read_weights(weights) if isinstance(weights, str | Path) else weights
    if odd := [key for key in given if not isinstance(key, str)]:
        raise WeightsError(f"the weights are no state dict: {odd[0]!r} is no name of a tensor")
    own = model.state_dict()
    best: tuple[int, WeightFormat, dict[str, str], Mapping[str, Any]] | None = None
    for candidate in (_OURS, *getattr(model, "weight_formats", ())):
        state = candidate.unwrap(unwrap(given))
        names = {ours: theirs for ours in own if (theirs := candidate.theirs(ours)) is not None}
        score = sum(theirs in state for theirs in names.values())
        if best is None or score > best[0]:
            best = (score, candidate, names, state)
    assert best is not None
    _, chosen, names, state = best
    missing = [
        theirs
        for ours, theirs in names.items()
        if theirs not in state and not ours.endswith("num_batches_tracked")
    ]
    unexpected = sorted(set(state) - set(names.values()))
    wrong = [
        f"{theirs} is {_shape(state[theirs])}, not {_shape(own[ours])}"
        for ours, theirs in names.items()
        if theirs in state and _shape(state[theirs]) != _shape(own[ours])
    ]
    if missing or unexpected or wrong:
        told = [
            f"{what}: {_some(keys)}"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", wrong))
            if keys
        ]
        raise WeightsError(f"the weights (format '{chosen.name}') do not fit the model. {'; '.join(told)}")
    model.load_state_dict(
        {ours: state[theirs] for ours, theirs in names.items() if theirs in state}, strict=False
    )
    return chosen.name


_OURS = WeightFormat("archloom", lambda key: key)


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a checkpoint: under "state_dict_ema", "state_dict" or "model", without "module."."""
    for key in ("state_dict_ema", "state_dict", "model"):
        inner = state.get(key)
        if isinstance(inner, Mapping):
            return unwrap(inner)
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def read_weights(path: str | Path) -> Mapping[str, Any]:
    """A file of tensors: safetensors, or PyTorch's format read as data (`weights_only`)."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, pickle.UnpicklingError):  # PyTorch's own words would have the file executed
            cause = "it holds Python objects, which could run code, or is no file of weights at all"
        raise WeightsError(
            f"cannot read the weights {path}: {cause}. Known are .safetensors files and "
            "PyTorch files that hold tensors alone"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else type(value).__name__


def _some(keys: list[str], limit: int = 5) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
