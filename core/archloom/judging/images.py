"""Image files: found, read, and made into what a task's networks take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, TaskError
from ..task import Task

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"))
"""What the name of an image in a folder ends in; a file that is named by itself may have any."""


def read_image(path: str | Path) -> Any:
    """An image file as PIL's image, decoded. Raises TaskError, naming the file, for one that is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open(path, "rb") as file:
            image = Image.open(file)
            image.load()
            return image
    except FileNotFoundError as error:
        raise TaskError(f"there is no image file {path}") from error
    except UnidentifiedImageError as error:
        raise TaskError(f"{path} cannot be read as an image: it is of no known format") from error
    except Exception as error:  # a decoder can raise anything at all on damaged bytes
        raise TaskError(f"{path} cannot be read as an image ({type(error).__name__}: {error})") from error


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
    return lambda image: made(raw(image))


def _as_the_items_are(task: Task) -> Callable[[Any], Any] | None:
    """Where a task's raw items are PIL images: an image in their mode."""
    from PIL import Image

    items: Any = getattr(task, "test", None)
    first = items[0][0] if items is not None else None
    if not isinstance(first, Image.Image):
        return None
    mode = first.mode
    return lambda image: image.convert(mode)


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: a file itself, of a folder all images in it and below, by name.

    Raises TaskError for a folder without images; whether a named file is there, reading it tells.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file()
        )
        if not inside:
            raise TaskError(f"there are no images in {path}; they end in {', '.join(sorted(SUFFIXES))}")
        found += inside
    return found


def labelled_files(folder: str | Path, classes: Iterable[str]) -> list[tuple[Path, int]]:
    """(file, label) of all images of `folder`/CLASS/..., the labels by the folders' names among `classes`.

    A class may be without a folder. Raises TaskError for a folder that is no class, or where there are no images.
    """
    folder, labels = Path(folder), {name: number for number, name in enumerate(classes)}
    if not folder.is_dir():
        raise TaskError(f"there is no folder {folder}; its layout is {folder}/CLASS/IMAGE")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if strange := [path.name for path in inside if path.name not in labels]:
        raise TaskError(
            f"{folder} has {_some(strange)}, which the network does not know; its classes are {_some(list(labels))}. "
            f"The layout is {folder}/CLASS/IMAGE"
        )
    found = [
        (path, labels[each.name])
        for each in inside
        for path in sorted(each.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not found:
        raise TaskError(f"there are no images in {folder}; the layout is {folder}/CLASS/IMAGE")
    return found


def _some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
