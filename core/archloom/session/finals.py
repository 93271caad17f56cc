"""The trainings of the verdict: the found network and random ones, each from scratch, each once in a run's life."""

from __future__ import annotations

import hashlib
import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ..architecture import Architecture
from ..columns import ACCURACY, COSTS, Judged
from ..errors import RunError
from ..randomness import derive_seed
from ..ranks import Ranks
from ..resolve import Resolved
from ..run import Run, load_checkpoint, write_atomically
from ..strategy import Recorded
from ..teacher import load_teacher
from ..training import Epoch, check_trainable
from ..verdict import (
    Contestant,
    Failure,
    Group,
    draw_contestants,
    groups,
    judged,
    train_and_test,
    train_from_scratch,
    unlike_in_cost,
)
from .making import Notify

logger = logging.getLogger("archloom")

PLAIN = ACCURACY.to_json()
"""What networks are judged by where a `verdict` event does not say."""

FAILED = "final failed"
"""The event of a training that ended with an error."""


def check_verdict(r: Resolved) -> nn.Module | None:
    """Refuse a recipe that could not train what is found, days before it is; the recipe's teacher, if any."""
    if not r.config.verdict.seeds:
        return None
    loss = r.parts.loss if isinstance(r.parts.loss, nn.Module) else r.parts.loss()
    teacher = load_teacher(r.recipe, r.data, r.host)
    check_trainable(loss, r.data, r.recipe, teacher=teacher)
    return teacher


