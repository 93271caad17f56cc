"""SynFlow: the flow through the network's synapses, without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from archloom import STATIC, Architecture, Context, Metric

from .common import finite, fresh, gradients, scored_weights

_NORMS = frozenset(
    function
    for source in (F, torch)
    for name in ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
    if (function := getattr(source, name, None)) is not None
)


class _Unnormalized(TorchFunctionMode):
    """Norm layers give back their input, whoever calls them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NORMS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


def without_norms(model: nn.Module) -> nn.Module:
    """Every norm layer with running statistics made one that passes its input on in evaluation mode, as fused
    operations see it too. Returns the model."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) or hasattr(module, "running_var"):
                _neutralize(module)
    return model


def _neutralize(norm: Any) -> None:
    """Scale 1, shift 0, mean 0, and what it divides by 1."""
    for name, value in (
        ("weight", 1.0),
        ("bias", 0.0),
        ("running_mean", 0.0),
        ("running_var", 1.0 - norm.eps),
    ):
        if isinstance(tensor := getattr(norm, name, None), Tensor):
            tensor.fill_(value)


def synflow(model: nn.Module, shape: tuple[int, ...]) -> float:
    """sum over the weights of S(theta) = dR/dtheta * theta, R = 1^T f(1; |theta|) (Tanaka et al., eq. 1 and 2).

    shape: (C, H, W) of the image of ones. The model is changed: its weights become positive and of double
    precision, since R is a product over the layers and leaves single precision in deep networks, and its norm layers
    are left out, as by Abdelfattah et al.: a branch whose last norm has scale 0 at initialization would not be seen.
    """
    without_norms(model.double().eval())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    weights = scored_weights(model)
    ones = torch.ones(1, *shape, dtype=torch.float64, device=weights[0].device)
    with _Unnormalized():
        r = model(ones).sum()
    return sum(float((g * w).detach().sum()) for g, w in zip(gradients(r, weights), weights, strict=True))


class SynFlow:
    """The sum of all weights' synaptic saliencies; it sees no image, and is positive.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (NeurIPS 2020), eq. 1 and 2; of a whole network, and without norm layers: Abdelfattah et al. (ICLR 2021).
    """

    metrics = (Metric("synflow", "score", "max"),)
    expense, needs = STATIC, ("task",)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        score = synflow(fresh(architecture, context), context.shape(architecture))
        return finite("synflow", score, "the product over the layers leaves double precision")
