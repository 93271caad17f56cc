"""Grid search: every architecture of a space, once, in order."""

from __future__ import annotations

from archloom import Architecture, SearchSpace, Trial, violations
from archloom.space import everything


class GridSearch:
    """All architectures that the space itself allows, the last choice changing fastest; then the search ends."""

    def __init__(self, space: SearchSpace) -> None:
        self.remaining = (one for one in everything(space) if not violations(space, one))

    def propose(self) -> Architecture | None:
        return next(self.remaining, None)

    def observe(self, trial: Trial) -> None:
        pass
