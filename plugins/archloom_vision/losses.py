"""Losses: modules of (logits, labels) -> a number, with weights and reductions as `archloom.losses` has them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import ConfigError, build, load_weights
from archloom.losses import REDUCTIONS, distillation, reduction_of, weighted_loss
from archloom.meta import evaluating

Reduction = Literal["mean", "sum", "none"]


def one_hot(target: Tensor, like: Tensor) -> Tensor:
    """Labels (N,) as rows (N, classes) of zeros with a one; targets of `like`'s shape stay as they are."""
    if target.shape == like.shape:
        return target.to(like.dtype)
    if target.ndim != 1 or target.is_floating_point():
        raise ConfigError(
            f"targets of shape {tuple(target.shape)} fit predictions of shape {tuple(like.shape)} neither as labels "
            f"({len(like)},) nor as numbers of the same shape"
        )
    return (target[:, None] == torch.arange(like.shape[1], device=target.device)).to(like.dtype)


@weighted_loss
def cross_entropy(
    pred: Tensor, target: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
) -> Tensor:
    """Logits (N, C); labels (N,) or probabilities (N, C), which a teacher may give -> (N,), nats."""
    return F.cross_entropy(
        pred, target, reduction="none", label_smoothing=label_smoothing, weight=class_weight
    )


@weighted_loss
def binary_cross_entropy(pred: Tensor, target: Tensor, *, pos_weight: Tensor | None = None) -> Tensor:
    """Logits (N, C); labels (N,) or probabilities (N, C) -> (N, C), nats: each class a question of its own."""
    return F.binary_cross_entropy_with_logits(
        pred, one_hot(target, pred), reduction="none", pos_weight=pos_weight
    )


@weighted_loss
def l1(pred: Tensor, target: Tensor) -> Tensor:
    """|pred - target|, of their shape; labels (N,) stand for rows of zeros with a one."""
    return (pred - one_hot(target, pred)).abs()


