"""What every export has in common: a copy of the network that exporters can follow, and a check of what they wrote."""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchloomError, ConfigError, ExportError
from ..model import Model, evaluating

TOLERANCE = 1e-4
"""How far an exported network's logits may be from the network's own. Where these are all smaller than 1, in units of
the largest; where it is larger than 10, in units of a tenth of it."""

Shape = tuple[int, ...]


class Classifier(nn.Module):
    """Images (N, C, H, W) -> logits (N, classes): a model without its loss, which may hold a teacher."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = model.backbone, model.neck, model.head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(images)))


def prepared(model: Model, shape: Shape) -> nn.Module:
    """A copy of `model` for an exporter: on the CPU, in eval mode, without its loss.

    A module that has a method `prepare_export(shape)` is called with the shape (C, H, W) of the whole network's
    images, to replace by plain operations what an exporter cannot follow.
    """
    whole = Classifier(model)
    network = copy.deepcopy(whole).cpu().to(memory_format=torch.contiguous_format).float().eval()
    network.requires_grad_(False)
    for module in list(network.modules()):
        prepare: Any = getattr(module, "prepare_export", None)
        if prepare is not None:
            prepare(shape)
    return network


def logits_of(model: Model, images: Tensor) -> Tensor:
    """What the model itself says of `images`, in eval mode: (N, C, H, W) -> (N, classes)."""
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        return torch.cat([model(part.to(device)).float().cpu() for part in images.split(64)])


def compare(
    run: Callable[[Tensor], Tensor], images: Tensor, wanted: Tensor, batch: int | None, what: str
) -> float:
    """The largest difference between `run(images)` and `wanted`; an ExportError where it is beyond TOLERANCE.

    batch: the only batch size that `run` takes; None, any, of which several are tried.
    """
    worst = 0.0
    for start, part in _parts(images, batch):
        try:
            with torch.no_grad():
                given = run(part)
        except Exception as error:
            raise ExportError(
                f"{what} does not run on a batch of {len(part)} images: {type(error).__name__}: {_first(error)}. "
                "No file was left behind"
            ) from error
        target = wanted[start : start + len(part)]
        given = given[: len(target)]
        if given.shape != target.shape:
            raise ExportError(f"{what} gives outputs {tuple(given.shape)}, not {tuple(target.shape)}")
        differing = float((given - target).abs().max())
        worst = max(worst, math.inf if math.isnan(differing) else differing)
    largest = max(float(wanted.abs().max()), 1e-3)
    allowed = TOLERANCE * min(largest, max(1.0, largest / 10))
    if worst > allowed:
        raise ExportError(
            f"{what} gives other outputs than the network: they differ by up to {worst:.3g}, "
            f"and {allowed:.3g} is allowed. No file was left behind"
        )
    return worst


def _parts(images: Tensor, batch: int | None) -> Iterator[tuple[int, Tensor]]:
    """(position, images) of batches: of `batch`, the last filled up; or of 1, 3 and then 64 images."""
    if batch is None:
        yield 0, images[:1]
        yield 0, images[:3]
    size = batch or 64
    for start in range(0, len(images), size):
        part = images[start : start + size]
        if batch is not None and len(part) < batch:
            part = torch.cat([part, part[-1:].expand(batch - len(part), *part.shape[1:])])
        yield start, part


def needed(module: str, extra: str, why: str) -> Any:
    """An optional package's module; a ConfigError that says what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{why} needs the package '{module.partition('.')[0]}', which cannot be imported ({error}); "
            f'pip install "archloom[{extra}]"'
        ) from error


@contextmanager
def following(what: str) -> Iterator[None]:
    """Where an exporter works: its failure becomes an ExportError, its own notices are not the user's."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # of constants in the graph, say: the comparison tells whether they are right
        try:
            yield
        except ArchloomError:
            raise
        except Exception as error:
            raise ExportError(
                f"{what} cannot be made of this network: {type(error).__name__}: {_first(error)}. "
                "No file was left behind"
            ) from error


def _first(error: Exception) -> str:
    """The first line of a message that can be many pages long."""
    return next(iter(str(error).strip().splitlines()), "no message")
