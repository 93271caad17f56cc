"""Vision tasks, as a plugin: digits, CIFAR, folders of images, and noise for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import archloom

from . import cifar, digits, fake, folder


@archloom.hookimpl
def register_tasks(register: Callable[[str, Callable[..., Any]], None]) -> None:
    register("digits", digits.digits)
    register("cifar10", cifar.cifar10)
    register("cifar100", cifar.cifar100)
    register("imagefolder", folder.imagefolder)
    register("fake", fake.fake)
