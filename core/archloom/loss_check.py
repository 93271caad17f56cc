"""Whether a loss fits what a task's outputs and targets are: tried before anything is trained."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ArchloomError, ConfigError
from .meta import shapes, where
from .metrics import Classification, Scoring, Unscored


def check_loss(loss: nn.Module, shape: tuple[int, ...], scoring: Scoring) -> None:
    """Try the loss on two inputs' outputs and targets, unless nothing has numbers here (on the meta device).

    A ConfigError where it cannot take them, or gives more than one number, or reads numbers as classes.
    """
    device = where(loss)
    if device.type == "meta" or isinstance(scoring, Unscored):
        return
    targets = scoring.example_targets(2).to(device)
    outputs = torch.zeros(2, *scoring.outputs, device=device)
    classes = isinstance(scoring, Classification)
    kind, targets_are = ("logits", "labels") if classes else ("outputs", f"{_numbers(targets)} targets")
    told = (
        f"the loss {type(loss).__name__} cannot take {kind} {tuple(outputs.shape)} and {targets_are} "
        f"{tuple(targets.shape)}"
    )
    way_out = "" if classes else f"; name a loss that fits {scoring.metrics[0].name}, such as loss: MSELoss"
    tried = copy.deepcopy(loss)  # it may count its calls
    try:
        with torch.no_grad(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            see: Any = getattr(tried, "see", None)
            if see is not None:
                see(torch.zeros(2, *shape, device=device))
            value = tried(outputs, targets)
            shifted = value if classes else tried(outputs + _each_another(outputs), targets)
    except ArchloomError:
        raise
    except Exception as error:
        raise ConfigError(f"{told}: {type(error).__name__}: {error}{way_out}") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise ConfigError(
            f"the loss {type(loss).__name__} gives a tensor of shape {shapes(value)} and not one number; "
            "take the reduction 'mean' or 'sum'"
        )
    if classes:
        return
    if broadcast := next((str(w.message) for w in said if "target size" in str(w.message)), None):
        raise ConfigError(
            f"{told}: {broadcast.splitlines()[0]} The task should give targets of its outputs' shape"
        )
    if torch.equal(value, shifted) and targets.is_floating_point() and not _are_shares(targets):
        raise ConfigError(
            f"the loss {type(loss).__name__} compares the outputs of an input with one another, as logits of classes "
            f"are, and the targets of the task are numbers{way_out}"
        )


def _numbers(targets: Tensor) -> str:
    return str(targets.dtype).removeprefix("torch.")


def _each_another(outputs: Tensor) -> Tensor:
    """A number for each item, another one for each, to be added to all of its outputs."""
    return torch.arange(1.0, len(outputs) + 1, device=outputs.device).reshape(-1, *[1] * (outputs.ndim - 1))


def _are_shares(targets: Tensor) -> bool:
    """Whether targets (N, C, ...) are probabilities of classes."""
    sums = targets.sum(1) if targets.ndim > 1 and targets.shape[1] > 1 else torch.zeros(())
    return bool((targets >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums)))
