"""Folders of images in ImageNet's layout: one folder for each split, in it one folder for each class."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

from archloom.augmentation import Policy
from archloom.errors import TaskError
from archloom.task import ImageTask

from .common import at_least, loading_processes, shares, torchvision_module
from .transforms import EVAL_CROP, Normalize, described, photograph, statistics

NAME = "imagefolder"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and spread of each channel that published ImageNet weights were trained with, values 0 to 1."""

LAYOUT = "The layout is train/CLASS/IMAGE and val/CLASS/IMAGE, and test/CLASS/IMAGE where there is one"


def imagefolder(
    *,
    root: str,
    resolution: int = 224,
    architecture: float = 0.2,
    validation: float = 0.1,
    train_size: int | None = None,
    on_corrupt: Literal["refuse", "skip"] = "refuse",
    normalize: Normalize = "standard",
    workers: int | None = None,
    split_seed: int = 0,
) -> ImageTask:
    """Images in folders, ImageNet's layout: root/train/CLASS/IMAGE, root/val/CLASS/IMAGE.

    With a root/test besides, that is the test split and val is the validation split. Without, val is the
    test split, and the fraction `validation` of train selects. `architecture` is a fraction of train,
    `train_size` the images of weights and architecture together, `workers` loading processes (None: up to
    4). `on_corrupt`: "refuse" stops at an image that cannot be read when it is loaded; "skip" decodes
    every image once at the start, and leaves out and names those that cannot be read. `normalize`:
    "standard" by ImageNet's mean and spread, "advprop" to [-1, 1].
    """
    at_least(NAME, 1, resolution=resolution, train_size=train_size)
    at_least(NAME, 0, workers=workers)
    top = Path(root).expanduser()
    if not top.is_dir():
        raise TaskError(f"task '{NAME}': there is no folder {top.resolve()}; set the option root. {LAYOUT}")
    parts = {
        name: _scan(top / name, on_corrupt)
        for name in ("train", "val", "test")
        if name != "test" or (top / name).is_dir()
    }
    train, held_out = parts["train"], "test" in parts
    for name, part in parts.items():
        _same_classes(top, train.classes, name, part.classes)
    return ImageTask(
        name=NAME,
        shape=(3, resolution, resolution),
        classes=tuple(train.classes),
        train=train,
        train_targets=train.targets,
        test=parts["test"] if held_out else parts["val"],
        validation=parts["val"] if held_out else None,
        eval_transform=partial(_transform, resolution, normalize, False),
        train_transform=partial(_transform, resolution, normalize, True),
        policy_transform=partial(_transform, resolution, normalize),
        fractions=shares(NAME, architecture, 0.0 if held_out else validation),
        train_size=train_size,
        split_seed=split_seed,
        workers=loading_processes(workers),
        raw_image=_rgb,
        preprocessing=described(*statistics(normalize, IMAGENET_MEAN, IMAGENET_STD), crop_pct=EVAL_CROP),
    )


def _rgb(image: Any) -> Any:
    return image.convert("RGB")


def read_image(path: str) -> Any:
    """An image as RGB (PIL). Raises TaskError, naming the file, for one that cannot be read."""
    from PIL import Image

    try:
        with open(path, "rb") as file:
            return _rgb(Image.open(file))
    except Exception as error:  # a decoder can raise anything at all on damaged bytes
        raise TaskError(
            f"task '{NAME}': {path} cannot be read as an image ({type(error).__name__}: {error}). "
            "Replace or delete it, or leave out all such images with the option on_corrupt: skip"
        ) from error


def _scan(folder: Path, on_corrupt: str) -> Any:
    """A torchvision ImageFolder of one split."""
    folders = torchvision_module("datasets.folder", NAME)
    if not folder.is_dir():
        raise TaskError(f"task '{NAME}': there is no folder {folder.resolve()}. {LAYOUT}")
    corrupt: list[str] = []

    def readable(path: str) -> bool:
        if not folders.is_image_file(path):
            return False
        try:
            read_image(path)
        except TaskError:
            corrupt.append(path)
            return False
        return True

    valid = readable if on_corrupt == "skip" else None
    try:
        found = folders.ImageFolder(str(folder), loader=read_image, is_valid_file=valid)
    except FileNotFoundError as error:
        left_out = f" Left out as corrupt: {', '.join(corrupt)}." if corrupt else ""
        raise TaskError(
            f"task '{NAME}': {folder.resolve()} is empty, or a class in it is: {error}{left_out} "
            f"Put images there, or remove the folders that are no class. {LAYOUT}"
        ) from error
    if corrupt:
        warnings.warn(
            f"task '{NAME}': left out {len(corrupt)} images of {folder} that cannot be read: "
            + ", ".join(corrupt),
            stacklevel=3,
        )
    if len(found.classes) < 2:
        raise TaskError(
            f"task '{NAME}': {folder.resolve()} has one class only, '{found.classes[0]}'; a classifier needs "
            f"two or more folders of images. {LAYOUT}"
        )
    return found


def _same_classes(top: Path, wanted: list[str], name: str, classes: list[str]) -> None:
    """Labels are numbered by the sorted folder names, so that a folder more would renumber them."""
    if classes != wanted:
        lacks, more = sorted(set(wanted) - set(classes)), sorted(set(classes) - set(wanted))
        raise TaskError(
            f"task '{NAME}': {top / name} and {top / 'train'} must have the same classes; {name} "
            + " and ".join(
                f"{verb} {', '.join(names)}"
                for verb, names in (("lacks", lacks), ("has besides", more))
                if names
            )
        )


def _transform(native: int, normalize: Normalize, augment: bool | Policy, resolution: int | None) -> Any:
    mean, std = statistics(normalize, IMAGENET_MEAN, IMAGENET_STD)
    return photograph(NAME, mean, std, resolution or native, augment=augment)
