"""How the paper's authors train a found network from scratch."""

from dataclasses import dataclass
from typing import Literal

from archloom import Recipe


@dataclass(frozen=True, kw_only=True)
class CreamRecipe(Recipe):
    """Cream's retraining on ImageNet, for eight GPUs of 128 images: 500 epochs of RMSprop, averaged weights.

    schedule: "cosine" for networks from 114 MFLOPs on; the authors' smaller ones take "step", 2.7 % less every 2.4
    epochs. With another batch size lr is to change in proportion. Their RandAugment has magnitude 9 of 10, which is
    27 of 30 here, and varies it from image to image, which is left out, as are ten last epochs at min_lr. Dropout
    (0.2) is the head's.
    """

    epochs: int = 500
    batch_size: int = 1024
    optimizer: Literal["sgd", "adamw", "rmsprop", "rmsprop_tf"] = "rmsprop_tf"
    lr: float = 0.064
    momentum: float = 0.9
    alpha: float = 0.9
    eps: float | None = 1e-3
    weight_decay: float = 1e-5
    decay_all: bool = False
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    min_lr: float = 1e-5
    warmup_epochs: float = 3.0
    warmup_lr: float | None = 1e-6
    step_epochs: float = 2.4
    step_factor: float = 0.973
    ema: float | None = 0.9999
    randaugment: tuple[int, int] | None = (2, 27)
    erasing: float = 0.2
    label_smoothing: float = 0.1
