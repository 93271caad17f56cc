"""The handwritten digits that come with scikit-learn: 1,797 real images, nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.data import TensorDataset

from archloom import ImageTask, Policy, stratified_split

from .common import at_least, shares
from .transforms import Policied, Shifted, Standardize, described

SIDE = 8

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
        raw_image=raw_digit,
        preprocessing=described(
            (MEAN,), (STD,), interpolation="box", crop_mode="border", colors="bright on black"
        ),
    )


def raw_digit(image: Any) -> torch.Tensor:
    """A PIL image of one digit, of any size and colours -> (1, 8, 8) from 0 to 1, as the data set's own are.

    Those are bright strokes on black, cut out and scaled to fill the picture from top to bottom, then averaged over
    squares: the same is done here, except to an image that is 8 x 8 already. Where most of the border is bright
    (never in the data set), it is ink on paper, and is inverted. What is transparent counts as paper.
    """
    import numpy as np
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    grey = np.asarray(image.convert("L"), dtype=np.float32) / 255
    border = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    if border > 0.5:
        grey, border = 1 - grey, 1 - border
    if grey.shape != (SIDE, SIDE):
        grey = _fitted(np.clip(grey - border, 0, None))
        square = Image.fromarray(grey, "F").resize((SIDE, SIDE), Image.Resampling.BOX)
        grey = np.asarray(square)
    return torch.from_numpy(grey.copy())[None]


def _fitted(ink: Any) -> Any:
    """(H, W) -> (S, S): the box that holds the ink, in the middle of a square, its largest value 1."""
    import numpy as np

    inked = ink > 0.3 * ink.max()
    if not inked.any():
        return np.zeros((SIDE, SIDE), dtype=np.float32)
    (top, bottom), (left, right) = (np.flatnonzero(inked.any(axis))[[0, -1]] for axis in (1, 0))
    box = ink[top : bottom + 1, left : right + 1] / ink.max()
    height, width = box.shape
    side = max(height, width)
    square = np.zeros((side, side), dtype=np.float32)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = box
    return square


def _transform(native: int, shift: int, resolution: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    standardize = Standardize(MEAN, STD, resolution or native)
    return Shifted(shift, standardize) if shift else standardize


def _with_policy(
    native: int, shift: int, policy: Policy, resolution: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    return Policied(policy.transform(), _transform(native, shift, resolution))
