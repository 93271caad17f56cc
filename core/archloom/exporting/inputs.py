"""Whether what an export says of its images is what the task does: predictions on image files by both ways."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..trained import Trained
from .checking import logits_of, needed

FILES = 8
"""So many test images are compared as files."""

TOLERANCE = 0.05
"""How far a class's probability may be apart, and normalized pixels on average. Resizing 8 bits and resizing floats
differ by less; another crop, by more."""


def compare_as_files(trained: Trained, network: nn.Module, told: Mapping[str, Any] | None) -> None:
    """Classify test images as files by the task's own transform and by timm's from `told`, its terms.

    An ExportError where they differ by more than TOLERANCE. Nothing is compared where the task says nothing of image
    files (`preprocessing`), or has no test images that can be written as files.
    """
    task: Any = trained.task
    if not told or task is None:
        return
    data = needed("timm.data", "timm", "the format 'timm'")
    items = getattr(task, "test", ())
    files = [_as_file(items[i * len(items) // FILES][0]) for i in range(min(FILES, len(items)))]
    pictures = [file for file in files if file is not None]
    if not pictures:
        return
    theirs = data.create_transform(**data.resolve_data_config(pretrained_cfg=dict(told)))
    raw: Callable[[Any], Any] = getattr(task, "raw_image", None) or (lambda image: image)
    ours = task.eval_transform(trained.resolution)
    given = torch.stack([ours(raw(each)) for each in pictures])
    found = torch.stack([theirs(each) for each in pictures])
    if given.shape != found.shape:
        raise ExportError(
            f"timm would make image files {tuple(found.shape[1:])}, task '{task.name}' makes them "
            f"{tuple(given.shape[1:])}. No file was left behind"
        )
    pixels = float((given - found).abs().mean())
    with torch.no_grad():
        own, other = logits_of(trained.model, given).softmax(1), network(found).float().softmax(1)
    apart = float((own - other).abs().max())
    if not (apart <= TOLERANCE and pixels <= TOLERANCE):
        raise ExportError(
            f"timm would prepare image files otherwise than task '{task.name}' does: pixels differ by {pixels:.2g} on "
            f"average, a probability by {apart:.2g}. What the task says in `preprocessing` is not what its "
            "`eval_transform` does. No file was left behind"
        )


def _as_file(raw: Any) -> Any:
    """A raw item of a task as the image of a PNG file; None where it is no such picture."""
    image: Any = needed("PIL.Image", "vision", "checking images")
    if isinstance(raw, Tensor):
        if raw.ndim != 3 or raw.shape[0] not in (1, 3):
            return None
        if raw.is_floating_point():
            raw = (raw.clamp(0, 1) * 255).round().to(torch.uint8)
        array = raw.permute(1, 2, 0).squeeze(2) if raw.shape[0] == 1 else raw.permute(1, 2, 0)
        raw = image.fromarray(array.contiguous().numpy())
    if not isinstance(raw, image.Image) or raw.mode not in ("L", "RGB"):
        return None
    file = io.BytesIO()
    raw.save(file, "png")
    return image.open(file)
