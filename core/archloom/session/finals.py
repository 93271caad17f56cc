"""The trainings of the verdict: the found network and random ones, each from scratch, each once in a run's life."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ..architecture import Architecture
from ..errors import RunError
from ..randomness import derive_seed
from ..resolve import Resolved
from ..run import Run, load_checkpoint, write_atomically
from ..strategy import Recorded
from ..teacher import load_teacher
from ..training import Epoch, check_trainable
from ..verdict import Contestant, Group, draw_contestants, groups, train_and_test
from .making import Notify, make_context


def check_verdict(r: Resolved) -> nn.Module | None:
    """Refuse a recipe that could not train what is found, days before it is; the recipe's teacher, if any."""
    if not r.config.verdict.seeds:
        return None
    loss = r.parts.loss if isinstance(r.parts.loss, nn.Module) else r.parts.loss()
    teacher = load_teacher(r.recipe, r.task, r.host)
    check_trainable(loss, r.task, r.recipe, teacher=teacher)
    return teacher


@dataclass(frozen=True)
class Finals:
    """Trains the contestants of a run's verdict, with the recipe's `teacher`, and tells of it."""

    resolved: Resolved
    run: Run
    teacher: nn.Module | None
    recorded: Recorded
    notify: Notify

    def hold(self, found: Architecture) -> list[Group]:
        """Train all contestants that this run has not trained yet; what those of each role reached.

        The weights of the found one's first training are copied into the run's folder.
        """
        contestants, seeds = self._draw(found), range(self.resolved.config.verdict.seeds)
        done = {event["name"] for event in self.run.log.of("final")}
        for contestant in contestants:
            for number in seeds:
                if _name(contestant, number) not in done:
                    self._train(contestant, number)
        self._copy_weights(contestants[0])
        names = {_name(contestant, number) for contestant in contestants for number in seeds}
        return groups([event for event in self.run.log.of("final") if event["name"] in names])

    def _draw(self, found: Architecture) -> list[Contestant]:
        r, verdict = self.resolved, self.resolved.config.verdict
        pricer = next(e for e in r.estimators if verdict.cost in [m.name for m in e.metrics])
        context = make_context(r, self.recorded)
        return draw_contestants(
            r.space,
            found,
            lambda architecture: pricer.estimate(architecture, context)[verdict.cost],
            number=verdict.random,
            seed=r.config.seed,
        )

    def _train(self, contestant: Contestant, number: int) -> None:
        r = self.resolved
        name = _name(contestant, number)
        metrics = train_and_test(
            contestant,
            r.space,
            r.task,
            r.parts,
            r.recipe,
            seed=derive_seed(r.config.seed, "final", number),
            device=r.device,
            precision=r.config.precision,
            folder=self.run.folder / "final" / name,
            teacher=self.teacher,
            on_epoch=lambda epoch: self._tell(name, epoch),
        )
        event = {
            "event": "final",
            "name": name,
            "role": contestant.role,
            "index": contestant.index,
            "seed": number,
            "architecture": contestant.architecture.to_json(),
            "metrics": metrics,
        }
        self.run.log.append(event)
        self.notify(event)

    def _tell(self, name: str, epoch: Epoch) -> None:
        numbers = {"number": epoch.number, "of": epoch.of, "metrics": dict(epoch.metrics)}
        self.notify({"event": "epoch", "name": name, **numbers})

    def _copy_weights(self, found: Contestant) -> None:
        folder = self.run.folder / "final" / _name(found, 0)
        for source, target in (("best.pt", "weights"), ("training.pt", "weights-last")):
            state = load_checkpoint(folder / source)
            if state is None:
                raise RunError(f"{folder} has no {source}; delete the folder and resume, to train it again")
            write_weights(self.run.folder / f"{target}.safetensors", state["model"])


def _name(contestant: Contestant, number: int) -> str:
    """The training's name and folder. It carries the architecture, since a run that is resumed with a larger
    budget may find another one."""
    role = contestant.role.replace(", ", "-").replace(" ", "-")
    key = hashlib.sha256(json.dumps(contestant.architecture.to_json(), sort_keys=True).encode()).hexdigest()[
        :8
    ]
    return f"{role}-{contestant.index}-{key}-seed{number}"


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    write_atomically(path, save({key: value.detach().cpu().contiguous() for key, value in state.items()}))
