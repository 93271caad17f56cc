"""Training recipes by name. Each is a Recipe with other defaults, so that all of its fields are options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import archloom
from archloom import Recipe, Register

Schedule = Literal["cosine", "step", "exponential", "constant"]


@dataclass(frozen=True, kw_only=True)
class ImagenetSGD(Recipe):
    """ResNet's training on ImageNet: SGD in batches of 256 over 90 epochs, the rate divided by 10 every 30.

    Source: He et al., CVPR 2016, section 3.4, with 90 epochs as torchvision and fb.resnet.torch have it.
    """

    epochs: int = 90
    batch_size: int = 256
    weight_decay: float = 1e-4
    schedule: Schedule = "step"


@dataclass(frozen=True, kw_only=True)
class ImagenetStrong(Recipe):
    """A long training with all that helps a ResNet: warm-up, TrivialAugment, erasing, mixing, smoothing, averaging.

    Source: torchvision's recipe for its second ResNet-50 weights, for batches of 1024 in all, without its
    repeated augmentation and its smaller training images. Its average, which moves once in 32 steps, has the
    decay here that gives the same for each step.
    """

    epochs: int = 600
    batch_size: int = 1024
    lr: float = 0.5
    weight_decay: float = 2e-5
    decay_all: bool = False
    warmup_epochs: float = 5.0
    warmup_lr: float | None = 0.005
    label_smoothing: float = 0.1
    mixup: float = 0.2
    cutmix: float = 1.0
    trivialaugment: bool = True
    erasing: float = 0.1
    ema: float | None = 0.99997


@dataclass(frozen=True, kw_only=True)
class CifarSGD(Recipe):
    """200 epochs of SGD with Nesterov momentum and a cosine, weight decay 5e-4: the habit for CIFAR.

    Source: DeVries and Taylor, arXiv 1708.04552, section 4, with a cosine for its steps.
    """

    epochs: int = 200
    nesterov: bool = True
    weight_decay: float = 5e-4


@archloom.hookimpl
def register_recipes(register: Register) -> None:
    register("default", Recipe, default=True)
    register("imagenet_sgd", ImagenetSGD)
    register("imagenet_strong", ImagenetStrong)
    register("cifar_sgd", CifarSGD)
