"""Where a training stands, and the files that keep it: the best weights, the checkpoint, the table of epochs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, RunError
from ..run import load_checkpoint, previous, read_checkpoint, save_checkpoint, write_atomically
from .optimization import Averaged
from .recipe import Recipe
from .statistics import Statistics


@dataclass
class State:
    """All that a training's checkpoint holds.

    averaged: None where the recipe does not average. statistics: those that the networks are judged with. done:
    epochs. best: the highest score. best_epoch: the epoch that has it. stale: epochs since there was a better one.
    history: the metrics of each epoch. owner: what training this is, by which its files are known.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: Averaged | None
    statistics: Statistics
    done: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    owner: str = ""

    @property
    def network(self) -> nn.Module:
        """What the training is judged by."""
        return self.model if self.averaged is None else self.averaged.module

    def give_back(self) -> None:
        """The running statistics again, as the training goes on with them."""
        self.statistics.give_back(*self._networks())

    def record(self, metrics: Mapping[str, float], score: float | None) -> bool:
        """Count the epoch; whether its weights are the best so far (a tie goes to the later ones)."""
        self.done += 1
        score = float(self.done) if score is None else score
        improved = score >= self.best
        self.best_epoch = self.done if improved else self.best_epoch
        self.stale = 0 if score > self.best else self.stale + 1
        self.best = max(self.best, score)
        self.history.append(dict(metrics))
        return improved

    def save(self, folder: Path, improved: bool, *, ended: bool = False) -> None:
        """Write the best weights, the checkpoint and the table, in this order. ended: nothing is left to train.

        Weights have the statistics that they were judged with. Where those are not the running ones, which the
        training goes on with, the checkpoint has these beside.
        """
        if improved:
            state = self.network.state_dict()
            save_checkpoint(folder / "best.pt", {"model": state, "epoch": self.done}, self.owner)
        save_checkpoint(
            folder / "training.pt",
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "averaged": None if self.averaged is None else self.averaged.state_dict(),
                "running": [self.statistics.running(network) for network in self._networks()],
                "epoch": self.done,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "stale": self.stale,
                "history": self.history,
                "ended": ended,
            },
            self.owner,
        )
        self._write_table(folder)

    def _networks(self) -> list[nn.Module]:
        return [self.model] if self.averaged is None else [self.model, self.averaged.module]

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in `folder`, where there is one.

        Where it, or the best weights that it speaks of, are damaged beyond use, the training starts again, with a
        warning: it comes out the same. A CheckpointError where they are another training's.
        """
        try:
            state = load_checkpoint(folder / "training.pt", self.owner)
            if state is not None and not self._has_best(folder, state.get("best_epoch", 0)):
                raise CheckpointError(f"{folder / 'best.pt'} is not the best epoch's, {state['best_epoch']}")
        except CheckpointError as error:
            if error.foreign:
                raise
            warnings.warn(f"{error}. The training in {folder} starts again", stacklevel=2)
            return
        if state is None:
            return
        if (state["averaged"] is None) != (self.averaged is None):
            raise RunError(f"{folder} holds a training with another ema; name another folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        for network, running in zip(self._networks(), state.get("running", ()), strict=False):
            network.load_state_dict(running, strict=False)
        self.done, self.best, self.stale = state["epoch"], state["best"], state["stale"]
        self.history, self.best_epoch = list(state["history"]), state.get("best_epoch", 0)
        self._write_table(folder)  # an interruption may have come between the checkpoint and the table

    def _has_best(self, folder: Path, epoch: int) -> bool:
        """Whether best.pt is that epoch's: a kill may have left a later one's, beside the one before. 0: unknown."""
        path = folder / "best.pt"
        for candidate in (path, previous(path)) if epoch else ():
            with suppress(CheckpointError):
                if read_checkpoint(candidate, self.owner)["epoch"] == epoch:
                    if candidate != path:
                        os.replace(candidate, path)
                    return True
        return not epoch

    def _write_table(self, folder: Path) -> None:
        """epochs.csv: a line for each epoch, all of its metrics."""
        names = dict.fromkeys(name for metrics in self.history for name in metrics)
        text = io.StringIO()
        table = csv.DictWriter(text, ["epoch", *names])
        table.writeheader()
        table.writerows({"epoch": number, **metrics} for number, metrics in enumerate(self.history, 1))
        write_atomically(folder / "epochs.csv", text.getvalue().encode())


def owner_of(model: nn.Module, recipe: Recipe, facts: Sequence[Any]) -> str:
    """A hash of what a training is: the network's layers, the recipe's values that are not the defaults, `facts`."""
    layers = [f"{name} {type(module).__name__}" for name, module in model.named_modules()]
    tensors = [f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()]
    given = {f.name: getattr(recipe, f.name) for f in fields(recipe) if getattr(recipe, f.name) != f.default}
    text = json.dumps([layers, tensors, given, list(facts)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
