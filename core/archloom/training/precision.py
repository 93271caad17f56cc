"""The numbers that a training computes with: of which type they are, and whether they still are numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import SearchError

Precision = Literal["float32", "bfloat16", "float16"]


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to `precision` on `device`; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def check_finite(loss: Tensor, where: str) -> Tensor:
    """The loss itself; a SearchError where it is no number any more."""
    if not bool(torch.isfinite(loss)):
        raise SearchError(
            f"the loss became {float(loss)} in {where}; lower the learning rate, or clip the gradient"
        )
    return loss
