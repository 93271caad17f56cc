"""What a trained network says of image files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, SearchError, TaskError
from ..model import ranked
from ..surroundings import plainly
from ..trained import Trained
from .images import image_input, reader
from .scores import refuse_without_classes, refuse_without_images

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """An image file and its most probable classes, the best first; or why it has none."""

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        if self.error is not None:
            return {"image": str(self.path), "error": self.error}
        return {"image": str(self.path), "classes": [{"name": n, "probability": p} for n, p in self.classes]}


def predict(
    trained: Trained, paths: Sequence[str | Path], *, topk: int = 5, stop: bool = False
) -> Iterator[Prediction]:
    """The `topk` most probable classes of each image file, in the files' order.

    An image that cannot be read, or of which the network gives NaN, has an error instead, unless `stop` asks for a
    TaskError or SearchError. Of equally probable classes the first stands first. Raises ConfigError where the source
    has no task, which says how a file becomes an input.
    """
    if topk < 1:
        raise ConfigError(f"topk must be at least 1, not {topk}")
    refuse_without_classes(trained, "prediction")
    open_image = opener(trained)
    count = min(topk, len(trained.classes))
    for start in range(0, len(paths), BATCH):
        part = [Path(path) for path in paths[start : start + BATCH]]
        read: dict[int, Tensor] = {}
        errors: dict[int, str] = {}
        for number, path in enumerate(part):
            try:
                read[number] = open_image(path)
            except TaskError as error:
                if stop:
                    raise
                errors[number] = str(error)
        said: dict[int, tuple[tuple[str, float], ...]] = {}
        if read:
            logits = logits_of(trained, torch.stack(list(read.values())))
            shares = logits.softmax(1)
            for row, number in enumerate(read):
                if not is_answer(logits[row]):
                    errors[number] = _no_answer(part[number], stop)
                    continue
                labels = ranked(logits[row : row + 1])[0, :count]
                names = (trained.classes[label] for label in labels.tolist())
                said[number] = tuple(zip(names, shares[row, labels].tolist(), strict=True))
        for number, path in enumerate(part):
            yield Prediction(path, said.get(number, ()), errors.get(number))


def opener(trained: Trained, resolution: int | None = None) -> Callable[[str | Path], Tensor]:
    """path -> (C, H, W): an image file as the network is given it, or as a square of another side."""
    refuse_without_images(trained, "what is read from files")
    task = trained.needs_task("reading an image file")
    as_input, read = image_input(task, resolution or trained.resolution), reader(task)
    shape = trained.shape if resolution is None else (trained.shape[0], resolution, resolution)

    def open_image(path: str | Path) -> Tensor:
        image: Tensor = as_input(read(path))
        if tuple(image.shape) != shape:
            raise ConfigError(
                f"task '{task.name}' makes {path} an image of shape {tuple(image.shape)}, not {shape}"
            )
        return image

    return open_image


@plainly
def logits_of(trained: Trained, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, classes), on the CPU."""
    with torch.inference_mode():
        return trained.model.eval()(images.to(trained.device)).float().cpu()


def is_answer(logits: Tensor) -> Tensor:
    """Whether logits (..., classes) are probabilities when they are normalized: no NaN, none infinitely large."""
    return ~(logits.isnan() | (logits == math.inf)).any(-1) & (logits > -math.inf).any(-1)


def _no_answer(path: Path, stop: bool) -> str:
    told = (
        f"the network gives no number for {path}: a logit is NaN or infinite; its training may have diverged"
    )
    if stop:
        raise SearchError(told)
    return told
