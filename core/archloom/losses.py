"""What the losses of all plugins share: weights of single terms, and how terms become one number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .errors import ConfigError

REDUCTIONS = ("none", "mean", "sum")


def reduce_loss(
    loss: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """The terms of a loss as one number: each times its `weight`, then `reduction`.

    loss: any shape. weight: of a shape that broadcasts to it. avg_factor: what a mean divides the sum by,
    instead of the number of terms; "none" takes no notice of it, and with "sum" it has no meaning.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(f"a loss has no reduction '{reduction}'; it has {', '.join(REDUCTIONS)}")
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        if avg_factor is not None:
            raise ConfigError(
                f"avg_factor = {float(avg_factor)} divides a mean, and the reduction is 'sum'; "
                "leave avg_factor out, or take the reduction 'mean'"
            )
        return loss.sum()
    return loss.mean() if avg_factor is None else loss.sum() / avg_factor


def reduction_of(own: str, override: str | None) -> str:
    """The reduction of one call: its `reduction_override` where there is one, else the loss's own."""
    if override not in (None, *REDUCTIONS):
        raise ConfigError(
            f"reduction_override is None or one of {', '.join(REDUCTIONS)}, not {override!r}; "
            "None keeps the reduction of the loss"
        )
    return own if override is None else override


def weighted_loss(terms: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn `terms(pred, target, **options)`, a loss without reduction, into one with it:

        loss(pred, target, weight=None, reduction="mean", avg_factor=None, **options)

    A decorator. What the further arguments mean, `reduce_loss` says.
    """

    @functools.wraps(terms)
    def loss(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: float | Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        return reduce_loss(terms(pred, target, **options), weight, reduction, avg_factor)

    return loss


@weighted_loss
def distillation(pred: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(pred / T)): logits (N, C) of pupil and teacher -> (N,), nats.

    T^2 keeps the gradients' size as T grows (Hinton et al., arXiv 1503.02531, section 2).
    """
    pupil, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (pred, target))
    return temperature**2 * F.kl_div(pupil, teacher, reduction="none", log_target=True).sum(1)
