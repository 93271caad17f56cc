"""How good a network is by the metrics that its task declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..metrics import Classification
from ..surroundings import plainly
from ..task import SPLITS, Split, batches
from ..trained import Trained
from ..training import evaluate


@dataclass(frozen=True)
class Scores:
    """The metrics of a split by name, their units, and how many items it has."""

    values: Mapping[str, float]
    units: Mapping[str, str]
    items: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, the metrics first."""
        return {**self.values, "items": self.items, "units": dict(self.units)}


@plainly
def score(trained: Trained, *, split: str = "test", precision: str = "float32") -> Scores:
    """Judge a network on a split of its task, whatever that measures. Raises ConfigError without a task."""
    task = trained.needs_task("judging a network on a split")
    chosen: Split | None = next((one for one in SPLITS if one == split), None)
    if chosen is None:
        raise ConfigError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")
    data: Any = task.dataset(chosen, resolution=trained.resolution)
    values = evaluate(trained.model, batches(data, 256, device=trained.device), task, precision)
    return Scores(values, {metric.name: metric.unit for metric in trained.scoring.metrics}, len(data))


def refuse_without_classes(trained: Trained, what: str) -> None:
    """A ConfigError where the outputs are no classes' logits."""
    if not isinstance(trained.scoring, Classification):
        raise ConfigError(
            f"{what} is of networks that tell classes apart, and {trained.source.name} gives outputs of shape "
            f"{tuple(trained.scoring.outputs)}; `archloom evaluate {trained.source.name}` scores it on a split"
        )


def refuse_without_images(trained: Trained, what: str) -> None:
    """A ConfigError where the inputs are no images."""
    if len(trained.shape) != 3:
        raise ConfigError(
            f"{what} is of images (channels, height, width), and an input of {trained.source.name} has shape "
            f"{trained.shape}"
        )
