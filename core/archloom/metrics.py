"""What a task measures: its metrics, and how the outputs of networks are scored against targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ConfigError, TaskError


@dataclass(frozen=True)
class Metric:
    """A measured quantity: `accuracy.trained` in "%", higher is better.

    A name carries its fidelity after the dot where there are several; metrics of different fidelity are
    different metrics and never compared.
    """

    name: str
    unit: str
    direction: Literal["max", "min"]

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that higher is better."""
        return 1 if self.direction == "max" else -1


ACCURACY = Metric("accuracy", "%", "max")

Total = Tensor | float


class Scoring(Protocol):
    """How outputs are scored. A task that has these attributes says so itself; all others are of classes.

    metrics: of a split; the first is the main one, by which epochs are selected and networks compared.
    outputs: the shape of one output, (classes,) for logits, (1,) for a number.
    """

    @property
    def metrics(self) -> Sequence[Metric]: ...

    @property
    def outputs(self) -> tuple[int, ...]: ...

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Total]:
        """Sums over a batch, by name: of outputs (N, *outputs) in float32 and targets as the task gives them.

        They are added over the batches of a split, so a mean needs its sum and the number of items."""

    def values(self, totals: Mapping[str, Total]) -> Mapping[str, float]:
        """The metrics by name, from the sums of `score` over a split."""

    def example_targets(self, count: int) -> Tensor:
        """Made-up targets of so many items, of the type and shape of a batch's; a loss is tried on them."""


@dataclass(frozen=True)
class Classification:
    """Classes by their logits: accuracy and top-k in %, cross entropy in nats. ks: the k above 1."""

    classes: int
    ks: tuple[int, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """accuracy, top-k, loss."""
        return (ACCURACY, *(Metric(f"top{k}", "%", "max") for k in self.ks), Metric("loss", "nats", "min"))

    @property
    def outputs(self) -> tuple[int]:
        """One logit for each class."""
        return (self.classes,)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Total]:
        """Hits and cross entropy of logits (N, classes) and labels (N,)."""
        place = places(outputs, targets)
        hits = {f"top{k}": (place < k).sum() for k in self.ks}
        loss = F.cross_entropy(outputs, targets, reduction="sum")
        return {"accuracy": (place < 1).sum(), **hits, "loss": loss, "items": len(targets)}

    def values(self, totals: Mapping[str, Total]) -> dict[str, float]:
        """In % and nats."""
        items = totals["items"]
        shares = {name: _percent(totals[name], items) for name in totals if name not in ("loss", "items")}
        return {**shares, "loss": float(totals["loss"]) / float(items)}

    def example_targets(self, count: int) -> Tensor:
        """The first class."""
        return torch.zeros(count, dtype=torch.long)


@dataclass(frozen=True)
class Unscored:
    """Outputs of a task that is not here: of what they are measured by nothing is known."""

    outputs: tuple[int, ...]
    metrics: tuple[Metric, ...] = ()

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Total]:
        """Not without the task."""
        raise ConfigError("a network's outputs cannot be scored without its task; name the task")

    def values(self, totals: Mapping[str, Total]) -> dict[str, float]:
        """There are none."""
        return {}

    def example_targets(self, count: int) -> Tensor:
        """Not without the task."""
        raise ConfigError("there are no targets without the task; name the task")


def _percent(part: Total, whole: Total) -> float:
    """Of a tensor in its precision: results are compared with those of earlier runs to the last digit."""
    return 100 * float(part / whole) if isinstance(part, Tensor) else 100 * part / float(whole)


def scoring_of(task: Any, network: nn.Module | None = None) -> Scoring:
    """How a task (or a number of classes) is scored: as it says itself, else by classes, with the top-k that the
    network's head asks for. Of what stands for a task and names `outputs` alone, the shape of these is known."""
    if hasattr(task, "metrics"):
        scoring: Scoring = task
        return scoring
    if (outputs := getattr(task, "outputs", None)) is not None:
        return Unscored(tuple(outputs))
    classes = task if isinstance(task, int) else len(task.classes)
    return Classification(classes, tuple(k for k in topk_of(network, classes) if k > 1))


def num_outputs(task: Any) -> int:
    """What a head is handed as `num_classes`: how many classes or numbers an output has, along its first axis."""
    outputs = scoring_of(task).outputs
    return outputs[0] if outputs else 1


def topk_of(model: nn.Module | None, classes: int) -> tuple[int, ...]:
    """For which k it is counted how many labels are among the k largest logits: 1, 5 where there are six classes
    or more, and those that the model's head names in `topk`."""
    asked = getattr(getattr(model, "head", None), "topk", ())
    return tuple(sorted({1, *((5,) if classes > 5 else ()), *(k for k in asked if k <= classes)}))


