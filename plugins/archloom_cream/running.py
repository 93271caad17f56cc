"""Running single paths of the supernet, also with other weights and without a trace in its statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from archloom import Architecture, Model, RunContext
from archloom.training import precision_context

from .paths import PathCosts


class Runner:
    """f(x; a, w): one path `a` of the supernet, with its own weights or with `w` in their place."""

    def __init__(self, supernet: Model, costs: PathCosts, context: RunContext) -> None:
        self.supernet, self.costs, self.context = supernet, costs, context
        self._norms = [module for module in supernet.modules() if isinstance(module, _BatchNorm)]

    def sized(self, x: Tensor, a: Architecture) -> Tensor:
        """Images (N, C, H, W) at the size that a path takes."""
        _, height, width = self.costs.shape(a)
        if tuple(x.shape[2:]) == (height, width):
            return x
        return F.interpolate(x, (height, width), mode="bilinear", antialias=True)

    def logits(self, a: Architecture, x: Tensor, w: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, classes), in training mode; BatchNorm's running statistics stay as they are."""
        with self._kept_statistics():
            if w is None:
                logits: Tensor = self.supernet(self.sized(x, a), a)
            else:
                logits = functional_call(self.supernet, dict(w), (self.sized(x, a), a))
        return logits

    def probabilities(self, a: Architecture, x: Tensor, w: Mapping[str, Tensor] | None = None) -> Tensor:
        """softmax of `logits`, in float32; with the supernet's own weights, in the run's precision."""
        if w is not None:
            return torch.softmax(self.logits(a, x, w), 1)
        with precision_context(self.context.device, self.context.precision):
            logits = self.logits(a, x)
        return torch.softmax(logits.float(), 1)

    @torch.no_grad()
    def told(self, b: Architecture, x: Tensor) -> Tensor:
        """What a teacher says of images: its `probabilities`, as constants."""
        return self.probabilities(b, x)

    def weights_of(self, a: Architecture) -> dict[str, Tensor]:
        """The parameters that a path uses, stem first, under their names in the supernet's model."""
        backbone: Any = self.supernet.backbone
        used = {f"backbone.{name}" for name, _ in backbone.path_parameters(a)}
        return {
            name: parameter
            for name, parameter in self.supernet.named_parameters()
            if name in used or not name.startswith("backbone.")
        }

    @contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        momenta = [norm.momentum for norm in self._norms]
        # past nn.Module's own __setattr__, which takes longer than some of these layers do
        for norm in self._norms:
            norm.__dict__["momentum"] = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.__dict__["momentum"] = momentum
