"""Local search (White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search, UAI 2021):
from a random start to a better neighbour, and from a local optimum to a new start."""

from __future__ import annotations

import random

from archloom import Architecture, SearchSpace, Trial, sample
from archloom.space import neighbours


class LocalSearch:
    """Hill climbing with restarts; neighbours differ in one decision (and what it activates, which is drawn) and are
    asked in random order.

    patient: look at all neighbours and move to the best of them, as in the paper's algorithm 1. By default the
    first better one is taken, which the paper calls query until lower. Infeasible and failed trials are no better
    than anything. With several objectives the first one is climbed.
    """

    def __init__(self, space: SearchSpace, rng: random.Random, *, patient: bool = False) -> None:
        self.space, self.rng, self.patient = space, rng, patient
        self.here: Trial | None = None
        self.better: Trial | None = None  # the best neighbour seen; a patient climber waits for the rest
        self.unasked: list[Architecture] = []
        self.open = 0

    def propose(self) -> Architecture | None:
        if self.unasked:
            self.open += 1
            return self.unasked.pop()
        if self.open:
            return None  # the open trials decide where to go
        self.here = None  # a local optimum: all neighbours are known and none is better
        self.open += 1
        return sample(self.space, self.rng)

    def observe(self, trial: Trial) -> None:
        self.open -= 1
        if _score(trial) > max(_score(self.here), _score(self.better)):
            self.better = trial
        if self.better is not None and (self.here is None or not self.patient or self._all_known()):
            self._move(self.better)

    def _all_known(self) -> bool:
        return not self.unasked and not self.open

    def _move(self, trial: Trial) -> None:
        self.here, self.better = trial, None
        self.unasked = neighbours(self.space, trial.architecture, self.rng)
        self.rng.shuffle(self.unasked)


def _score(trial: Trial | None) -> float:
    return float("-inf") if trial is None or trial.score is None else trial.score