class Totals:
    """The sums of a scoring over batches. They stay on the device: nothing waits for them."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.sums: dict[str, Total] = {}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch: outputs (N, *outputs) and their targets."""
        for name, value in self.scoring.score(outputs, targets).items():
            if isinstance(value, Tensor):
                value = value.detach()
                value = value.double() if value.is_floating_point() else value
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def over(self, add: Callable[[Tensor], Tensor]) -> Totals:
        """Those of all ranks: `add` sums a tensor over them."""
        whole = Totals(self.scoring)
        for name, value in self.sums.items():
            whole.sums[name] = add(value if isinstance(value, Tensor) else torch.tensor(float(value)))
        return whole

    def values(self) -> dict[str, float]:
        """The metrics; a TaskError where nothing was added."""
        if not self.sums:
            raise TaskError("there is no item to judge a network on")
        return {name: float(value) for name, value in self.scoring.values(self.sums).items()}

    def numbers(self) -> Totals:
        """The same as plain numbers, in double precision."""
        plain = Totals(self.scoring)
        plain.sums = {name: float(value) for name, value in self.sums.items()}
        return plain


def outputs_beyond_classes(task: Any) -> tuple[int, ...] | None:
    """The shape of one output of a task that is not of classes; None of one that is."""
    return tuple(task.outputs) if hasattr(task, "metrics") else None


def said_of_main(task: Any) -> dict[str, str] | None:
    """The main metric as events carry it: name, unit, direction; None for accuracy, which they need not say."""
    metric = None if task is None else scoring_of(task).metrics[0]
    return None if metric in (None, ACCURACY) else asdict(metric)


RESERVED = ("lr", "seconds", "images_per_second", "recalibrated")
"""What an epoch says besides; no metric has these names."""

_NEEDED = ("outputs", "score", "values", "example_targets")


def check_scoring(task: Any) -> None:
    """Refuse, with a TaskError, a task whose own way of scoring is not whole. One without `metrics` is of classes."""
    if not hasattr(task, "metrics"):
        return
    where = f"task '{getattr(task, 'name', type(task).__name__)}'"
    if lacking := [name for name in _NEEDED if not hasattr(task, name)]:
        raise TaskError(
            f"{where} has metrics, and lacks {', '.join(lacking)}; see archloom.metrics.Scoring, or leave the metrics "
            "out: then it is scored as a task of classes"
        )
    metrics = list(task.metrics)
    if not metrics or not all(isinstance(metric, Metric) for metric in metrics):
        raise TaskError(f"{where}: metrics is a list of archloom.metrics.Metric, not {task.metrics!r}")
    names = [metric.name for metric in metrics]
    if twice := next((name for name in names if names.count(name) > 1 or name in RESERVED), None):
        raise TaskError(
            f"{where}: no metric can be called '{twice}' here; rename it (metrics: {', '.join(names)})"
        )
    if wrong := next((metric for metric in metrics if metric.direction not in ("max", "min")), None):
        raise TaskError(
            f"{where}: the direction of metric '{wrong.name}' is max or min, not {wrong.direction!r}"
        )
    if not all(isinstance(side, int) and side > 0 for side in task.outputs):
        raise TaskError(f"{where}: outputs is the shape of one output, such as (1,), not {task.outputs!r}")
    _try(task, where, names)


def _try(task: Any, where: str, names: Sequence[str]) -> None:
    """Score two outputs of zeros."""
    try:
        totals = Totals(task)
        totals.add(torch.zeros(2, *task.outputs), task.example_targets(2))
        values = totals.values()
    except Exception as error:  # a stranger's task may raise anything
        raise TaskError(
            f"{where} cannot score outputs of zeros {(2, *task.outputs)} against its example_targets(2): "
            f"{type(error).__name__}: {error}"
        ) from error
    if set(values) != set(names):
        raise TaskError(
            f"{where}: values() gives {', '.join(values) or 'nothing'}, and metrics names {', '.join(names)}"
        )
    if wrong := next((name for name in names if math.isnan(values[name])), None):
        raise TaskError(f"{where}: of outputs of zeros '{wrong}' is NaN; divide by the number of items")


def refuse_other(task: Any, what: str) -> None:
    """A ConfigError where a task is not of classes, for what is of use with classes alone."""
    if hasattr(task, "metrics"):
        main = task.metrics[0].name
        raise ConfigError(
            f"{what}: that is for tasks of classes alone, and task '{task.name}' is scored by {main}; leave it out"
        )


def places(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,): at which place each label (N,) stands among its logits (N, classes), 0 the first, as
    `archloom.model.ranked` orders them.

    The number of classes where a logit is NaN: such an image has no order.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    before = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return torch.where(logits.isnan().any(1), logits.shape[1], before)
