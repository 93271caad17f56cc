"""Optuna's samplers as strategies: asked and told, one trial of Optuna's for each proposal.

Optuna (Akiba, Sano, Yanase, Ohta, Koyama, KDD 2019) is an optional dependency: pip install "archloom[optuna]".
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from archloom import (
    Architecture,
    Choice,
    ConfigError,
    Objective,
    Option,
    SearchSpace,
    Trial,
    UnknownName,
    decide,
    derive_seed,
)

SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
    "bruteforce": "BruteForceSampler",
}
"""Short names; a class of `optuna.samplers` may be named as well."""

ORDERED = ("CmaEsSampler",)
"""Samplers that know numbers alone: each choice is given to them as the position of its option."""

RULE = "feasible"


class OptunaSampler:
    """Any sampler of Optuna's by name, with one objective or several.

    sampler: tpe, nsga2, nsga3, random, gp, cmaes, qmc, bruteforce, or a class of optuna.samplers. options: the
    sampler's own, such as {population_size: 20}. ordered: give all choices as positions in the order of their options,
    as those that the space calls ordered always are, and as cmaes needs them. A choice that is not active is not
    suggested.

    An infeasible trial is told as one that breaks a constraint, with the worst scores seen; a failed one as failed.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        objectives: Sequence[Objective],
        *,
        sampler: str = "tpe",
        options: dict[str, Any] | None = None,
        ordered: bool = False,
    ) -> None:
        optuna = _optuna()
        kind = _sampler(optuna, sampler)
        self.space = space
        self.ordered = ordered or kind.__name__ in ORDERED
        known = set(inspect.signature(kind).parameters)
        if unknown := set(options or {}) - known:
            raise ConfigError(
                f"optuna: sampler '{sampler}' has no option '{sorted(unknown)[0]}'; it has: {', '.join(sorted(known))}"
            )
        given = {**(options or {}), "seed": derive_seed(seed, "optuna") % 2**32}
        with _quiet():
            try:
                made = kind(**{name: value for name, value in given.items() if name in known})
                self.study = optuna.create_study(directions=["maximize"] * len(objectives), sampler=made)
            except (TypeError, ValueError, ImportError) as error:
                raise ConfigError(f"optuna: sampler '{sampler}' cannot be made: {error}") from error
        self.failed = optuna.trial.TrialState.FAIL
        self.open: dict[Architecture, list[Any]] = {}
        self.worst: list[float] | None = None

    def propose(self) -> Architecture:
        with _quiet():
            trial = self.study.ask()
            architecture = decide(self.space, lambda choice: self._suggest(trial, choice))
        self.open.setdefault(architecture, []).append(trial)
        return architecture

    def _suggest(self, trial: Any, choice: Choice) -> Option:
        positions = range(len(choice.options))
        if self.ordered or choice.ordered:
            return choice.options[trial.suggest_int(choice.name, 0, positions[-1])]
        # by position: 1 and True are one category to Optuna, and are two options here
        return choice.options[trial.suggest_categorical(choice.name, tuple(positions))]

    def observe(self, trial: Trial) -> None:
        asked = self.open[trial.architecture].pop(0)
        if not self.open[trial.architecture]:
            del self.open[trial.architecture]
        scores = None if trial.scores is None else list(trial.scores)
        if scores is not None:
            self.worst = (
                scores if self.worst is None else [min(p) for p in zip(self.worst, scores, strict=True)]
            )
        with _quiet():
            if scores is None and (trial.status == "failed" or self.worst is None):
                self.study.tell(asked, state=self.failed)
                return
            asked.set_constraint(RULE, -1.0 if scores is not None else 1.0)  # above 0 is broken
            self.study.tell(asked, self.worst if scores is None else scores)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "strategy 'optuna' needs Optuna, which is not installed: pip install \"archloom[optuna]\""
        ) from error
    return optuna


def _sampler(optuna: Any, name: str) -> Any:
    classes = [
        one for one in dir(optuna.samplers) if one.endswith("Sampler") and not one.startswith(("Base", "_"))
    ]
    wanted = SAMPLERS.get(name, name)
    if wanted not in classes:
        raise UnknownName("sampler of Optuna's", name, [*SAMPLERS, *classes])
    return getattr(optuna.samplers, wanted)


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither Optuna's log lines nor its warnings of experimental classes: those were asked for by name."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
