"""The learning rate of a search."""

from __future__ import annotations


def linear(lr: float, step: int, steps: int) -> float:
    """From `lr` down to 0 in a straight line, at step 0..steps; never below 0."""
    return lr * max(0.0, 1 - step / steps)


def reference_linear(lr: float, step: int, steps: int) -> float:
    """lr * (lr - progress), as the reference code has it: the same at lr = 1; below that it starts too low
    and becomes negative at progress = lr."""
    return lr * (lr - step / steps)
