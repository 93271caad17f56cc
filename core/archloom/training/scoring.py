"""What a network reaches on images with labels: while it is trained, on a split, and with statistics of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..model import evaluating, places
from ..surroundings import plainly
from .precision import precision_context


class Tally:
    """Loss and hits of the images that a training goes through. They stay on the device: nothing waits for them."""

    def __init__(self, ks: Sequence[int], device: torch.device) -> None:
        self._ks, self._images = ks, 0
        self.loss = torch.zeros((), device=device)  # summed over the images
        self._hits = [torch.zeros((), device=device) for _ in (1, *ks)]

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: its mean loss, logits (N, classes), labels (N,)."""
        self.loss += loss * len(labels)
        self._hits[0].add_((logits.argmax(1) == labels).sum())
        if self._ks:
            place = places(logits, labels)
            for hit, k in zip(self._hits[1:], self._ks, strict=True):
                hit.add_((place < k).sum())
        self._images += len(labels)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Mean `loss`, `accuracy` and top-k (%), and what `seconds` make of them."""
        names = ("accuracy", *(f"top{k}" for k in self._ks))
        shares = {name: 100 * float(hit) / self._images for name, hit in zip(names, self._hits, strict=True)}
        return {
            "loss": float(self.loss) / self._images,
            **shares,
            "seconds": seconds,
            "images_per_second": self._images / seconds,
        }


def topk_of(model: nn.Module, classes: int) -> tuple[int, ...]:
    """For which k it is told how many labels are among the k largest logits: 1, 5 where there are six classes
    or more, and those that the model's head names in `topk`."""
    asked = getattr(getattr(model, "head", None), "topk", ())
    return tuple(sorted({1, *((5,) if classes > 5 else ()), *(k for k in asked if k <= classes)}))


GAP = 30.0
"""Points by which training accuracy may exceed the held-out one before it is said."""


def by_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy (%) on so many images is no better than guessing, to two standard errors."""
    chance = 1 / classes
    return accuracy <= 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / images))


def doubt(trained: float, judged: float, classes: int, images: int) -> str | None:
    """What is odd about a training's result, as a sentence; None where nothing is.

    trained: accuracy (%) on the training images. judged: on `images` held-out ones.
    """
    gap = f"it reads {trained:.1f} % of its training images and {judged:.1f} % of {images} held-out ones"
    why = "; there may be too few training images, or BatchNorm's statistics may not fit (recipe.recalibrate)"
    if not by_chance(judged, classes, images):
        return gap + why if trained - judged > GAP else None
    chance = f", and guessing among {classes} classes reads as many"
    if trained - judged > GAP:
        return gap + chance + why
    return f"{gap}{chance}; train for more epochs, on more images, or with another lr"


@plainly
def evaluate(
    model: nn.Module,
    stream: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    precision: str = "float32",
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """`accuracy` (top-1, %), `top5` and more (%, see `topk_of`) and `loss` (cross entropy, nats)."""
    device = next(model.parameters()).device
    names = {"accuracy" if k == 1 else f"top{k}": k for k in topk_of(model, num_classes)}
    hits = {name: torch.zeros((), dtype=torch.long, device=device) for name in names}
    total, images = 0.0, 0
    with evaluating(model), torch.inference_mode():
        for x, y in stream:
            with precision_context(device, precision):
                logits = (forward or model)(x).float()
            total += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            images += len(y)
            place = places(logits, y)
            for name, k in names.items():
                hits[name] += (place < k).sum()
    result = {name: 100 * float(hit / images) for name, hit in hits.items()}
    return result | {"loss": total / images}
