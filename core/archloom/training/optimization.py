"""What moves the weights: optimizers by a recipe, and the average of what they went through."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .recipe import ADAMW_EPS, RMSPROP_EPS, Recipe


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_all: bool = True
) -> list[dict[str, Any]]:
    """The trainable parameters; without `decay_all`, one-dimensional ones apart and without decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_all:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's trainable parameters."""
    groups = parameter_groups(model, recipe.weight_decay, decay_all=recipe.decay_all)
    lr, momentum, alpha = recipe.lr, recipe.momentum, recipe.alpha
    rmsprop_eps = RMSPROP_EPS if recipe.eps is None else recipe.eps
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=recipe.nesterov)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, eps=ADAMW_EPS if recipe.eps is None else recipe.eps)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, momentum=momentum, eps=rmsprop_eps)
        case "rmsprop_tf":
            return RMSpropTF(groups, lr=lr, alpha=alpha, momentum=momentum, eps=rmsprop_eps)


class RMSpropTF(torch.optim.Optimizer):
    """RMSprop in TensorFlow's form, with which the EfficientNets and their kin were trained:

        g <- g + weight_decay w
        s <- alpha s + (1 - alpha) g^2,  s_0 = 1
        m <- momentum m + lr g / sqrt(s + eps),  m_0 = 0
        w <- w - m

    PyTorch's own starts s at 0, adds eps to the root, and multiplies m by the rate of the step that uses it, so
    that both move differently for the same numbers. Source: TensorFlow's ApplyRMSProp.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.9,
        momentum: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._move(weights, group)
        return loss

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p] = {"square": torch.ones_like(p), "momentum": torch.zeros_like(p)}
        gradients: Any = [p.grad for p in weights]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        squares = [self.state[p]["square"] for p in weights]
        moments = [self.state[p]["momentum"] for p in weights]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
        roots = torch._foreach_sqrt(torch._foreach_add(squares, group["eps"]))
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_addcdiv_(moments, gradients, roots, value=group["lr"])
        torch._foreach_sub_(weights, moments)


class Averaged:
    """An exponential average of a network's weights, `module`: a copy of the network that holds it.

    Numbers of BatchNorm are averaged like weights, because they are statistics of what the averaged weights
    give, as of nothing that the latest weights give; counters are copied. The first update copies all.
    PyTorch's AveragedModel would do the same, at the price of a loop over all tensors in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.updates, self._average = 0, get_ema_multi_avg_fn(decay)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self._means = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now."""
        means, copies = self._means, self._copies
        if not self.updates:
            means, copies = [], means + copies
        if means:
            averages, latest = map(list, zip(*means, strict=True))
            self._average(averages, latest, self.updates)
        if copies:
            averages, latest = map(list, zip(*copies, strict=True))
            torch._foreach_copy_(averages, latest)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averages and how often they were updated."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
