"""Vision tasks, as a plugin: digits, CIFAR, folders of images, and noise for benchmarks."""

from __future__ import annotations

import archloom
from archloom import Register

from . import cifar, digits, fake, folder


@archloom.hookimpl
def register_tasks(register: Register) -> None:
    register("digits", digits.digits, default=True)
    register("cifar10", cifar.cifar10)
    register("cifar100", cifar.cifar100)
    register("imagefolder", folder.imagefolder)
    register("fake", fake.fake)
