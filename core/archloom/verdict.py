"""The honest end of a search: the found network and random ones, trained and tested alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .architecture import Architecture
from .cost import count
from .latency import measure
from .model import assemble
from .randomness import derive_seed, python_rng
from .run import load_checkpoint
from .space import SearchSpace, input_shape, sample, violations
from .task import Task, batches
from .training import Epoch, Recipe, evaluate, train

Role = Literal["found", "random, same cost", "random, any cost"]
SAME_COST = 0.10
"""How far the cost of a random network "of the same cost" may lie from the found one's, as a fraction."""


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
    nearest ones. All differ from the found one and from each other.
    """
    rng = python_rng(seed, "verdict")
    target, seen = cost(found), {found}
    anywhere: list[Architecture] = []
    near: list[tuple[float, Architecture]] = []
    for _ in range(draws):
        if sum(gap <= SAME_COST for gap, _ in near) >= number and len(anywhere) >= number:
            break
        candidate = sample(space, rng)
        if candidate in seen or violations(space, candidate):
            continue
        seen.add(candidate)
        if len(anywhere) < number:
            anywhere.append(candidate)
        else:
            near.append((abs(cost(candidate) - target) / max(target, 1e-12), candidate))
    within = [candidate for gap, candidate in near if gap <= SAME_COST]
    nearest = [candidate for _, candidate in sorted(near, key=lambda pair: pair[0])]
    same = within[:number] if len(within) >= number else nearest[:number]
    return [
        Contestant("found", 0, found),
        *(Contestant("random, same cost", i, a) for i, a in enumerate(same)),
        *(Contestant("random, any cost", i, a) for i, a in enumerate(anywhere)),
    ]


def train_and_test(
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
) -> dict[str, float]:
    """Train one contestant from scratch and read the test split once, with the weights best by validation.

    Goes on from the checkpoint in `folder`, where there is one.
    """
    model = assemble(space, contestant.architecture, task, parts, seed=derive_seed(seed, "verdict weights"))
    shape = input_shape(space, contestant.architecture, task)
    resolution = None if shape == tuple(task.shape) else shape[1]
    for epoch in train(
        model,
        task,
        recipe,
        seed=seed,
        device=device,
        precision=precision,
        folder=folder,
        resolution=resolution,
        teacher=teacher,
    ):
        on_epoch(epoch)
    metrics: dict[str, float] = {}
    best = load_checkpoint(folder / "best.pt")
    if best is not None:
        model.load_state_dict(best["model"])
    for split in ("validation", "test"):
        data = task.dataset(split, resolution=resolution)
        judged = evaluate(model, batches(data, 512, device=device), len(task.classes), precision)
        metrics |= {f"{split}.{name}": value for name, value in judged.items()}
    cost = count(model, shape)
    metrics |= {"params": cost.params, "macs": cost.macs}
    example = next(iter(batches(data, 1, device=device)))[0]
    timing = measure(model, example, device=device)
    return metrics | {
        "latency.measured": timing.median,
        "latency.measured.low": timing.low,
        "latency.measured.high": timing.high,
    }


@dataclass(frozen=True)
class Group:
    """The networks of one role: mean and spread of test accuracy over networks and seeds, mean costs.

    `latency` is the median, since one disturbed timing would rule the mean. `spread` is the standard
    deviation over all trainings of the role; None with a single one.
    """

    role: str
    networks: int
    trainings: int
    accuracy: float
    spread: float | None
    macs: float
    params: float
    latency: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(self.__dict__)


def groups(results: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The `final` events of a run, by role."""
    found = []
    for role in dict.fromkeys(result["role"] for result in results):
        mine = [result for result in results if result["role"] == role]
        metrics = [result["metrics"] for result in mine]
        accuracies = [one["test.accuracy"] for one in metrics]
        found.append(
            Group(
                role=role,
                networks=len({result["index"] for result in mine}),
                trainings=len(mine),
                accuracy=statistics.fmean(accuracies),
                spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                macs=statistics.fmean(one["macs"] for one in metrics),
                params=statistics.fmean(one["params"] for one in metrics),
                latency=statistics.median(one["latency.measured"] for one in metrics),
            )
        )
    return found


def judge(found: Group, random: Group) -> str:
    """One sentence: does the found network beat these random ones, in accuracy, in cost, or not at all?

    Accuracies are told apart where they differ by more than two standard errors of the difference
    (Welch's, over trainings); costs where they differ by more than a tenth.
    """
    error = math.sqrt(
        (found.spread or 0.0) ** 2 / found.trainings + (random.spread or 0.0) ** 2 / random.trainings
    )
    gap, ratio = found.accuracy - random.accuracy, found.macs / max(random.macs, 1e-12)
    told = (
        f"{gap:+.2f} points of test accuracy (standard error {error:.2f}) at {100 * ratio:.0f} % of the MACs"
    )
    better, worse = gap > 2 * error and gap > 0, gap < -2 * error and gap < 0
    cheaper, dearer = ratio < 1 - SAME_COST, ratio > 1 + SAME_COST
    if (better and not dearer) or (cheaper and not worse):
        word = "beats"
    elif better or cheaper:
        word = "trades against"
    else:
        word = "does not beat"
    return f"the found network {word} {random.role}: {told}"
