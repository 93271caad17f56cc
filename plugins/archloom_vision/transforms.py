"""Raw images to normalized float tensors. All are objects rather than closures: a loading process may
have to receive them by pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from archloom import Policy

from .common import torchvision_module

Triple = tuple[float, float, float]
Normalize = Literal["standard", "advprop"]
"""`standard`: by the data's own mean and spread. `advprop`: 2 x - 1, into [-1, 1], as the EfficientNets that
were trained with adversarial examples (arXiv 1911.09665) want it."""


def statistics(normalize: Normalize, mean: Triple, std: Triple) -> tuple[Triple, Triple]:
    """(mean, spread) to normalize with; `mean` and `std` are the data's own."""
    half = (0.5, 0.5, 0.5)
    return (half, half) if normalize == "advprop" else (mean, std)


@dataclass(frozen=True)
class Standardize:
    """(C, H, W) of floats -> (image - mean) / std, resized to `resolution` squared (None: as it is)."""

    mean: float = 0.0
    std: float = 1.0
    resolution: int | None = None

    def __call__(self, image: Tensor) -> Tensor:
        size = None if self.resolution is None else (self.resolution, self.resolution)
        if size is not None and size != tuple(image.shape[1:]):
            # antialias matters when shrinking only, and keeps small structures from vanishing there
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return (image - self.mean) / self.std


@dataclass(frozen=True)
class Policied:
    """A policy on an image of floats 0 to 1, which is made uint8 for it and floats again; then `after`."""

    policy: Callable[[Any], Any]
    after: Callable[[Tensor], Tensor]

    def __call__(self, image: Tensor) -> Tensor:
        return self.after(self.policy((image * 255).round().to(torch.uint8)).float() / 255)


@dataclass(frozen=True)
class Shifted:
    """A shift by up to `pixels` in both directions, the background 0 moving in; then `after`."""

    pixels: int
    after: Standardize

    def __call__(self, image: Tensor) -> Tensor:
        _, height, width = image.shape
        top, left = torch.randint(2 * self.pixels + 1, (2,)).tolist()
        padded = F.pad(image, (self.pixels,) * 4)
        return self.after(padded[:, top : top + height, left : left + width])


def cropped_and_flipped(
    task: str, size: int, mean: Triple, std: Triple, resolution: int | None, *, augment: bool | Policy
) -> Any:
    """uint8 (3, size, size) -> float (3, r, r). Augmented: 4 pixels of zeros around, a random crop of the
    old size, a random flip; the augmentation of He et al. (CVPR 2016), section 4.2; then the policy."""
    v2 = torchvision_module("transforms.v2", task)
    steps: list[Any] = [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()] if augment else []
    steps += policy_of(augment)
    if resolution is not None and resolution != size:
        steps.append(v2.Resize((resolution, resolution), antialias=True))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def described(mean: Sequence[float], std: Sequence[float], **more: Any) -> dict[str, Any]:
    """How an image becomes an input, in timm's terms: values 0 to 1, then (value - mean) / std."""
    return {
        "mean": list(mean),
        "std": list(std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        **more,
    }


def policy_of(augment: bool | Policy) -> list[Callable[[Any], Any]]:
    """The transform of a policy, for uint8 images, where there is one."""
    return [augment.transform()] if isinstance(augment, Policy) else []


EVAL_CROP = 0.875
"""What of the shorter side the centre crop keeps: 224 of 256, the habit of ImageNet."""


def resized_side(resolution: int) -> int:
    """The shorter side of an image of which the centre crop keeps `resolution` pixels.

    Rounded down, as timm and others do who are given `EVAL_CROP` alone, so that they see the same pixels.
    """
    return math.floor(resolution / EVAL_CROP)


def photograph(task: str, mean: Triple, std: Triple, resolution: int, *, augment: bool | Policy) -> Any:
    """A PIL image of any size -> float (3, r, r). Augmented: a random crop of 8 to 100% of the area,
    resized, and a random flip (Szegedy et al., CVPR 2015, section 6), then the policy; else the centre."""
    v2 = torchvision_module("transforms.v2", task)
    if augment:
        crop = v2.RandomResizedCrop(resolution, antialias=True)
        steps = [crop, v2.RandomHorizontalFlip(), *policy_of(augment)]
    else:
        steps = [v2.Resize(resized_side(resolution), antialias=True), v2.CenterCrop(resolution)]
    return v2.Compose(
        [*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    )
