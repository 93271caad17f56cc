"""Folders of images in ImageNet's layout: one folder for each split, in it one folder for each class."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from archloom import ImageTask, Policy, TaskError, pictures, python_rng

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
    classes: int | None = None,
    subset_seed: int = 0,
    orientation: Literal["stored", "exif"] = "stored",
) -> ImageTask:
    """Images in folders, ImageNet's layout: root/train/CLASS/IMAGE, root/val/CLASS/IMAGE.

    With a root/test besides, that is the test split and val is the validation split. Without, val is the
    test split, and the fraction `validation` of train selects. `architecture` is a fraction of train,
    `train_size` the images of weights and architecture together, `workers` loading processes (None: up to
    4). `on_corrupt`: "refuse" stops at an image that cannot be read when it is loaded; "skip" decodes
    every image once at the start, and leaves out and names those that cannot be read. `normalize`:
    "standard" by ImageNet's mean and spread, "advprop" to [-1, 1]. `classes`: so many
    of the folders alone, drawn from `subset_seed` and the folders' names, whatever lies inside them. `orientation`:
    "stored" takes images as their pixels lie, "exif" turns them as cameras say they were held.
    """
    at_least(NAME, 1, resolution=resolution, train_size=train_size)
    at_least(NAME, 2, classes=classes)
    at_least(NAME, 0, workers=workers)
    torchvision_module("transforms.v2", NAME)  # whoever lacks it is told before folders are read
    top = Path(root).expanduser()
    if not top.is_dir():
        raise TaskError(f"task '{NAME}': there is no folder {top.resolve()}; set the option root. {LAYOUT}")
    upright = orientation == "exif"
    shown: dict[str, Any] = {"orientation": orientation} if upright else {}
    chosen = None if classes is None else _drawn_classes(top / "train", classes, subset_seed)
    parts = {
        name: _scan(top / name, on_corrupt, upright, chosen)
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
        preprocessing=described(
            *statistics(normalize, IMAGENET_MEAN, IMAGENET_STD),
            crop_pct=EVAL_CROP,
            **shown,
        ),
        upright=upright,
    )


def _rgb(image: Any) -> Any:
    return image.convert("RGB")


class FolderImages(Dataset[Any]):
    """The images of one split: (PIL image, label). classes: names; samples: (path, label); targets: labels."""

    def __init__(self, root: str, classes: list[str], samples: list[tuple[str, int]], upright: bool) -> None:
        self.root, self.classes, self.samples, self.upright = root, classes, samples, upright
        self.targets = [label for _, label in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        path, label = self.samples[position]
        return read_image(path, self.upright), label


def read_image(path: str, upright: bool = False) -> Any:
    """An image as RGB (PIL). Raises TaskError, naming the file, for one that cannot be read."""
    try:
        return _rgb(pictures.read_image(path, upright=upright))
    except TaskError as error:
        raise TaskError(
            f"task '{NAME}': {error}. "
            "Replace or delete it, or leave out all such images with the option on_corrupt: skip"
        ) from error


def _drawn_classes(folder: Path, count: int, seed: int) -> frozenset[str]:
    """`count` of the folder's class names; the same wherever the same names lie."""
    known = list(pictures.class_folders(folder)) if folder.is_dir() else []
    if known and count > len(known):
        raise TaskError(
            f"task '{NAME}': {folder.resolve()} has {len(known)} classes, fewer than classes = {count}"
        )
    return frozenset(python_rng(seed, "classes").sample(known, count) if known else ())


def _scan(folder: Path, on_corrupt: str, upright: bool, chosen: frozenset[str] | None = None) -> FolderImages:
    """The images of one split, of the chosen classes where there is a choice."""
    if not folder.is_dir():
        raise TaskError(f"task '{NAME}': there is no folder {folder.resolve()}. {LAYOUT}")
    folders = pictures.class_folders(folder)
    classes = [name for name in folders if chosen is None or name in chosen]
    found, corrupt, samples, empty = pictures.Scan(), [], [], []
    pictures.beside(folder, folders.values(), found)
    for label, name in enumerate(classes):
        before = len(found.images)
        files = pictures.scan(folders[name], found).images[before:]
        broken = _corrupt(files, upright) if on_corrupt == "skip" else set()
        corrupt += sorted(broken)
        samples += (good := [(path, label) for path in files if path not in broken])
        empty += [] if good else [name]
    found.say(folder)
    if empty or not classes:
        left_out = f" Left out as corrupt: {', '.join(map(pictures.shown, corrupt))}." if corrupt else ""
        told = f"there is no valid file for the classes {', '.join(empty)}" if empty else "no class folder"
        raise TaskError(
            f"task '{NAME}': {folder.resolve()} is empty, or a class in it is: {told}.{left_out} "
            f"Put images there, or remove the folders that are no class. {LAYOUT}"
        )
    if corrupt:
        warnings.warn(
            f"task '{NAME}': left out {len(corrupt)} images of {folder} that cannot be read: "
            + ", ".join(map(pictures.shown, corrupt)),
            stacklevel=3,
        )
    if len(classes) < 2:
        raise TaskError(
            f"task '{NAME}': {folder.resolve()} has one class only, '{classes[0]}'; a classifier needs "
            f"two or more folders of images. {LAYOUT}"
        )
    return FolderImages(str(folder), classes, samples, upright)


def _corrupt(files: list[str], upright: bool) -> set[str]:
    """Those that cannot be read: every file is decoded."""
    broken = set()
    for path in files:
        try:
            read_image(path, upright)
        except TaskError:
            broken.add(path)
    return broken


def _same_classes(top: Path, wanted: list[str], name: str, classes: list[str]) -> None:
    """Labels are numbered by the sorted folder names, so that a folder more would renumber them."""
    if classes != wanted:
        lacks, more = sorted(set(wanted) - set(classes)), sorted(set(classes) - set(wanted))
        raise TaskError(
            f"task '{NAME}': {top / name} and {top / 'train'} must have the same classes; {name} "
            + " and ".join(
                f"{verb} {', '.join(map(pictures.differing, names))}"
                for verb, names in (("lacks", lacks), ("has besides", more))
                if names
            )
        )


def _transform(native: int, normalize: Normalize, augment: bool | Policy, resolution: int | None) -> Any:
    mean, std = statistics(normalize, IMAGENET_MEAN, IMAGENET_STD)
    return photograph(NAME, mean, std, resolution or native, augment=augment)
