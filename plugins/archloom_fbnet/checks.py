"""What the method cannot train on, found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archloom import Model
from archloom.shared import an_architecture
from archloom.training import check_single_images, way_out_of_single_images


def check_batches(
    model: Model,
    space: Any,
    shape: tuple[int, ...],
    batch_size: int,
    images: Mapping[str, int],
    world: int,
) -> None:
    """Refuse single images on a process where a map of one pixel leaves BatchNorm no variance.

    model: what is trained, the space's shared network in it, on images of `shape` (C, H, W). images: of each split.
    """
    for split, count in images.items():
        if min(batch_size, count) // world == 1:
            way_out = way_out_of_single_images(batch_size, "batch_size", (split,), world)
            check_single_images(model, shape, way_out, an_architecture(space))
