"""Parts of a configuration that are each right and cannot be meant together: said before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .config import SearchConfig
from .errors import ConfigError
from .estimator import Estimator
from .factories import OFFERS, Entry
from .objective import Constraint
from .plugins import Host


def check_together(
    config: SearchConfig,
    constraints: Sequence[Constraint],
    estimators: Sequence[Estimator],
    *,
    supernet: bool,
) -> None:
    """A ConfigError where objectives, constraints or budget contradict themselves, or what is measured."""
    for name in config.objectives:
        if config.objectives.count(name) > 1:
            raise ConfigError(f"'objectives' names '{name}' twice; keep one of them")
    _check_bounds(constraints)
    budget, trains = config.budget, supernet or any(_trains(one) for one in estimators)
    if budget.epochs is not None and budget.trials is None and budget.seconds is None and not trains:
        raise ConfigError(
            "the budget counts epochs, and nothing here trains, so it would never be spent; write budget.trials or "
            "budget.seconds"
        )

    pricer = next((e for e in estimators if config.verdict.cost in [m.name for m in e.metrics]), None)
    if config.verdict.seeds and pricer and (_trains(pricer) or "supernet" in getattr(pricer, "needs", ())):
        raise ConfigError(
            f"verdict.cost is '{config.verdict.cost}', which takes training, and many random networks are asked for "
            "their cost; name a metric that is counted, looked up or timed"
        )


def check_canonical(config: SearchConfig, space: Any) -> None:
    """A ConfigError where equal networks are to be measured once, and nothing says which are equal."""
    if config.canonical and not callable(getattr(space, "canonical", None)):
        raise ConfigError(
            f"canonical: true needs a space that says which architectures are the same network, and "
            f"'{config.space.type}' has no canonical(architecture). Leave the key out"
        )


def _trains(estimator: Estimator) -> bool:
    return bool(getattr(estimator, "epochs", 0)) or hasattr(estimator, "epochs_at")


def _check_bounds(constraints: Sequence[Constraint]) -> None:
    for low in (one for one in constraints if one.sign in (">=", ">")):
        for high in (one for one in constraints if one.metric == low.metric and one.sign in ("<=", "<")):
            empty = low.bound == high.bound and not (low.sign == ">=" and high.sign == "<=")
            if low.bound > high.bound or empty:
                raise ConfigError(f"the constraints '{low}' and '{high}' leave no value between them")


def check_executor(
    config: SearchConfig, host: Host, executor: Entry, estimators: Sequence[Estimator]
) -> None:
    """A ConfigError where the executor cannot do what an estimator asks for."""
    can = {
        word: [e.name for e in host.entries("executor") if word in e.offers] for word in OFFERS["executor"]
    }
    if config.executor is not None:
        way_out = f"measure in this process: executor {_either(can['supernet'])}"
    else:
        way_out = "set workers to 1" if (config.workers or 1) > 1 else "leave every timeout out"
    for part, estimator in zip(config.estimators, estimators, strict=True):
        if "supernet" in getattr(estimator, "needs", ()) and "supernet" not in executor.offers:
            raise ConfigError(f"estimator '{part.type}' uses this process's supernet; {way_out}")
        if part.timeout is not None and "timeout" not in executor.offers:
            raise ConfigError(
                f"estimator '{part.type}' has a timeout, and executor '{executor.name}' cannot end an estimate; leave "
                f"the timeout out, or name the executor {_either(can['timeout'])}"
            )


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