class Weighted(nn.Module):
    """What the losses below share: a reduction and a factor of their own, and what one call may change."""

    def __init__(self, *, reduction: Reduction = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ConfigError(f"a loss has no reduction '{reduction}'; it has {', '.join(REDUCTIONS)}")
        self.reduction, self.loss_weight = reduction, loss_weight

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        raise NotImplementedError

    def keep_factors(self, name: str, factors: list[float] | None) -> None:
        """Factors of the classes, which go where the module goes and are no part of its saved state."""
        if factors is not None and not (factors and all(0 <= f < math.inf for f in factors)):
            raise ConfigError(f"{type(self).__name__}: {name} is of numbers from 0 on, not {factors}")
        value = None if factors is None else torch.tensor(factors, dtype=torch.float32)
        self.register_buffer(name, value, persistent=False)

    def factors(self, name: str, pred: Tensor) -> Tensor | None:
        """Those factors, one for each class of `pred` (N, classes)."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            return None
        if len(found) not in (1, pred.shape[1]) or (len(found) == 1 and name == "class_weight"):
            raise ConfigError(
                f"{type(self).__name__}: {name} has {len(found)} numbers, and there are {pred.shape[1]} classes"
            )
        return found.to(pred.device, pred.dtype)

    def by_class(self, pred: Tensor, how: dict[str, Any]) -> dict[str, Any]:
        """`how` with the factors of the classes among the weights of the terms (N, classes)."""
        factors, weight = self.factors("class_weight", pred), how["weight"]
        if factors is None:
            return how
        return how | {"weight": factors if weight is None else weight * factors}

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """weight: of the terms. avg_factor: divides the sum of a mean. reduction_override: for this call."""
        how = {"weight": weight, "avg_factor": avg_factor}
        reduction = reduction_of(self.reduction, reduction_override)
        return self.loss_weight * self.terms(pred, target, reduction=reduction, **how)


class CrossEntropyLoss(Weighted):
    """Cross entropy of logits against labels (N,) or against probabilities (N, classes).

    class_weight: a factor for each class; a mean is then over the labels' factors, as PyTorch's is.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: list[float] | None = None,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"CrossEntropyLoss: label_smoothing must lie in 0..1, not {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.keep_factors("class_weight", class_weight)

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        factors = self.factors("class_weight", pred)
        if how["weight"] is None and how["avg_factor"] is None:  # PyTorch's own, in one kernel
            return F.cross_entropy(
                pred,
                target,
                reduction=how["reduction"],
                label_smoothing=self.label_smoothing,
                weight=factors,
            )
        if (
            factors is not None
            and how["avg_factor"] is None
            and how["reduction"] == "mean"
            and target.ndim == 1
        ):
            how["avg_factor"] = factors[target].sum()
        return cross_entropy(pred, target, label_smoothing=self.label_smoothing, class_weight=factors, **how)


class BCEWithLogitsLoss(Weighted):
    """Binary cross entropy of each class's logit; labels (N,) are taken as one class on, the others off.

    class_weight: a factor for each class. pos_weight: a factor for each class where it is on, for all one number or
    for each its own: above 1 it finds more, below 1 it is more often right.
    """

    def __init__(
        self,
        *,
        class_weight: list[float] | None = None,
        pos_weight: float | list[float] | None = None,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        self.keep_factors("class_weight", class_weight)
        self.keep_factors("pos_weight", [pos_weight] if isinstance(pos_weight, int | float) else pos_weight)

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        return binary_cross_entropy(
            pred, target, pos_weight=self.factors("pos_weight", pred), **self.by_class(pred, how)
        )


class L1Loss(Weighted):
    """|prediction - target|; labels (N,) stand for rows of zeros with a one."""

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        return l1(pred, target, **how)


@weighted_loss
def squared(pred: Tensor, target: Tensor) -> Tensor:
    """(pred - target)^2, of their shape; labels (N,) stand for rows of zeros with a one."""
    return (pred - one_hot(target, pred)) ** 2


class MSELoss(Weighted):
    """(prediction - target)^2; labels (N,) stand for rows of zeros with a one."""

    def terms(self, pred: Tensor, target: Tensor, **how: Any) -> Tensor:
        return squared(pred, target, **how)


class DistillationLoss(nn.Module):
    """(1 - alpha) CE(labels) + alpha T^2 KL(teacher || pupil): knowledge distillation (arXiv 1503.02531).

    teacher: a network, in Python; in a configuration `distillation_loss` finds it by name. It is no part of this
    module: not trained, saved or counted. It sees the images of each training step before the loss is asked, or a
    call hands over its logits.
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        label_smoothing: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if temperature <= 0 or not 0 <= alpha <= 1:
            raise ConfigError(
                "DistillationLoss: temperature must be positive and alpha in 0..1, "
                f"not {temperature} and {alpha}"
            )
        self.temperature, self.alpha, self.loss_weight = temperature, alpha, loss_weight
        self.label_smoothing = label_smoothing
        self._teacher = (teacher,)  # inside a tuple, where no state dict and no optimizer finds it
        self._seen: Tensor | None = None

    def see(self, images: Tensor) -> None:
        """Let the teacher judge the images (N, C, H, W) whose logits come next."""
        (teacher,) = self._teacher
        if teacher is None:
            return
        try:
            with evaluating(teacher.to(images.device)), torch.no_grad():
                self._seen = teacher(images)
        except RuntimeError as error:
            raise ConfigError(
                f"the teacher of DistillationLoss cannot take images of shape {tuple(images.shape)}: {error}"
            ) from error

    def forward(self, pred: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        """pred: (N, C), target: (N,), teacher: its logits (N, C), by default of the images that it saw."""
        logits = self._seen if teacher is None else teacher
        self._seen = None
        if logits is None:
            raise ConfigError(
                "DistillationLoss has seen no teacher's logits; give it a teacher, or its logits"
            )
        if logits.shape != pred.shape:
            raise ConfigError(
                f"the teacher of DistillationLoss gives {tuple(logits.shape)}, the network {tuple(pred.shape)}; "
                "both must know the same classes"
            )
        hard = F.cross_entropy(pred, target, label_smoothing=self.label_smoothing)
        soft = distillation(pred, logits, temperature=self.temperature)
        return self.loss_weight * ((1 - self.alpha) * hard + self.alpha * soft)

    def __deepcopy__(self, memo: dict[int, Any]) -> DistillationLoss:
        """A copy with the same teacher, which nobody changes."""
        (teacher,) = self._teacher
        made = DistillationLoss(
            teacher,
            temperature=self.temperature,
            alpha=self.alpha,
            label_smoothing=self.label_smoothing,
            loss_weight=self.loss_weight,
        )
        memo[id(self)] = made
        return made.train(self.training)


def distillation_loss(
    *,
    teacher: str,
    weights: str | None = None,
    classes: int | None = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    label_smoothing: float = 0.0,
    loss_weight: float = 1.0,
) -> nn.Module:
    """Knowledge distillation from `teacher`: a run folder, an architecture file or a network's name, with `weights`.

    weights: a file; a run folder has its own, which is then the default. classes: that the teacher knows, by
    default what its file says, or 1000 for a name.
    """
    file = Path(weights) if weights else Path(teacher) / "weights.safetensors"
    if weights is None and not file.is_file():
        raise ConfigError(
            f"loss 'DistillationLoss': the teacher '{teacher}' has no weights.safetensors; name its weights"
        )
    network = build(teacher, classes)
    load_weights(network, file)
    return DistillationLoss(
        network.requires_grad_(False),
        temperature=temperature,
        alpha=alpha,
        label_smoothing=label_smoothing,
        loss_weight=loss_weight,
    )
