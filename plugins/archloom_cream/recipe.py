"""How the paper trains a found network from scratch."""

from __future__ import annotations

from typing import Literal

from archloom.training import Recipe


def cream_recipe(
    *,
    epochs: int = 500,
    batch_size: int = 1024,
    lr: float = 0.064,
    schedule: Literal["cosine", "step"] = "cosine",
) -> Recipe:
    """Cream's retraining on ImageNet: RMSprop for 500 epochs; cosine, or 3 % less every 2.4 epochs ("step").

    The authors take "step" for their smallest networks and "cosine" for those from 114 MFLOPs on. With another
    batch size lr is to change in proportion. Dropout is the head's.
    """
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="rmsprop",
        lr=lr,
        momentum=0.9,
        weight_decay=1e-5,
        decay_all=False,
        schedule=schedule,
        warmup_epochs=min(3.0, epochs),
        step_epochs=2.4,
        step_factor=0.973,
    )
