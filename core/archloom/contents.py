"""What the files and the data that a configuration names hold, as hashes: is it still the same that work began with?"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import RunError
from .metrics import outputs_beyond_classes
from .plugin_files import read_plugin
from .task import SPLITS, ImageTask, Split, Task, kept_generators

FOLDER = "folder"
"""Stands for the content of a folder, which is not read: the splits say what a task's folder holds."""

SAMPLED = 32
"""Images of each split whose content is hashed; of all others the names and the labels are."""

_SOURCES = ("architecture.json", "model.yaml", "weights.safetensors")


def contents_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> hash, for each setting that names a file that is there; `FOLDER` where it names a folder.

    Of a folder that is a trained network (a run, say, named as a teacher) its files are hashed. Names of types are no
    files, whatever lies in the working directory.
    """
    found = {}
    for key, value in leaves(settings):
        if not isinstance(value, str) or not value or key.rpartition(".")[2] == "type":
            continue
        try:
            path = Path(value).expanduser()
            if path.is_dir():
                files = [path / name for name in _SOURCES if (path / name).is_file()]
                found[key] = _joined(map(file_hash, files)) if files else FOLDER
            elif path.is_file():
                found[key] = file_hash(path)
        except (OSError, ValueError, RuntimeError):  # no path at all: too long, a zero byte, nobody's home
            continue
    return found


def plugin_contents(files: Sequence[str | Path]) -> dict[str, str]:
    """`plugins.NAME` -> hash, for each plugin file with what it imports beside it; those of one name are counted."""
    found: dict[str, str] = {}
    for file in files:
        name = key = f"plugins.{Path(file).name}"
        number = 2
        while key in found:
            key, number = f"{name} ({number})", number + 1
        found[key] = f"sha256:{read_plugin(file).digest}"
    return found


def leaves(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The single values, and what is empty, in nested mappings and lists, each with its dotted key."""
    if isinstance(settings, Mapping | list | tuple) and not settings:
        yield key, settings
        return
    if isinstance(settings, Mapping):
        inside: Any = settings.items()
    elif isinstance(settings, list | tuple):
        inside = enumerate(settings)
    else:
        yield key, settings
        return
    for name, value in inside:
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes; a RunError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def task_contents(task: Task | None) -> dict[str, str]:
    """`task` -> the hash of its splits; nothing where there is no task."""
    return {} if task is None else {"task": task_hash(task)}


def task_hash(task: Task) -> str:
    """A hash of a task's splits: which images each holds, by name and label, and the content of some of them.

    It is the same wherever the data lie. `SAMPLED` images of each split are read, spread evenly over it.
    """
    outputs = outputs_beyond_classes(task)
    digest = hashlib.sha256(
        _plain([list(task.shape), list(task.classes), *([] if outputs is None else [outputs])])
    )
    with kept_generators():  # a data set may draw when it is read; nobody else may notice
        for split in SPLITS:
            for line in _split(task, split):
                digest.update(len(line).to_bytes(8, "little") + line)
    return "sha256:" + digest.hexdigest()


def _split(task: Task, split: Split) -> Iterator[bytes]:
    yield split.encode()
    if isinstance(task, ImageTask):
        own: Any = {"test": task.test, "validation": task.validation}.get(split)
        items: Any = task.train if own is None else own
        try:
            positions = task.indices(split)
        except Exception:  # a task without this split
            return
        if own is None:
            yield _plain([int(task.train_targets[position]) for position in positions])
    else:
        try:
            items = task.dataset(split)
            positions = list(range(len(items)))
        except Exception:
            return
    yield len(positions).to_bytes(8, "little")
    files = _files(items)
    if files is not None:
        yield _plain([files[position][0] for position in positions])
    step, classes = max(1, len(positions) // SAMPLED), outputs_beyond_classes(task) is None
    for position in positions[::step][:SAMPLED]:
        yield _content(items, position, classes) if files is None else _read(files[position][1])


def _files(items: Any) -> list[tuple[str, Path]] | None:
    """For each item its name inside the data set and its file, where the data set is one of files."""
    samples, root = getattr(items, "samples", None), getattr(items, "root", None)
    if not isinstance(samples, list) or not isinstance(root, str | Path):
        return None
    if not all(isinstance(one, tuple) and one and isinstance(one[0], str | Path) for one in samples):
        return None
    return [(unicodedata.normalize("NFC", os.path.relpath(path, root)), Path(path)) for path, *_ in samples]


def _read(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b"unreadable"


def _content(items: Any, position: int, classes: bool) -> bytes:
    try:
        image, target = items[position]
        pixels = _array(image)
        told = int(target) if classes else _array(target).tolist()
        return _plain([str(pixels.dtype), list(pixels.shape), told]) + pixels.tobytes()
    except Exception:  # what cannot be read is said by who needs it
        return b"unreadable"


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _plain(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _joined(hashes: Iterator[str]) -> str:
    return "sha256:" + hashlib.sha256(" ".join(hashes).encode()).hexdigest()
