"""What is done to training images and their labels beyond a task's own transforms: torchvision's, placed and
seeded. torchvision is imported when one of them is asked for, not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from .errors import ConfigError

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (N, C, H, W), labels (N,)) -> (images, probabilities (N, classes))."""


@dataclass(frozen=True)
class Policy:
    """An augmentation policy for uint8 images, what `Task.dataset(augment=...)` is asked for beyond True.

    autoaugment: the learnt policy of that name (arXiv 1805.09501). randaugment: how many operations, of which
    magnitude of 31 (arXiv 1909.13719). trivialaugment: one operation of any magnitude (arXiv 2103.10158).
    A Policy is true where it does something.
    """

    autoaugment: Literal["imagenet", "cifar10", "svhn"] | None = None
    randaugment: tuple[int, int] | None = None
    trivialaugment: bool = False

    def __bool__(self) -> bool:
        return bool(self.autoaugment or self.randaugment or self.trivialaugment)

    def transform(self) -> Callable[[Any], Any]:
        """A transform of uint8 images, PIL or (C, H, W) with C 1 or 3, that keeps their size and type."""
        v2 = transforms("an augmentation policy")
        bilinear = v2.InterpolationMode.BILINEAR
        if self.autoaugment:
            return v2.AutoAugment(v2.AutoAugmentPolicy(self.autoaugment), interpolation=bilinear)
        if self.randaugment:
            operations, magnitude = self.randaugment
            return v2.RandAugment(operations, magnitude, interpolation=bilinear)
        if self.trivialaugment:
            return v2.TrivialAugmentWide(interpolation=bilinear)
        return v2.Identity()


class Erased(Dataset[tuple[Tensor, int]]):
    """A data set of normalized images in which each loses a random rectangle with a probability: it becomes
    zeros (Zhong et al., arXiv 1708.04896). `workers` and `collate`: as the data set has them."""

    def __init__(self, dataset: Dataset[Any], probability: float) -> None:
        self.dataset, self.workers = dataset, getattr(dataset, "workers", 0)
        if hasattr(dataset, "collate"):
            self.collate = dataset.collate
        self.erase = transforms("erasing").RandomErasing(probability)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image, label = self.dataset[position]
        return self.erase(image), label


def mixing(mixup: float, cutmix: float, classes: int) -> Mixing | None:
    """MixUp (arXiv 1710.09412), CutMix (arXiv 1905.04899), or one of them at random for each batch; None
    where both alphas are 0. Each image is mixed with its neighbour in the batch, by one weight for all."""
    if not (mixup or cutmix):
        return None
    v2 = transforms("mixup" if mixup else "cutmix")
    both = [
        make(alpha=alpha, num_classes=classes)
        for make, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    mix: Mixing = v2.RandomChoice(both) if len(both) > 1 else both[0]
    return mix


def transforms(who: str) -> Any:
    """torchvision.transforms.v2; a ConfigError that names who needs it where it cannot be imported."""
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except ImportError as error:
        raise ConfigError(
            f"{who} needs torchvision, which cannot be imported ({error}): pip install torchvision"
        ) from error
