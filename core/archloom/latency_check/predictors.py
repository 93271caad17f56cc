"""From measured networks to a predictor: the sum of parts, and what may be learned beyond it.

A network's features are its decisions, one-hot. The sum of parts is linear in them, whatever the parts are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..architecture import Choice
from ..errors import ConfigError
from .agreement import Floats

FOLDS = 5


class Regressor(Protocol):
    """A model of scikit-learn's."""

    def fit(self, X: Floats, y: Floats) -> Any: ...

    def predict(self, X: Floats) -> Floats: ...


class SumOfParts:
    """A table's sum: a base and a cost for each option of each choice, by least squares. Where the device is
    additive and the networks span the space, it is exact."""

    def fit(self, X: Floats, y: Floats) -> SumOfParts:
        self.center = X.mean(0)
        self.base = float(y.mean())
        self.costs = np.linalg.lstsq(X - self.center, y - self.base, rcond=1e-9)[0]
        return self

    def predict(self, X: Floats) -> Floats:
        return self.base + (X - self.center) @ self.costs


@dataclass
class RobustLine:
    """Huber's line (1964), which a few networks that were measured badly do not bend; of the milliseconds, or of
    their logarithm where costs multiply rather than add."""

    logarithm: bool = False

    def fit(self, X: Floats, y: Floats) -> RobustLine:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import HuberRegressor

        self.scale = float(np.median(y))
        self.line = HuberRegressor(alpha=1e-3, max_iter=300)
        with warnings.catch_warnings():
            # a fit that stops early is judged like any other, by its error on networks that it has not seen
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.line.fit(X, np.log(y) if self.logarithm else y / self.scale)
        return self

    def predict(self, X: Floats) -> Floats:
        found: Floats = self.line.predict(X)
        # a line may fall below anything possible, but a latency is above zero
        return np.exp(found) if self.logarithm else np.maximum(found, 1e-3) * self.scale


@dataclass
class Bent:
    """A robust line and what becomes of its values: any rising function, by isotonic regression. The order of the
    networks is the line's."""

    def fit(self, X: Floats, y: Floats) -> Bent:
        from sklearn.isotonic import IsotonicRegression

        self.line = RobustLine(logarithm=True).fit(X, y)
        self.bend = IsotonicRegression(out_of_bounds="clip").fit(np.log(self.line.predict(X)), np.log(y))
        return self

    def predict(self, X: Floats) -> Floats:
        return np.exp(self.bend.predict(np.log(self.line.predict(X))))


@dataclass
class Corrected:
    """A robust line, and boosted trees on what it leaves: they see its prediction, the decisions, and how often each
    option occurs where all choices have the same ones."""

    options: int | None

    def fit(self, X: Floats, y: Floats) -> Corrected:
        from sklearn.ensemble import (
            HistGradientBoostingRegressor,
        )

        self.line = RobustLine(logarithm=True).fit(X, y)
        self.trees = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=120,
            learning_rate=0.06,
            max_leaf_nodes=8,
            early_stopping=True,
            random_state=0,
        )
        self.trees.fit(self._features(X), np.log(y / self.line.predict(X)))
        return self

    def _features(self, X: Floats) -> Floats:
        counts = [] if self.options is None else [X.reshape(len(X), -1, self.options).sum(1)]
        return np.hstack([np.log(self.line.predict(X))[:, None], *counts, X])

    def predict(self, X: Floats) -> Floats:
        return self.line.predict(X) * np.exp(self.trees.predict(self._features(X)))


def learners(choices: Sequence[Choice], columns: int) -> Mapping[str, Callable[[], Regressor]]:
    """What may be learned, by name, from rows of so many columns."""
    alike = len({choice.options for choice in choices}) == 1
    alike = alike and columns == len(choices) * len(choices[0].options)  # a column for each option
    return {
        "sum of parts": SumOfParts,
        "Huber": RobustLine,
        "Huber of the logarithm": lambda: RobustLine(logarithm=True),
        "Huber, bent": Bent,
        "boosted trees on Huber": lambda: Corrected(len(choices[0].options) if alike else None),
    }


@dataclass(frozen=True)
class Chosen:
    """The learner with the lowest cross-validated error, fitted to all of the training networks. errors: each one's
    mean absolute percentage error over the folds."""

    name: str
    model: Regressor
    errors: Mapping[str, float]


def choose(X: Floats, y: Floats, choices: Sequence[Choice]) -> Chosen:
    """The best learner by `FOLDS`-fold cross-validation of the mean absolute percentage error."""
    if len(y) < 2 * FOLDS:
        raise ConfigError(f"{len(y)} networks are too few to learn from; take at least {2 * FOLDS}")
    fold = np.arange(len(y)) % FOLDS
    errors = {}
    known = learners(choices, X.shape[1])
    for name, make in known.items():
        off = []
        for held_out in range(FOLDS):
            there = fold == held_out
            predicted = make().fit(X[~there], y[~there]).predict(X[there])
            off.append(np.abs(predicted / y[there] - 1))
        errors[name] = 100 * float(np.concatenate(off).mean())
    best = min(errors, key=lambda name: errors[name])
    return Chosen(best, known[best]().fit(X, y), errors)
