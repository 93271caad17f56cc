"""Image files as a task's networks take them: which are meant, how each is read, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, TaskError
from ..pictures import SUFFIXES, Scan, beside, class_folders, composed, plain, read_image, scan
from ..task import Task

__all__ = ["SUFFIXES", "image_files", "image_input", "labelled_files", "read_image", "reader"]

_EIGHT_BITS = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV")


def image_input(task: Task, resolution: int | None = None) -> Callable[[Any], Tensor]:
    """image (PIL) -> (C, H, W): how a task's networks are given an image file, the task's own eval transform.

    A ConfigError where the task does not tell how.
    """
    transform: Any = getattr(task, "eval_transform", None)
    raw = getattr(task, "raw_image", None) or _as_the_items_are(task)
    if transform is None or raw is None:
        raise ConfigError(
            f"task '{task.name}' does not say how an image file becomes an input; give it `raw_image` and "
            "`eval_transform`, as archloom.task.ImageTask has them"
        )
    made = transform(resolution)
    as_read = (lambda image: image) if _has_a_mode_of_its_own(task) else plain
    return lambda image: made(raw(as_read(image)))


def reader(task: Task) -> Callable[[str | Path], Any]:
    """path -> PIL image, as the task's own files are read: upright or as stored, and in the mode of its items where
    that has more than 8 bits or transparency."""
    upright = bool(getattr(task, "upright", False))
    return partial(read_image, upright=upright, raw=_has_a_mode_of_its_own(task))


def _has_a_mode_of_its_own(task: Task) -> bool:
    """Whether the raw items are PIL images of a mode that reading 8 bits would lose."""
    if getattr(task, "raw_image", None) is not None:
        return False
    mode = _mode_of_items(task)
    return mode is not None and mode not in _EIGHT_BITS


def _as_the_items_are(task: Task) -> Callable[[Any], Any] | None:
    """Where a task's raw items are PIL images: an image in their mode."""
    mode = _mode_of_items(task)
    return None if mode is None else lambda image: image.convert(mode)


def _mode_of_items(task: Task) -> str | None:
    from PIL import Image

    items: Any = getattr(task, "test", None)
    first = items[0][0] if items is not None else None
    return first.mode if isinstance(first, Image.Image) else None


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: a file itself, of a folder all images in it and below, by name.

    Images of a folder that are left out are warned of, with the reason. Raises TaskError for a folder without images;
    whether a named file is there, reading it tells.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = scan(path)
        inside.say(path)
        if not inside.images:
            raise TaskError(f"there are no images in {path}; they end in {', '.join(sorted(SUFFIXES))}")
        found += map(Path, inside.images)
    return found


def labelled_files(folder: str | Path, classes: Iterable[str]) -> list[tuple[Path, int]]:
    """(file, label) of all images of `folder`/CLASS/..., the labels by the folders' names among `classes`.

    A class may be without a folder. Images that are left out are warned of, with the reason. Raises TaskError for a
    folder that is no class, or where there are no images.
    """
    folder, known = Path(folder), list(classes)
    labels = {composed(name): number for number, name in enumerate(known)}
    if not folder.is_dir():
        raise TaskError(f"there is no folder {folder}; its layout is {folder}/CLASS/IMAGE")
    inside = class_folders(folder)
    if strange := [name for name in inside if name not in labels]:
        raise TaskError(
            f"{folder} has {_some(strange)}, which the network does not know; its classes are {_some(known)}. "
            f"The layout is {folder}/CLASS/IMAGE"
        )
    found, files = Scan(), []
    beside(folder, inside.values(), found)
    for name, where in inside.items():
        before = len(found.images)
        files += [(Path(path), labels[name]) for path in scan(where, found).images[before:]]
    found.say(folder)
    if not files:
        raise TaskError(f"there are no images in {folder}; the layout is {folder}/CLASS/IMAGE")
    return files


def _some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
