"""When what is trained: the phases of a search, its temperature, its learning rate, what a step runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from archloom import ConfigError
from archloom.mixing import Draw, gumbel_softmax, straight_through, top_k

Phase = Literal["weights", "theta"]
Mode = Literal["soft", "single_path", "top_k"]


@dataclass(frozen=True)
class Temperature:
    """tau of an epoch: `initial * decay ** (epoch - start)`, constant before `start`, at least `floor`."""

    initial: float
    decay: float
    floor: float
    start: int = 0

    def __post_init__(self) -> None:
        if not (self.initial > 0 and 0 < self.decay <= 1 and 0 <= self.floor <= self.initial):
            raise ConfigError(
                "the temperature must be positive, its decay in (0, 1] and its floor between 0 and it; got "
                f"{self.initial}, {self.decay}, {self.floor}"
            )

    def __call__(self, epoch: int) -> float:
        return max(self.initial * self.decay ** max(0, epoch - self.start), self.floor)


def cosine(lr: float, epoch: int, epochs: int) -> float:
    """`lr` at epoch 0, falling to 0 at `epochs` along half a cosine."""
    return 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))


def draw_of(mode: Mode, k: int) -> Draw:
    """How a layer's candidates are weighted in each step."""
    match mode:
        case "soft":
            return gumbel_softmax
        case "single_path":
            return straight_through
        case "top_k":
            return top_k(k)
    raise ConfigError(f"mode must be soft, single_path or top_k, not {mode!r}")
