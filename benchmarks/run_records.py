"""What a folder of archloom's says of behaviour, as plain values that can be compared; without a word from archloom.

    record = read(folder)                     {file: {item: value}}, timings and places left out
    differences(before, after)                what `before` holds and `after` holds not, or otherwise
    additions(before, after)                  what only `after` holds

Files are read by their formats alone: JSON and YAML documents, JSON lines, CSV, safetensors, PyTorch's files (read as
data) and TorchScript (run on a fixed input). A tensor is recorded by its type, its shape and a hash of its bytes.
Pages and pictures are recorded as being there: their words and their looks are no behaviour.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load as load_safetensors

Items = dict[str, Any]
Record = dict[str, Items]

TIMED = ("active", "seconds", "latency", "duration", "created", "date", "images_per_second")
"""Keys that begin so hold what a clock measured."""

PLACES = (
    "versions",
    "platform",
    "commit",
    "command",
    "environment",
    "owner",
    "key",
    "from",
    "origin",
    "source_path",
)
"""Keys that say where, by which software and for which run something was made."""

SKIPPED = ("environment.json", "log.txt", ".lock", "origins.json")
SKIPPED_ENDINGS = (".previous", ".pyc", ".log", ".sums")
SEEN = (".html", ".svg", ".png", ".jpg", ".md", ".txt", ".py")
"""Recorded as being there."""


def read(folder: Path) -> Record:
    """All files under `folder`, by their path in it."""
    record: Record = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not _skipped(path, name):
            items = _reader(path)(path)
            record[name] = {key: _without(value, folder) for key, value in items.items()}
    return record


def differences(before: Record, after: Record) -> list[str]:
    """One line for each file or item of `before` that `after` lacks or has otherwise."""
    lines = []
    for file, items in before.items():
        if file not in after:
            lines.append(f"{file} is missing")
            continue
        for item, value in items.items():
            if item not in after[file]:
                lines.append(f"{file}: {item} is missing; it was {_short(value)}")
            elif not _same(value, after[file][item]):
                lines.append(f"{file}: {item}: {_short(value)} became {_short(after[file][item])}")
    return lines


def additions(before: Record, after: Record) -> list[str]:
    """One line for each file, and for each item of a file of both, that only `after` holds."""
    lines = [file for file in after if file not in before]
    for file in before:
        lines += [f"{file}: {item}" for item in after.get(file, {}) if item not in before[file]]
    return lines


def digest(record: Record) -> str:
    """A hash of all of it."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _skipped(path: Path, name: str) -> bool:
    return path.name in SKIPPED or path.name.endswith(SKIPPED_ENDINGS) or "tensorboard/" in name


def _reader(path: Path) -> Callable[[Path], Items]:
    for ending, reader in READERS.items():
        if path.name.endswith(ending):
            return reader
    return _bytes


def _without(value: Any, folder: Path) -> Any:
    """A value in which the folder's own path says FOLDER."""
    return value.replace(str(folder.resolve()), "FOLDER") if isinstance(value, str) else value


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)  # NaN is itself, and 1 is not 1.0


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def untimed(value: Any) -> Any:
    """JSON data without what a clock measured, and without places."""
    if isinstance(value, Mapping):
        return {
            str(key): untimed(inner)
            for key, inner in value.items()
            if not str(key).startswith(TIMED) and key not in PLACES
        }
    return [untimed(inner) for inner in value] if isinstance(value, list | tuple) else value


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a document, with dotted names; a list and a mapping without entries count as plain."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value:
        yield f"{name} (entries)", len(value)
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{index}" if name else str(index))
    elif isinstance(value, torch.Tensor):
        yield name, described(value)
    else:
        yield name, value if isinstance(value, str | int | float | bool | None) else repr(value)


def described(tensor: torch.Tensor) -> str:
    """A tensor's type, shape and the hash of its bytes."""
    plain = tensor.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    shape = "x".join(str(side) for side in plain.shape) or "scalar"
    return f"{str(plain.dtype).removeprefix('torch.')} {shape} {hashlib.sha256(data).hexdigest()[:16]}"


def _document(path: Path) -> Items:
    read_text = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        return dict(leaves(untimed(read_text(path.read_text(encoding="utf-8")))))
    except ValueError:  # what a command printed that failed
        return {"no document": True}


def _lines(path: Path) -> Items:
    """Events, each by its kind and what it is of; those of one kind that are of nothing by their order."""
    items: Items = {}
    kinds: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        kind = str(event.pop("event", "line"))
        if kind == "start":
            continue  # identity.json says it too
        kinds[kind] += 1
        name = _name(kind, event) or f"{kind} {kinds[kind] - 1}"
        named[name] += 1
        where = name if named[name] == 1 else f"{name} for the {named[name]}th time"
        for key, value in untimed(event).items():
            items[f"{where}: {key}"] = json.dumps(value, sort_keys=True)
    return items | {f"{kind} (lines)": number for kind, number in kinds.items()}


def _name(kind: str, event: Mapping[str, Any]) -> str:
    """What an event is of; empty where that does not tell it from others of its kind, as the order counts."""
    if kind != "observe" and event.get("number") is not None:
        return f"{kind} {event['number']}"
    if "label" in event:
        return f"{kind} {event['label']} {event.get('seed')}"
    return f"{kind} {event['name']}" if "name" in event else ""


def _table(path: Path) -> Items:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    items: Items = {"rows": len(rows)}
    for number, row in enumerate(rows):
        items |= {f"row {number}: {key}": value for key, value in untimed(row).items()}
    return items


def _tensors(path: Path) -> Items:
    return _state(load_safetensors(path.read_bytes()))


def _state(state: Any) -> Items:
    items = {f"tensor {name}" if " " not in name else name: value for name, value in leaves(untimed(state))}
    return items | {"values": len(items)}


def _torch(path: Path) -> Items:
    """A file of PyTorch's, behind whatever lines archloom puts before it."""
    data = path.read_bytes()
    begin = data.find(b"PK\x03\x04")
    return _state(torch.load(io.BytesIO(data[max(begin, 0) :]), map_location="cpu", weights_only=True))


def _torchscript(path: Path) -> Items:
    """The logits of two fixed images, of the shape that config.json beside the file says."""
    config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    shape = next(value for name, value in _lists(config) if name in ("shape", "input_size"))
    images = torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2]).reshape(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)  # PyTorch deprecates TorchScript
        network = torch.jit.load(io.BytesIO(path.read_bytes())).eval()
    with torch.no_grad():
        return {"logits of two images": described(network(images))}


def _lists(value: Any, name: str = "") -> Iterator[tuple[str, list[int]]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _lists(inner, str(key))
    elif isinstance(value, list) and len(value) == 3 and all(isinstance(side, int) for side in value):
        yield name, value


def _seen(path: Path) -> Items:
    return {"is there": True}


def _bytes(path: Path) -> Items:
    return {"bytes": hashlib.sha256(path.read_bytes()).hexdigest()}


READERS: dict[str, Callable[[Path], Items]] = {
    ".torchscript.pt": _torchscript,
    ".json": _document,
    ".yaml": _document,
    ".jsonl": _lines,
    ".csv": _table,
    ".safetensors": _tensors,
    ".pt": _torch,
    ".pt2": _seen,
    ".onnx": _seen,
    **dict.fromkeys(SEEN, _seen),
}