@dataclass(frozen=True)
class Finals:
    """Trains the contestants of a run's verdict, with the recipe's `teacher`, and reports each.

    again: train anew what failed before; else a failure stands.
    """

    resolved: Resolved
    run: Run
    teacher: nn.Module | None
    recorded: Recorded
    notify: Notify
    again: bool = False

    @property
    def judged(self) -> Judged:
        """What the networks are judged by."""
        return judged(self.resolved.data, self.resolved.metrics.get(self.resolved.config.verdict.cost))

    def hold(self, found: Architecture) -> tuple[list[Group], list[Failure], tuple[str, ...]]:
        """Train all contestants that this run has not trained yet; what those of each role reached, what failed, and
        what is to be said of how they were drawn.

        A contestant that cannot be built, measured or trained is a failure with its reason, and the others go on;
        with `strict` its error ends the verdict. The weights of the found one's first training are copied into the
        run's folder.
        """
        contestants, seeds = self._draw(found), range(self.resolved.config.verdict.seeds)
        wanted = {self._name(one, number): (one, number) for one in contestants for number in seeds}
        self._announce(list(wanted))
        done = {event["name"] for event in self.run.log.of("final")}
        failed = set() if self.again else {event["name"] for event in self.run.log.of(FAILED)}
        for name, (contestant, number) in wanted.items():
            if name not in done and name not in failed:
                self._train(name, contestant, number)
        results = [
            self._with_cost(event, wanted[event["name"]][0])
            for event in self.run.log.of("final")
            if event["name"] in wanted
        ]
        reached = {event["name"] for event in results}
        failures = {
            event["name"]: Failure.from_json(event)
            for event in self.run.log.of(FAILED)
            if event["name"] in wanted and event["name"] not in reached
        }
        first = self._name(contestants[0], 0)
        if first in reached:
            self._copy_weights(first, contestants[0])
        apart = unlike_in_cost(contestants, self.resolved.config.verdict.random, self.judged.cost)
        return groups(results, self.judged), list(failures.values()), apart

    def _with_cost(self, event: Mapping[str, Any], contestant: Contestant) -> Mapping[str, Any]:
        """A `final` event, and the cost that the contestant was drawn by where a training does not measure it."""
        metric = self.judged.cost.metric
        if contestant.cost is None or metric in [column.metric for column in COSTS]:
            return event
        return {**event, "metrics": {**event["metrics"], metric: contestant.cost}}

    def none(self) -> None:
        """Record that nothing is trained, whatever an earlier verdict of this run was."""
        self._announce([])

    def _announce(self, names: list[str]) -> None:
        """Which trainings the verdict is made of, and what they are judged by; not said twice."""
        said = [(event["names"], event.get("metric") or PLAIN) for event in self.run.log.of("verdict")]
        if not names and not (said and said[-1][0]):
            return
        metric = self.judged.to_json()
        if not said or said[-1] != (names, metric):
            self.run.log.append({"event": "verdict", "names": names, "metric": metric})

    def _draw(self, found: Architecture) -> list[Contestant]:
        r, verdict = self.resolved, self.resolved.config.verdict
        pricer = next(e for e in r.estimators if verdict.cost in [m.name for m in e.metrics])
        context = r.context(Ranks(), self.recorded).measuring()  # the first rank alone is here
        return draw_contestants(
            r.space,
            found,
            lambda architecture: pricer.estimate(architecture, context)[verdict.cost],
            number=verdict.random,
            seed=r.config.seed,
        )

    def _train(self, name: str, contestant: Contestant, number: int) -> None:
        told = {
            "name": name,
            "role": contestant.role,
            "index": contestant.index,
            "seed": number,
            "architecture": contestant.architecture.to_json(),
        }
        event: dict[str, Any]
        try:
            event = {"event": "final", **told, "metrics": self._metrics(name, contestant, number)}
        except RunError:
            raise  # the folder's trouble, not the network's
        except Exception as error:  # any network of a stranger's space may be drawn, and fail in any way
            if self.resolved.config.strict:
                raise
            logger.warning("the training of %s failed\n%s", name, traceback.format_exc())
            event = {"event": FAILED, **told, "error": f"{type(error).__name__}: {error}"}
        self.run.log.append(event)
        self.notify(event)

    def _metrics(self, name: str, contestant: Contestant, number: int) -> dict[str, float]:
        r = self.resolved
        options = self._options(name, number)
        return train_and_test(contestant, r.space, r.data, r.parts, r.recipe, **options)

    def _options(self, name: str, number: int) -> dict[str, Any]:
        r = self.resolved
        return {
            "seed": derive_seed(r.config.seed, "final", number),
            "device": r.device,
            "precision": r.config.precision,
            "folder": self.run.folder / "final" / name,
            "teacher": self.teacher,
            "on_epoch": lambda epoch: self._tell(name, epoch),
        }

    def _tell(self, name: str, epoch: Epoch) -> None:
        self.notify({"event": "epoch", "name": name, **epoch.to_json()})

    def _copy_weights(self, name: str, found: Contestant) -> None:
        """The weights of the found network's first training; what was damaged since is trained again, to the bit."""
        r, folder = self.resolved, self.run.folder / "final" / name
        if any((folder / file).exists() for file in ("training.pt", "training.pt.previous")):
            train_from_scratch(found, r.space, r.data, r.parts, r.recipe, **self._options(name, 0))
        for source, target in (("best.pt", "weights"), ("training.pt", "weights-last")):
            state = load_checkpoint(folder / source)
            if state is None:
                raise RunError(f"{folder} has no {source}; delete the folder and resume, to train it again")
            write_weights(self.run.folder / f"{target}.safetensors", state["model"])

    def _name(self, contestant: Contestant, number: int) -> str:
        """The training's name and folder. It carries the architecture, since a run that is resumed with a larger
        budget may find another one, and the recipe, where it is not the one that the run began with."""
        role = contestant.role.replace(", ", "-").replace(" ", "-")
        begun = next(self.run.log.of("start"))["identity"].get("recipe")
        recipe = self.resolved.config.recipe.model_dump(mode="json")
        other = "" if recipe == begun else f"-recipe-{_key(recipe)}"
        return f"{role}-{contestant.index}-{_key(contestant.architecture.to_json())}{other}-seed{number}"


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    write_atomically(path, save({key: value.detach().cpu().contiguous() for key, value in state.items()}))
