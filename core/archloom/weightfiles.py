"""Files of weights: what is in them, whatever wrote them. They are data: nothing in a file is ever run."""

from __future__ import annotations

import importlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .errors import RunError, WeightsError, shown
from .run import read_checkpoint

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "averaged")
PLAIN = ("state_dict", "model_state_dict", "model", "module", "network", "net", "params", "weights")
"""Under these keys checkpoints hold a state dict. Where both kinds are there, the averaged weights are meant."""

WRAPPERS = ("_orig_mod.", "module.")
"""Prefixes that torch.compile, DataParallel and averaging put before every key."""

KNOWN = "Known are .safetensors files and PyTorch files that hold tensors alone"

_NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself: run `git lfs pull` where it lies",
    ),
    (b"<", "is a web page or XML, not weights: the download was answered by a page; fetch the file itself"),
    (b"{", "is JSON, not weights: an index or an answer of a server; fetch the file with the tensors"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it first"),
    (b"\x89HDF", "is HDF5, as Keras writes it: convert it to safetensors where it was made"),
    (b"\x93NUMPY", "is a NumPy array, not a state dict: write the arrays under their names as safetensors"),
)


@dataclass(frozen=True)
class Weights:
    """A state dict, and what its file's header says. where: the file, for messages."""

    state: Mapping[str, Any]
    header: Mapping[str, str] = field(default_factory=dict)
    where: str = "the weights"


def read(source: str | Path | Mapping[str, Any] | Weights) -> Weights:
    """The state dict of a file or of a checkpoint that is in memory, without what is wrapped around it.

    A WeightsError says of a file that holds no weights what it is, and the way out.
    """
    if isinstance(source, Weights):
        return source
    found = Weights(source) if isinstance(source, Mapping) else _read_file(Path(source))
    return Weights(unwrap(found.state), found.header, found.where)


def split_format(source: str | Path) -> tuple[str | None, Path]:
    """(format, file) of `FORMAT:FILE`, as a file is named where there is no other place to say its format."""
    name, colon, rest = str(source).partition(":")
    if colon and name.isidentifier() and not Path(source).exists() and Path(rest).exists():
        return name, Path(rest)
    return None, Path(source)


def read_weights(path: str | Path) -> Mapping[str, Any]:
    """What a file of weights holds: the whole checkpoint, as it was written."""
    return _read_file(Path(path)).state


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a checkpoint, without the prefixes of `WRAPPERS`.

    Averaged weights are taken where there are some (`AVERAGED`), as timm does; for the others, hand over
    `checkpoint["state_dict"]` itself. A WeightsError where a key is no name of a tensor.
    """
    for key in (*AVERAGED, *PLAIN):
        inner = state.get(key)
        if isinstance(inner, Mapping) and _has_tensors(inner):
            return unwrap(inner)
    if odd := [key for key in state if not isinstance(key, str)]:
        raise WeightsError(f"the weights are no state dict: {shown(repr(odd[0]))} is no name of a tensor")
    return _without_wrappers(state)


def _has_tensors(state: Mapping[Any, Any]) -> bool:
    """Whether there is a tensor in it, or in a mapping inside."""
    values = list(state.values())
    return any(isinstance(value, Tensor) for value in values) or any(
        isinstance(value, Mapping) and _has_tensors(value) for value in values
    )


def _without_wrappers(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state without wrappers' prefixes, however many, and without the count that averaging keeps beside."""
    counted = "n_averaged" in state and any(key.startswith(WRAPPERS) for key in state)
    while state:
        rest = {key: value for key, value in state.items() if not (counted and key == "n_averaged")}
        prefix = next((p for p in WRAPPERS if all(key.startswith(p) for key in rest)), None)
        if prefix is None or not rest:
            return rest
        state = {key.removeprefix(prefix): value for key, value in rest.items()}
    return state


def _read_file(path: Path) -> Weights:
    where = str(path)
    if path.is_dir():
        raise WeightsError(
            f"{where} is a folder; name the file in it, such as {path / 'weights.safetensors'}"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise WeightsError(f"there is no weights file {where}") from error
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    if not size:
        raise _refused(path, "it is empty; copy or download it again")
    if head.startswith(b"archloom checkpoint "):
        return Weights(_own_checkpoint(path), where=where)
    if size > 8 and int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{":
        return _safetensors(path, where)
    for start, told in _NOT_WEIGHTS:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            raise _refused(path, f"it {told}")
    return Weights(_pytorch(path, head), where=where)


def _own_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        return read_checkpoint(path)
    except RunError as error:
        raise _refused(path, str(error)) from error


def _safetensors(path: Path, where: str) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return Weights({name: file.get_tensor(name) for name in names}, file.metadata() or {}, where)
    except Exception as error:  # the library has an error of its own, which is no public class
        cause = " ".join(str(error).split())
        raise _refused(path, f"it is damaged ({cause}); copy or download it again") from error


def _pytorch(path: Path, head: bytes) -> Mapping[str, Any]:
    """What `torch.load(weights_only=True)` reads, plus options and numbers that checkpoints often hold beside."""
    if head.startswith(b"PK"):
        _check_archive(path)
    try:
        # opened here: by a name's suffix torch.load would decide what is in the file
        with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, _why_refused(path)) from error
    except Exception as error:
        raise _refused(path, f"it is cut short, damaged, or of another kind. {KNOWN}") from error
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise _refused(path, f"it holds a {kind}, not a state dict; write model.state_dict() instead")
    return state


def _check_archive(path: Path) -> None:
    """Say of a zip archive that PyTorch's `save` did not write what it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise _refused(path, "it is cut short or damaged; copy or download it again") from error
    if "constants.pkl" in names:
        raise _refused(
            path,
            "it is a TorchScript module, which is code: where you trust it, write torch.jit.load(...).state_dict() "
            "as a file of its own",
        )
    if "data.pkl" not in names:
        raise _refused(path, f"it is a zip archive without a state dict in it. {KNOWN}")


def _refused(path: Path, why: str) -> WeightsError:
    return WeightsError(f"cannot read the weights {path}: {why}")


def _harmless() -> list[Any]:
    """Classes that hold plain values and run nothing: the options and the scores beside a state dict."""
    numpy: Any = importlib.import_module("numpy")
    types = {type(numpy.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")}
    scalar = numpy.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{package}.multiarray.scalar") for package in ("core", "_core")]
    options: Any = importlib.import_module("argparse").Namespace
    return [options, numpy.dtype, *types, *named]


def _why_refused(path: Path) -> str:
    """What a pickle holds besides data, and the way out."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no pickle at all
        found = []
    known = {f"{thing.__module__}.{thing.__qualname__}" for thing in _harmless() if isinstance(thing, type)}
    classes = [name for name in sorted(found) if name not in known and not name.startswith("numpy.")]
    if not classes:
        return f"it is no file of weights, or it is damaged. {KNOWN}"
    return (
        f"it holds objects that run code when they are read ({shown(', '.join(classes))}); where it was made, write "
        "its tensors alone: torch.save(model.state_dict(), ...) or safetensors"
    )


def written_header(facts: Mapping[str, object]) -> dict[str, str]:
    """The header of a safetensors file that says `facts` of its weights, each as `archloom.NAME`."""
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    return {"format": "pt", **{f"archloom.{key}": value for key, value in text.items()}}
