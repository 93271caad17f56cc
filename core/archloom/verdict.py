"""The honest end of a search: the found network and random ones, trained and tested alike."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .architecture import Architecture
from .columns import Column, Judged, Tested, costs_of, judged_by
from .groups import SAME_COST, Failure, Group, Summary, groups, judge, sentences
from .metrics import Metric, scoring_of
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
    "unlike_in_cost",
]

Role = Literal["found", "random, same cost", "random, any cost"]


@dataclass(frozen=True)
class Contestant:
    """A network that is trained from scratch for the verdict. cost: by the metric that they are drawn by; None where
    it cannot be had."""

    role: Role
    index: int
    architecture: Architecture
    cost: float | None = None


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

    def priced(architecture: Architecture) -> float | None:
        try:
            return cost(architecture)
        except Exception as error:  # a stranger's space may raise anything, and any network may be drawn
            logger.warning("no cost of %s: %s: %s", architecture, type(error).__name__, error)
            return None

    rng = python_rng(seed, "verdict")
    target = cost(found)
    anywhere: list[Architecture] = []
    near: list[tuple[float, Architecture, float]] = []
    for candidate in distinct(space, rng, draws=draws, feasible=lambda drawn: drawn != found):
        if sum(gap <= SAME_COST for gap, *_ in near) >= number and len(anywhere) >= number:
            break
        if len(anywhere) < number:
            anywhere.append(candidate)
            continue
        price = priced(candidate)
        if price is not None:
            near.append((_gap(price, target), candidate, price))
    within = [drawn for drawn in near if drawn[0] <= SAME_COST]
    nearest = sorted(near, key=lambda drawn: drawn[0])
    same = within[:number] if len(within) >= number else nearest[:number]
    return [
        Contestant("found", 0, found, target),
        *(Contestant("random, same cost", i, a, price) for i, (_, a, price) in enumerate(same)),
        *(Contestant("random, any cost", i, a, priced(a)) for i, a in enumerate(anywhere)),
    ]


def unlike_in_cost(contestants: Sequence[Contestant], number: int, cost: Column) -> tuple[str, ...]:
    """What a verdict says besides where fewer than `number` random networks are within `SAME_COST` of the found one's
    cost: how far the others are. Nothing where all are."""
    target = next(one.cost for one in contestants if one.role == "found")
    prices = [one.cost for one in contestants if one.role == "random, same cost"]
    noun, border = cost.noun or cost.title, f"{100 * SAME_COST:.0f} %"
    if number and not prices:
        return (
            f"there is no random, same cost: no further network with known {noun} was drawn from the space",
        )
    gaps = [_gap(price, target) for price in prices if price is not None and target is not None]
    far = sorted(gap for gap in gaps if gap > SAME_COST)
    if not far:
        return ()
    one = len(far) == 1
    which = f"{len(far)} of the {len(prices)} networks" if len(prices) > 1 else "the network"
    ends = dict.fromkeys(f"{100 * gap:.1f} %" for gap in (far[0], far[-1]) if math.isfinite(gap))
    off = f", and {'it is' if one else 'they are'} {' to '.join(ends)} off" if ends else ""
    return (
        f"{which} called random, same cost {'is' if one else 'are'} not within {border} of the found one's {noun}: "
        f"none nearer was drawn from the space{off}",
    )


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


def judged(task: Task, cost: Metric | None = None) -> Judged:
    """What the networks of a verdict are judged by: the task's first metric, and their `cost`, by default MACs."""
    metric = scoring_of(task).metrics[0]
    by = None if cost is None else {"name": cost.name, "unit": cost.unit}
    return judged_by(metric.name, metric.unit, metric.direction, by)


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
