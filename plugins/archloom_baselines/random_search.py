"""Random search, the baseline that is always drawn."""

from __future__ import annotations

import random

from archloom import Architecture, SearchSpace, Trial, sample


class RandomSearch:
    """Uniform over the decisions, without end; the budget stops it."""

    def __init__(self, space: SearchSpace, rng: random.Random) -> None:
        self.space, self.rng = space, rng

    def propose(self) -> Architecture:
        return sample(self.space, self.rng)

    def observe(self, trial: Trial) -> None:
        pass
