"""Grid search: every architecture of a space, once, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from archloom.architecture import Architecture
from archloom.space import SearchSpace, violations
from archloom.trial import Trial


class GridSearch:
    """All architectures that the space itself allows, the last choice changing fastest; then the search ends."""

    def __init__(self, space: SearchSpace) -> None:
        self.remaining = _allowed(space)

    def propose(self) -> Architecture | None:
        return next(self.remaining, None)

    def observe(self, trial: Trial) -> None:
        pass


def _allowed(space: SearchSpace) -> Iterator[Architecture]:
    names = [choice.name for choice in space.choices]
    for options in itertools.product(*(choice.options for choice in space.choices)):
        architecture = Architecture(dict(zip(names, options, strict=True)))
        if not violations(space, architecture):
            yield architecture
