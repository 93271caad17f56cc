"""CIFAR-10 and CIFAR-100 through torchvision, from the archives as published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from archloom import ImageTask, Policy, TaskError

from .common import at_least, loading_processes, shares, torchvision_module
from .transforms import Normalize, Triple, cropped_and_flipped, described, statistics

SIZE = 32

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Mean and spread of each channel over the 50,000 training images, values 0 to 1."""


def cifar10(
    *,
    root: str = "data",
    download: bool = False,
    architecture: float = 0.4,
    validation: float = 0.1,
    train_size: int | None = None,
    normalize: Normalize = "standard",
    workers: int | None = None,
    split_seed: int = 0,
) -> ImageTask:
    """60,000 colour images of 32 x 32 pixels, 10 classes.

    `root` holds the folder cifar-10-batches-py; with `download` it is fetched and checked. The published
    10,000 test images are the test split; `architecture` and `validation` are fractions of the 50,000
    others. `train_size`: images of weights and architecture together. `workers`: loading processes (None:
    up to 4). Training images are padded by 4, cropped at random and flipped. `normalize`: "standard" by the
    data's mean and spread, "advprop" to [-1, 1].
    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _cifar(
        "cifar10",
        "CIFAR10",
        (CIFAR10_MEAN, CIFAR10_STD),
        root=root,
        download=download,
        fractions=shares("cifar10", architecture, validation),
        train_size=train_size,
        normalize=normalize,
        workers=workers,
        split_seed=split_seed,
    )


def cifar100(
    *,
    root: str = "data",
    download: bool = False,
    architecture: float = 0.4,
    validation: float = 0.1,
    train_size: int | None = None,
    normalize: Normalize = "standard",
    workers: int | None = None,
    split_seed: int = 0,
) -> ImageTask:
    """60,000 colour images of 32 x 32 pixels, 100 classes.

    `root` holds the folder cifar-100-python; the other options are those of cifar10. Labels are the 100
    fine ones.
    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _cifar(
        "cifar100",
        "CIFAR100",
        (CIFAR100_MEAN, CIFAR100_STD),
        root=root,
        download=download,
        fractions=shares("cifar100", architecture, validation),
        train_size=train_size,
        normalize=normalize,
        workers=workers,
        split_seed=split_seed,
    )


def _cifar(
    name: str,
    class_name: str,
    own: tuple[Triple, Triple],
    *,
    root: str,
    download: bool,
    fractions: dict[str, float],
    train_size: int | None,
    normalize: Normalize,
    workers: int | None,
    split_seed: int,
) -> ImageTask:
    at_least(name, 0, workers=workers)
    archive = getattr(torchvision_module("datasets", name), class_name)
    train, test = _read(name, archive, Path(root).expanduser(), download)
    transform = partial(_transform, name, statistics(normalize, *own))
    return ImageTask(
        name=name,
        shape=(3, SIZE, SIZE),
        classes=tuple(train.classes),
        train=_pixels(train),
        train_targets=train.targets,
        test=_pixels(test),
        eval_transform=partial(transform, False),
        train_transform=partial(transform, True),
        policy_transform=transform,
        fractions=fractions,
        train_size=train_size,
        split_seed=split_seed,
        workers=loading_processes(workers),
        raw_image=_thumbnail,
        preprocessing=described(*statistics(normalize, *own)),
    )


def _thumbnail(image: Any) -> torch.Tensor:
    """A PIL image of any size -> uint8 (3, 32, 32): its middle, as the data set's own images are."""
    v2 = torchvision_module("transforms.v2.functional", "cifar")
    small = v2.center_crop(v2.resize(image.convert("RGB"), [SIZE], antialias=True), [SIZE, SIZE])
    return v2.pil_to_tensor(small)


def _read(name: str, archive: Any, root: Path, download: bool) -> tuple[Any, Any]:
    """The training and the test part of the archive. torchvision compares each file with the checksum of
    the published one before it unpickles it: nothing else is ever unpickled."""
    folder = root / archive.base_folder
    if download:
        try:
            archive(str(root), download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise TaskError(
                f"task '{name}': the download of {archive.url} to {root.resolve()} failed: {error}. "
                f"Fetch it by other means and unpack it there, so that {folder}/ exists"
            ) from error
    files = dict([*archive.train_list, *archive.test_list, [archive.meta["filename"], archive.meta["md5"]]])
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise TaskError(
            f"task '{name}': {folder.resolve()} lacks {', '.join(missing)}. Unpack {archive.filename} "
            f"({archive.url}) in {root.resolve()}, or let it be fetched with the option download: true"
        )
    intact = torchvision_module("datasets.utils", name).check_integrity
    corrupt = [str(folder / file) for file, md5 in files.items() if not intact(str(folder / file), md5)]
    if corrupt:
        raise TaskError(
            f"task '{name}': corrupt, by its md5 checksum: {', '.join(corrupt)}. "
            f"Unpack {archive.filename} ({archive.url}) anew, or delete it and set the option download: true"
        )
    return archive(str(root), train=True), archive(str(root), train=False)


def _pixels(part: Any) -> TensorDataset:
    """Items of uint8 (3, 32, 32), which spares each image the way through PIL and back."""
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return TensorDataset(images, torch.tensor(part.targets))


def _transform(
    name: str, moments: tuple[Triple, Triple], augment: bool | Policy, resolution: int | None
) -> Any:
    return cropped_and_flipped(name, SIZE, *moments, resolution, augment=augment)
