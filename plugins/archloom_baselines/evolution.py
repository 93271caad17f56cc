"""Regularized evolution (Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture
Search, AAAI 2019, algorithm 1): tournament selection, and the oldest dies, not the worst."""

from __future__ import annotations

import random
from collections import deque

from archloom import Architecture, ConfigError, SearchSpace, Trial, mutate, sample

from .options import at_least


class RegularizedEvolution:
    """population: P of the paper. tournament: S, how many are drawn to pick a parent from.

    mutations: how many different decisions a child changes. Infeasible and failed trials die at birth. With several
    objectives the first one is evolved.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: random.Random,
        *,
        population: int = 20,
        tournament: int = 5,
        mutations: int = 1,
    ) -> None:
        at_least("evolution", 1, mutations=mutations)
        open_choices = sum(len(choice.options) > 1 for choice in space.choices)
        if mutations > max(1, open_choices):
            raise ConfigError(
                f"evolution: mutations is {mutations}, but only {open_choices} decisions of the space have two options "
                f"or more; write at most {max(1, open_choices)}"
            )
        if not 1 <= tournament <= population:
            raise ConfigError(f"evolution: tournament must lie in 1..{population}, not {tournament}")
        self.space, self.rng = space, rng
        self.P, self.S, self.mutations = population, tournament, mutations
        self.living: deque[Trial] = deque(maxlen=population)  # appending to a full one drops the oldest

    def propose(self) -> Architecture:
        if len(self.living) < self.P:
            return sample(self.space, self.rng)
        # Algorithm 1 draws with replacement; the parent is the sample's best
        tournament = [self.rng.choice(self.living) for _ in range(self.S)]
        child = max(tournament, key=lambda trial: trial.score or 0.0).architecture
        return mutate(self.space, child, self.rng, decisions=self.mutations)

    def observe(self, trial: Trial) -> None:
        if trial.score is not None:
            self.living.append(trial)
