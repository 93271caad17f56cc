"""Focal losses, for classes of very different sizes: what the network knows already counts less."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archloom import ConfigError
from archloom.losses import weighted_loss

from .losses import Reduction, Weighted, one_hot


@weighted_loss
def focal(pred: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """Logits (N, C); labels (N,) or probabilities (N, C) -> (N, C): alpha_t (1 - p_t)^gamma times the binary cross
    entropy of each class (Lin et al., arXiv 1708.02002, eq. 5). alpha: of what is there, 1 - alpha of what is not."""
    on, p = one_hot(target, pred), pred.sigmoid()
    terms = F.binary_cross_entropy_with_logits(pred, on, reduction="none")
    terms = terms * _above_zero(p + on - 2 * p * on) ** gamma  # 1 - p_t
    return terms if alpha is None else terms * (alpha * on + (1 - alpha) * (1 - on))


@weighted_loss
def softmax_focal(pred: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Logits (N, C); labels (N,) or probabilities (N, C) -> (N,): (1 - p)^gamma times the cross entropy, p the
    probability of the label among all classes."""
    logs = F.log_softmax(pred, 1)
    return -(one_hot(target, pred) * _above_zero(-logs.expm1()) ** gamma * logs).sum(1)


def _above_zero(doubt: Tensor) -> Tensor:
    """Certain predictions have none, where the derivative of a power below 1 is infinite."""
    return doubt.clamp_min(torch.finfo(doubt.dtype).tiny)


class FocalLoss(Weighted):
    """The focal loss (Lin et al., arXiv 1708.02002) of each class's logit: what is easy counts less.

    gamma: how much less; 0 is the binary cross entropy. alpha: the share of what is there, 1 - alpha of what is not;
    null for neither. class_weight: a factor for each class. Labels (N,) are taken as one class on, the others off.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        class_weight: list[float] | None = None,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        _check_gamma("FocalLoss", gamma)
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(f"FocalLoss: alpha must lie in 0..1, or be null, not {alpha}")
        self.gamma, self.alpha = gamma, alpha
        self.keep_factors("class_weight", class_weight)

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        return focal(pred, target, gamma=self.gamma, alpha=self.alpha, **self.by_class(pred, how))


class SoftmaxFocalLoss(Weighted):
    """The focal loss of one label among all classes: (1 - p)^gamma times the cross entropy.

    gamma: how much less what is easy counts; 0 is the cross entropy. class_weight: a factor for each class; a mean is
    over the images.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        class_weight: list[float] | None = None,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        _check_gamma("SoftmaxFocalLoss", gamma)
        self.gamma = gamma
        self.keep_factors("class_weight", class_weight)

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        factors = self.factors("class_weight", pred)
        if factors is not None:
            of_labels = (one_hot(target, pred) * factors).sum(1)
            how["weight"] = of_labels if how["weight"] is None else of_labels * how["weight"]
        return softmax_focal(pred, target, gamma=self.gamma, **how)


def _check_gamma(who: str, gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise ConfigError(f"{who}: gamma must be at least 0, not {gamma}")
