"""Weights into a network, from whoever trained them: the one way for every door."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import ConfigError, UnknownName, WeightsError
from .space import WeightFormat
from .weightfiles import Weights, read, read_weights, split_format, unwrap, written_header

__all__ = [
    "Loaded",
    "Weights",
    "header_of",
    "load_weights",
    "read",
    "read_weights",
    "split_format",
    "unwrap",
    "written_header",
]

log = logging.getLogger("archloom")

_OURS = WeightFormat("archloom", lambda key: key)
_FORMAT = "archloom.weight_format"


class Loaded(str):
    """What `load_weights` did: the format's name, as text, and more.

    left_out: keys of the network that kept their values, and the file's that it has no place for. notes: what
    was done besides copying, in sentences, which are logged too. options: those of the space that build a
    network such as this one now is, where the weights asked for another than it was.
    """

    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Match:
    """A format under which a state was looked at: ours -> theirs, and the state under their keys."""

    format: WeightFormat
    names: Mapping[str, str]
    state: Mapping[str, Any]

    @property
    def score(self) -> int:
        return sum(theirs in self.state for theirs in self.names.values())


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Any] | Weights,
    weight_format: str | None = None,
    *,
    classifier: Literal["load", "reset"] = "load",
) -> Loaded:
    """Load weights in whatever known format they are; the format's name, with what was done.

    weights: a file (safetensors, PyTorch's, our checkpoints; never code), FORMAT:FILE, or a state dict. What
    checkpoints wrap around it is taken off, as is a prefix before every key; averaged weights are preferred.
    weight_format: where keys leave it open; default: what the file's header says, else the keys. classifier: "reset"
    loads all but the last linear layer, which keeps its values. A first convolution of three input channels is summed
    for one, or repeated. Weights bring with them how the network must compute (padding, constants of norms).
    On a mismatch a WeightsError names missing, unexpected and wrongly shaped keys, and nothing changes.
    """
    if classifier not in ("load", "reset"):
        raise ConfigError(f"classifier is 'load' or 'reset', not {classifier!r}")
    if isinstance(weights, str | Path):
        named, weights = split_format(weights)
        weight_format = weight_format or named
    model = _unwrapped(model)
    given, own = read(weights), model.state_dict()
    match = _choose(given, own, tuple(getattr(model, "weight_formats", ())), weight_format)
    found = {ours: match.state[theirs] for ours, theirs in match.names.items() if theirs in match.state}
    top = tuple(key for key in own if key.startswith(f"{classifier_of(model)}."))
    extra = set(match.state) - set(match.names.values())
    beyond = tuple(sorted(extra & set(match.format.classifier)))
    left_out, notes = beyond, []
    if beyond:
        notes.append(f"the network has no classifier: {_some(beyond)} of {given.where} left out")
    if classifier == "reset" and top:
        left_out = (*beyond, *top)
        found = {key: value for key, value in found.items() if key not in top}
        notes.append(f"classifier='reset': {_some(top)} kept as they are")
    stem = _first_convolution(model)
    adapted = _adapted(stem, found, own)
    if adapted is not None:
        notes.append(adapted)
    _check(match, found, own, left_out, sorted(extra - set(beyond)), top, stem)
    options: Mapping[str, Any] = {}
    if match.format.adopt is not None:
        own_header = given.header.get(_FORMAT) == match.format.name
        options = match.format.adopt(model, given.header if own_header else {})
    counts = {key: torch.zeros_like(value) for key, value in own.items() if _is_count(key)}
    kept = set(left_out) | {key for key in own if key not in match.names}
    model.load_state_dict(
        {**{key: value for key, value in counts.items() if key not in kept}, **found}, strict=False
    )
    for note in notes:
        log.warning(note)
    loaded = Loaded(match.format.name)
    loaded.left_out, loaded.notes, loaded.options = left_out, tuple(notes), options
    return loaded


def header_of(model: nn.Module) -> dict[str, str]:
    """What a safetensors file of our own says of its weights: how their network must compute, where that varies.

    Asked of the modules that have a method `weight_facts() -> {name: value}`.
    """
    facts: dict[str, Any] = {}
    for module in model.modules():
        tell: Any = getattr(module, "weight_facts", None)
        if tell is not None:
            facts |= tell()
    return written_header({"weight_format": _OURS.name, **facts} if facts else {})


def classifier_of(model: nn.Module) -> str | None:
    """The name of a network's last linear layer, of its head where it has one; None without any."""
    head = getattr(model, "head", None)
    inside = head if isinstance(head, nn.Module) and _linear(head) else model
    prefix = "head." if inside is head else ""
    names = _linear(inside)
    if not names:
        return None
    return (prefix + names[-1]).rstrip(".")


def _linear(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what compiles it or spreads it over devices."""
    inner: Any = getattr(model, "_orig_mod", None)
    if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = model.module
    return model if inner is None else _unwrapped(inner)


def _choose(
    given: Weights, own: Mapping[str, Tensor], formats: tuple[WeightFormat, ...], wanted: str | None
) -> _Match:
    """The format that the weights are in; a WeightsError where their keys leave open which."""
    known = (*formats, _OURS)
    names = [entry.name for entry in known]
    if wanted is not None and wanted not in names:
        raise UnknownName("weight format", wanted, sorted(set(names)))
    told = wanted or given.header.get(_FORMAT)
    if told in names:
        known = tuple(entry for entry in known if entry.name == told)
    matches = [match for entry in known for match in _matches(entry, given.state, own)]
    best = max(matches, key=lambda match: match.score)
    if not best.score:
        first = ", ".join(list(given.state)[:5]) or "none"
        raise WeightsError(
            f"the weights do not fit the model: {given.where} is in none of the formats "
            f"{', '.join(dict.fromkeys(entry.name for entry in known))}; its first keys: {first}. Nothing was loaded."
        )
    equal = {match.format.name: match.format for match in matches if match.names == best.names}
    if len(equal) > 1 and told not in equal:
        ways = " or ".join(f"'{name}' ({entry.about})" for name, entry in equal.items())
        raise WeightsError(
            f"the keys of {given.where} do not say how their network computes: give weight_format={ways}; where a "
            f"file alone is named, {next(iter(equal))}:FILE"
        )
    return best


def _matches(entry: WeightFormat, state: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[_Match]:
    """The state as it is, and without a prefix that stands before every key, where that brings known names out."""
    names = {ours: theirs for ours in own if (theirs := entry.theirs(ours)) is not None}
    yield _Match(entry, names, entry.unwrap(state))
    if not state or not names or not set(state).isdisjoint(names.values()):
        return
    first = min(state, key=len)
    for prefix in _prefixes(first, names.values()):
        if all(key.startswith(prefix) for key in state):
            bare = {key[len(prefix) :]: value for key, value in state.items()}
            yield _Match(entry, names, entry.unwrap(bare))


def _prefixes(key: str, known: Iterable[str]) -> Iterator[str]:
    """What may stand before one of the `known` names in `key`: whole words, up to a dot."""
    known = set(known)
    for position, letter in enumerate(key):
        if letter == "." and key[position + 1 :] in known:
            yield key[: position + 1]


def _is_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _first_convolution(model: nn.Module) -> str:
    """The key of its weight; text that is no key where there is none."""
    return next((f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), "")


def _adapted(key: str, found: dict[str, Any], own: Mapping[str, Tensor]) -> str | None:
    """Fit a first convolution for three channels to another number, in `found`; what was done."""
    theirs = found.get(key)
    if not isinstance(theirs, Tensor) or theirs.ndim != 4 or theirs.shape[1] != 3:
        return None
    channels = own[key].shape[1]
    if channels == 3 or own[key].shape[0] != theirs.shape[0] or own[key].shape[2:] != theirs.shape[2:]:
        return None
    found[key] = adapt_stem(theirs, channels)
    how = "summed" if channels == 1 else "repeated and scaled"
    return f"the stem's three input channels were {how} for {channels}"


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """A stem (O, 3, k, k) for another number of input channels, (O, in_channels, k, k), as timm does it.

    One channel gets the sum. More get red, green, blue in turn, scaled by 3 / in_channels: an image
    of equal channels then gives the same response.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    turns = math.ceil(in_channels / 3)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels] * (3 / in_channels)


def _check(
    match: _Match,
    found: Mapping[str, Any],
    own: Mapping[str, Tensor],
    left_out: tuple[str, ...],
    unexpected: list[str],
    top: tuple[str, ...],
    stem: str,
) -> None:
    """A WeightsError that names the keys, unless all fits."""
    missing = [
        ours for ours in match.names if ours not in found and ours not in left_out and not _is_count(ours)
    ]
    wrong = [ours for ours, value in found.items() if _shape(value) != _shape(own[ours])]
    if not (missing or unexpected or wrong):
        return
    name = match.names
    told = [
        f"{what}: {_some(keys)}"
        for what, keys in (
            ("missing", [name[ours] for ours in missing]),
            ("unexpected", unexpected),
            ("wrongly shaped", [f"{name[k]} is {_shape(found[k])}, not {_shape(own[k])}" for k in wrong]),
        )
        if keys
    ]
    hint = ""
    if not unexpected and top and set(missing) | set(wrong) <= set(top):
        hint = ". To load all but the classifier, say classifier='reset'"
    elif stem in wrong and _is_other_stem(found[stem], own[stem]):
        hint = ". Only a stem of 3 input channels can be adapted to another number"
    raise WeightsError(
        f"the weights (format '{match.format.name}') do not fit the model. {'; '.join(told)}{hint}"
    )


def _is_other_stem(theirs: Any, ours: Tensor) -> bool:
    """Whether two convolutions differ in their input channels alone."""
    return (
        isinstance(theirs, Tensor)
        and theirs.ndim == 4 == ours.ndim
        and theirs.shape[0] == ours.shape[0]
        and theirs.shape[2:] == ours.shape[2:]
    )


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else type(value).__name__


def _some(keys: Iterable[str], limit: int = 5) -> str:
    keys = list(keys)
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
