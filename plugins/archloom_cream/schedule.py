"""The units of a search, and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """What is trained between two yields: the steps start..stop of one epoch.

    before: the steps of all earlier spans. epochs: how many epochs are done after this one. last: whether
    the epoch ends here.
    """

    epoch: int
    start: int
    stop: int
    before: int
    epochs: float
    last: bool


def plan(epochs: int, steps: int, span_steps: int) -> list[Span]:
    """All spans in order: each epoch of `steps` steps, in spans of at most `span_steps`."""
    spans = []
    for epoch in range(epochs):
        for start in range(0, steps, span_steps):
            stop = min(start + span_steps, steps)
            done = epoch + stop / steps
            spans.append(Span(epoch, start, stop, epoch * steps + start, done, stop == steps))
    return spans


def linear(lr: float, step: int, steps: int) -> float:
    """From `lr` down to 0 in a straight line, at step 0..steps; never below 0."""
    return lr * max(0.0, 1 - step / steps)


def reference_linear(lr: float, step: int, steps: int) -> float:
    """lr * (lr - progress), as the reference code has it: the same at lr = 1; below that it starts too low
    and becomes negative at progress = lr."""
    return lr * (lr - step / steps)
