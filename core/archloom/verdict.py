"""The honest end of a search: the found network and random ones, trained and tested alike."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .architecture import Architecture
from .columns import Judged, Tested, costs_of, judged_by
from .groups import SAME_COST, Failure, Group, Summary, groups, judge, sentences
from .metrics import scoring_of
from .model import Model, assemble
from .randomness import derive_seed, python_rng
from .run import load_checkpoint
from .space import SearchSpace, distinct, input_shape, resolution
from .task import Task, batches
from .training import Epoch, Recipe, evaluate, train

logger = logging.getLogger("archloom")

__all__ = [
    "SAME_COST",
    "Contestant",
    "Failure",
    "Group",
    "Summary",
    "draw_contestants",
    "groups",
    "judge",
    "judged",
    "sentences",
    "train_and_test",
]

Role = Literal["found", "random, same cost", "random, any cost"]


@dataclass(frozen=True)
class Contestant:
    """A network that is trained from scratch for the verdict."""

    role: Role
    index: int
    architecture: Architecture


def draw_contestants(
    space: SearchSpace,
    found: Architecture,
    cost: Callable[[Architecture], float],
    *,
    number: int,
    seed: int,
    draws: int = 2000,
) -> list[Contestant]:
    """The found architecture, `number` random ones of about its cost, and `number` of any cost.

    Those of about its cost are the first within `SAME_COST` of it; where `draws` draws give too few, the
    nearest ones. All differ from the found one and from each other. One whose cost cannot be had, since it cannot be
    built, is never of about the same cost.
    """
    rng = python_rng(seed, "verdict")
    target = cost(found)
    anywhere: list[Architecture] = []
    near: list[tuple[float, Architecture]] = []
    for candidate in distinct(space, rng, draws=draws, feasible=lambda drawn: drawn != found):
        if sum(gap <= SAME_COST for gap, _ in near) >= number and len(anywhere) >= number:
            break
        if len(anywhere) < number:
            anywhere.append(candidate)
            continue
        try:
            price = cost(candidate)
        except Exception as error:  # a stranger's space may raise anything, and any network may be drawn
            logger.warning("no cost of %s: %s: %s", candidate, type(error).__name__, error)
            continue
        near.append((_gap(price, target), candidate))
    within = [candidate for gap, candidate in near if gap <= SAME_COST]
    nearest = [candidate for _, candidate in sorted(near, key=lambda pair: pair[0])]
    same = within[:number] if len(within) >= number else nearest[:number]
    return [
        Contestant("found", 0, found),
        *(Contestant("random, same cost", i, a) for i, a in enumerate(same)),
        *(Contestant("random, any cost", i, a) for i, a in enumerate(anywhere)),
    ]


def train_from_scratch(
    contestant: Contestant,
    space: SearchSpace,
    task: Task,
    parts: Any,
    recipe: Recipe,
    *,
    seed: int,
    device: Any,
    precision: str,
    folder: Path,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Model:
    """Train one contestant, or what is left to train of it: a training in `folder` goes on, and one that is complete
    and undamaged is left as it is. Raises as `train` does."""
    model = assemble(space, contestant.architecture, task, parts, seed=derive_seed(seed, "verdict weights"))
    for epoch in train(
        model,
        task,
        recipe,
        seed=seed,
        device=device,
        precision=precision,
        folder=folder,
        resolution=resolution(space, contestant.architecture, task),
        teacher=teacher,
        network=json.dumps(contestant.architecture.to_json(), sort_keys=True),
    ):
        on_epoch(epoch)
    return model


def judged(task: Task) -> Judged:
    """What the networks of a verdict are judged by: the task's first metric."""
    metric = scoring_of(task).metrics[0]
    return judged_by(metric.name, metric.unit, metric.direction)


def _gap(price: float, target: float) -> float:
    """How far `price` lies from `target`, as a fraction of it, whatever the unit of both."""
    if price == target:
        return 0.0
    return abs(price - target) / abs(target) if target else math.inf


def train_and_test(
    contestant: Contestant,
    space: SearchSpace,
    task: Task,
    parts: Any,
    recipe: Recipe,
    *,
    device: Any,
    precision: str,
    folder: Path,
    **options: Any,
) -> dict[str, float]:
    """Train one contestant from scratch and read the test split once, with the weights best by validation.

    Goes on from the checkpoint in `folder`, where there is one. options: those of `train_from_scratch`.
    """
    where = {"device": device, "precision": precision, "folder": folder}
    model = train_from_scratch(contestant, space, task, parts, recipe, **where, **options)
    own = resolution(space, contestant.architecture, task)
    metrics: dict[str, float] = {}
    best = load_checkpoint(folder / "best.pt")
    if best is not None:
        model.load_state_dict(best["model"])
    for split in ("validation", "test"):
        data = task.dataset(split, resolution=own)
        judged = evaluate(model, batches(data, 512, device=device), task, precision)
        metrics |= {f"{split}.{name}": value for name, value in judged.items()}
    example = next(iter(batches(data, 1, device=device)))[0]
    shape = input_shape(space, contestant.architecture, task)
    return metrics | costs_of(Tested(model, shape, example, device))
