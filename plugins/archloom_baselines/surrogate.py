"""A Bayesian linear model on the decisions, and proposals by its upper confidence bound."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from archloom import (
    Architecture,
    ConfigError,
    SearchSpace,
    Trial,
    UnknownName,
    mutate,
    sample,
    size,
    violations,
)
from archloom.space import Encoding, everything

from .options import at_least

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Architectures with their rows: X as the model sees them, (n, encoding); parts for their costs, (n, one-hot)."""

    architectures: list[Architecture]
    X: Floats
    parts: Floats


class Surrogate:
    """`initial` random architectures, then batches of the highest mean + kappa * sigma, the model refitted for each.

    What is modelled is a score's rank among those observed, as a quantile of the standard normal: a few networks that
    fail badly would otherwise bend the whole line (Salinas, Shen, Perrone: A Quantile-based Approach for
    Hyperparameter Transfer Learning, ICML 2020, section 4).

    initial, batch, kappa: as above; sigma is the model's own uncertainty of the mean and its noise together.
    costs: metrics of the trials that are sums over the decisions, such as macs or params. Their logarithms are
        features beside the encoded decisions. What an unmeasured architecture costs is learnt from the measured
        ones by least squares, exactly once their decisions span the space, so nothing is built or counted here.
    pool: how many architectures are judged. A space that is not larger is judged whole; of a larger one, half are
        random and half are mutants of the best.

    With several objectives the first one is modelled. Infeasible and failed trials tell the model only what they
    cost. The model is scikit-learn's BayesianRidge (MacKay, Neural Computation 4(3), 1992; Tipping, JMLR 1, 2001).
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: random.Random,
        metrics: Sequence[str] | None = None,
        *,
        initial: int = 10,
        batch: int = 5,
        kappa: float = 0.5,
        costs: list[str] | None = None,
        pool: int = 10_000,
    ) -> None:
        at_least("surrogate", 2, initial=initial)
        at_least("surrogate", 1, batch=batch)
        at_least("surrogate", batch, pool=pool)
        self.space, self.rng = space, rng
        self.initial, self.batch, self.kappa, self.pool = initial, batch, kappa, pool
        self.costs = tuple(costs or ())
        if unknown := [name for name in self.costs if metrics is not None and name not in metrics]:
            raise UnknownName(
                "metric", unknown[0], metrics or (), "(surrogate: costs are what estimators measure.)"
            )
        self.encoding = Encoding(space.choices)
        # what an ordered option costs need not rise evenly from one to the next, so costs have a column for each
        self.parts = Encoding(space.choices, numbers=False)
        self.whole = self._pool(list(everything(space))) if size(space) <= pool else None
        self.proposed: dict[Architecture, None] = {}  # in order: a set's order differs between processes
        self.observed: dict[Architecture, Trial] = {}
        self.queue: list[Architecture] = []

    def propose(self) -> Architecture | None:
        if not self.queue:
            ok = [trial for trial in self.observed.values() if trial.score is not None]
            ready = len(self.proposed) >= min(self.initial, size(self.space)) and len(ok) >= 2
            self.queue = self._promising(ok) if ready else [sample(self.space, self.rng)]
        if not self.queue:
            return None
        self.proposed[self.queue[0]] = None
        return self.queue.pop(0)

    def observe(self, trial: Trial) -> None:
        for name in self.costs if trial.score is not None else ():
            if not trial.metrics.get(name, 0.0) > 0.0:
                raise ConfigError(
                    f"surrogate: costs names '{name}', which trial {trial.number} has not, or not above 0; it has "
                    f"{', '.join(trial.metrics) or 'no metrics'}. Add the estimator, or leave it out"
                )
        self.observed[trial.architecture] = trial

    def _promising(self, ok: Sequence[Trial]) -> list[Architecture]:
        """The batch: of those never proposed the highest mean + kappa * sigma, ties in the pool's order."""
        from sklearn.linear_model import BayesianRidge  # takes a second, which only its users should spend

        pool = self._candidates(ok)
        fresh = [n for n, one in enumerate(pool.architectures) if one not in self.proposed]
        if not fresh:
            return []
        measured = self._pool([trial.architecture for trial in ok])
        y = normal_scores([trial.score or 0.0 for trial in ok])
        judge = BayesianRidge().fit(self._features(measured.X, measured.parts), y)
        mean, sigma = judge.predict(self._features(pool.X[fresh], pool.parts[fresh]), return_std=True)
        order = np.argsort(-(mean + self.kappa * sigma), kind="stable")
        best = (pool.architectures[fresh[n]] for n in order)
        allowed = (architecture for architecture in best if not violations(self.space, architecture))
        return list(itertools.islice(allowed, self.batch))

    def _features(self, X: Floats, parts: Floats) -> Floats:
        """(n, encoding) and (n, one-hot) -> (n, encoding + costs)."""
        return np.hstack([X, *(self._log_cost(name, parts)[:, None] for name in self.costs)])

    def _log_cost(self, name: str, parts: Floats) -> Floats:
        """(n, one-hot) -> (n,): the logarithm of a cost relative to the mean of those known."""
        known = [trial for trial in self.observed.values() if trial.metrics.get(name, 0.0) > 0.0]
        costs = np.array([trial.metrics[name] for trial in known])
        design = self.parts.of([trial.architecture for trial in known])
        # relative and centred: of the many solutions while decisions are few, lstsq takes the most even one
        offset = design.mean(0)
        weights = np.linalg.lstsq(design - offset, costs / costs.mean() - 1.0, rcond=1e-9)[0]
        predicted = 1.0 + (parts - offset) @ weights
        # an extrapolation may fall below anything possible, where the logarithm ends
        return np.log(np.maximum(predicted, 0.5 * costs.min() / costs.mean()))

    def _candidates(self, ok: Sequence[Trial]) -> Pool:
        if self.whole is not None:
            return self.whole
        best = sorted(ok, key=lambda trial: (-(trial.score or 0.0), trial.number))[: self.batch]
        pool = [sample(self.space, self.rng) for _ in range(self.pool - self.pool // 2)]
        for _ in range(self.pool // 2):
            mutant = mutate(self.space, self.rng.choice(best).architecture, self.rng)
            pool.append(mutate(self.space, mutant, self.rng) if self.rng.random() < 0.5 else mutant)
        return self._pool(list(dict.fromkeys(pool)))

    def _pool(self, architectures: list[Architecture]) -> Pool:
        X = self.encoding.of(architectures)
        parts = X if self.parts.columns == self.encoding.columns else self.parts.of(architectures)
        return Pool(architectures, X, parts)


def normal_scores(values: Sequence[float]) -> Floats:
    """(n,): each value's rank as a quantile of the standard normal; equal values share their mean rank."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1
    quantile = NormalDist().inv_cdf
    return np.array([quantile((ranks[n] - 0.5) / len(values)) for n in inverse])
