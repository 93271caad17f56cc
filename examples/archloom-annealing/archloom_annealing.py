"""Simulated annealing (Kirkpatrick, Gelatt, Vecchi, Science 1983) over the decisions of any search space."""

import math

import archloom
from archloom import mutate, sample


class Annealing:
    """One walk. A worse neighbour is accepted with probability exp(-loss / T), where the loss is relative to
    the score where the walk stands; T starts at `temperature` and shrinks by `cooling` with each trial."""

    def __init__(self, space, rng, *, temperature: float = 0.3, cooling: float = 0.95) -> None:
        self.space, self.rng, self.T, self.cooling = space, rng, temperature, cooling
        self.here = None

    def propose(self):
        return (
            mutate(self.space, self.here.architecture, self.rng)
            if self.here
            else sample(self.space, self.rng)
        )

    def observe(self, trial):
        if trial.score is None:
            return  # infeasible or failed: the walk stays where it is
        gain = math.inf if self.here is None else trial.score - self.here.score
        if gain >= 0 or self.rng.random() < math.exp(gain / (self.T * abs(self.here.score) + 1e-12)):
            self.here = trial
        self.T *= self.cooling


@archloom.hookimpl
def register_strategies(register):
    register("annealing", Annealing)
