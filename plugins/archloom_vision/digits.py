"""The handwritten digits that come with scikit-learn: 1,797 real images, nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch.utils.data import TensorDataset

from archloom.augmentation import Policy
from archloom.task import ImageTask, stratified_split

from .common import at_least, shares
from .transforms import Policied, Shifted, Standardize

TEST_FRACTION, TEST_SEED = 0.2, 0
"""The test images never depend on an option: what one run tests on, no other has trained on."""

MEAN, STD = 0.305521, 0.376503
"""Of the 1,438 images that are not test images, grey levels 0 to 16 mapped to 0 to 1."""


def digits(
    *,
    resolution: int = 8,
    augment: Literal["none", "shift"] = "none",
    train_size: int | None = None,
    architecture: float = 0.2,
    validation: float = 0.2,
    split_seed: int = 0,
) -> ImageTask:
    """1,797 grey images of handwritten digits, 8 x 8 pixels, 10 classes; needs no download.

    A stratified 359 of them are the test split, always the same ones; `architecture` and `validation` are
    fractions of the other 1,438. `train_size`: images of weights and architecture together.
    `resolution`: side in pixels, bilinear from 8. `augment`: "shift" moves a training image by up to one
    of its 8 pixels.
    Source: scikit-learn's copy of the test part of the UCI data set "Optical Recognition of Handwritten
    Digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits

    at_least("digits", 1, resolution=resolution, train_size=train_size)
    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16  # (1797, 1, 8, 8)
    labels = torch.from_numpy(raw.target)
    fixed = {"train": 1 - TEST_FRACTION, "test": TEST_FRACTION}
    shift = int(augment == "shift")
    parts = stratified_split(raw.target.tolist(), fixed, TEST_SEED)
    train, test = (TensorDataset(images[parts[name]], labels[parts[name]]) for name in ("train", "test"))
    return ImageTask(
        name="digits",
        shape=(1, resolution, resolution),
        classes=tuple(str(digit) for digit in raw.target_names),
        train=train,
        train_targets=labels[parts["train"]].tolist(),
        test=test,
        eval_transform=partial(_transform, resolution, 0),
        train_transform=partial(_transform, resolution, shift) if shift else None,
        policy_transform=partial(_with_policy, resolution, shift),
        fractions=shares("digits", architecture, validation),
        train_size=train_size,
        split_seed=split_seed,
        in_memory=True,
    )


def _transform(native: int, shift: int, resolution: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    standardize = Standardize(MEAN, STD, resolution or native)
    return Shifted(shift, standardize) if shift else standardize


def _with_policy(
    native: int, shift: int, policy: Policy, resolution: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    return Policied(policy.transform(), _transform(native, shift, resolution))
