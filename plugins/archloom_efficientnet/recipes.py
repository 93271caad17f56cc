"""How EfficientNets are trained on ImageNet: the paper's way, and a plain one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archloom import Recipe

Optimizer = Literal["sgd", "adamw", "rmsprop", "rmsprop_tf"]
Schedule = Literal["cosine", "step", "exponential", "constant"]
Policy = Literal["imagenet", "cifar10", "svhn"]


@dataclass(frozen=True, kw_only=True)
class EfficientNetPaper(Recipe):
    """The paper's training on ImageNet: RMSprop as TensorFlow has it, an exponential decay, averaging.

    The rate is 0.256 for batches of 4096, here 0.016 for 256: change both alike. Stochastic depth is the
    network's: survival 0.8 at the end is the space's `drop_connect_rate` of 0.2, which is its default.
    Source: Tan and Le (arXiv 1905.11946), section 5.2; epochs, warm-up, average, smoothing and RMSprop's eps
    are those of its TensorFlow release.
    """

    epochs: int = 350
    batch_size: int = 256
    optimizer: Optimizer = "rmsprop_tf"
    lr: float = 0.016
    alpha: float = 0.9
    momentum: float = 0.9
    eps: float | None = 1e-3
    weight_decay: float = 1e-5
    decay_all: bool = False
    schedule: Schedule = "exponential"
    step_epochs: float = 2.4
    step_factor: float = 0.97
    warmup_epochs: float = 5.0
    warmup_lr: float | None = 0.0
    ema: float | None = 0.9999
    label_smoothing: float = 0.1
    autoaugment: Policy | None = "imagenet"


@dataclass(frozen=True, kw_only=True)
class EfficientNetPlain(Recipe):
    """SGD over 90 epochs, the rate divided by 10 every 30: efficientnet_pytorch's ImageNet example.

    It is PyTorch's own example with other networks, and does not reach the paper's accuracies.
    """

    epochs: int = 90
    batch_size: int = 256
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "step"
    step_epochs: float = 30.0
    step_factor: float = 0.1
