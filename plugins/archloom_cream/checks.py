"""What the method's options cannot be, found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from archloom import ConfigError, Model
from archloom.training import check_single_images, way_out_of_single_images

from .paths import PathCosts


def check_options(
    epochs: int,
    start_epoch: int,
    lr: float,
    momentum: float,
    macs: list[float] | None,
    numbers: dict[str, int],
) -> None:
    """Refuse numbers that contradict one another; numbers: those that must be at least 1."""
    if not 0 <= start_epoch < epochs:
        raise ConfigError(
            f"start_epoch must lie in 0..{epochs - 1}, before the last of {epochs} epochs, not {start_epoch}: "
            "a board that never opens has nothing to propose"
        )
    if lr <= 0 or not 0 <= momentum < 1:
        raise ConfigError(f"lr must be positive and momentum in 0..1, not {lr} and {momentum}")
    if macs is not None and len(macs) != 2:
        raise ConfigError(f"macs is a range [low, high], not {macs}")
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")


def check_batches(
    supernet: Model, costs: PathCosts, batch_size: int, images: Mapping[str, int], slices: int, world: int
) -> None:
    """Refuse, for each path's image shape, single images on a process where BatchNorm gets a map of one pixel.

    images: of each split that paths are trained or compared on.
    """
    ways = [
        way_out_of_single_images(batch_size, "batch_size", (split,), world)
        for split, count in images.items()
        if min(batch_size, count) // world == 1
    ]
    if slices == 1:
        ways.append("slices = 1 must be at least 2")
    for way_out in ways:
        for a in costs.settings():
            check_single_images(supernet, costs.shape(a), way_out, a)
