"""Parts of a configuration that are each right and cannot be meant together: said before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .config import DEFAULT, SearchConfig
from .errors import ArchloomError, ConfigError
from .estimator import Estimator
from .factories import OFFERS, Entry
from .model import ModelParts, assemble, assemble_shared
from .objective import Constraint
from .plugins import Host
from .shared import an_architecture, offers
from .space import SearchSpace
from .task import Task


def check_together(
    config: SearchConfig,
    constraints: Sequence[Constraint],
    estimators: Sequence[Estimator],
    *,
    supernet: bool,
) -> None:
    """A ConfigError where objectives, constraints or budget contradict themselves, or what is measured."""
    if config.task is None:
        _check_without_task(config, estimators, supernet)
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


def _check_without_task(config: SearchConfig, estimators: Sequence[Estimator], supernet: bool) -> None:
    if supernet:
        name = (config.method or config.strategy or config.space).type
        raise ConfigError(
            f"method '{name}' trains a supernet, and there are no data to train it on (task: null); name a task, or a "
            "'strategy' that only proposes"
        )
    if config.verdict.seeds:
        raise ConfigError(
            "the verdict trains networks from scratch, and there are no data to train them on (task: null); leave "
            "verdict.seeds out, set it to 0, or name a task"
        )
    for part, estimator in zip(config.estimators, estimators, strict=True):
        if {"task", "supernet"} & set(getattr(estimator, "needs", ())):
            raise ConfigError(without_task(part.type))


def without_task(name: str) -> str:
    """Why an estimator cannot be used in a run without a task, and the way out."""
    return (
        f"estimator '{name}' measures networks on a task, and there is none (task: null); name a task, or estimators "
        "that need none: estimators: [{type: function, path: train.py:evaluate, metrics: accuracy}]"
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


def check_owned_head(given: SearchConfig, space: SearchSpace) -> None:
    """A ConfigError where a configuration names a neck or a head for networks that own their head."""
    parts = {"head": given.model.head, "neck": given.model.neck}
    own = [key for key, part in parts.items() if part is not None and part.type != DEFAULT]
    if own and getattr(space, "owns_head", False):
        raise ConfigError(
            f"the networks of space '{given.space.type}' own their head; leave {' and '.join(own)} out of model"
        )


def _inputs(task: Task) -> str:
    sizes = "x".join(map(str, task.shape))
    return (
        f"images are {sizes} (channels x height x width)" if len(task.shape) == 3 else f"inputs are {sizes}"
    )


def check_fit(
    config: SearchConfig, space: SearchSpace, task: Task, parts: ModelParts, *, supernet: bool
) -> None:
    """Assemble one architecture, and the supernet where there is one, without computing anything."""
    try:
        assemble(space, an_architecture(space), task, parts, seed=0)
        if supernet:
            assemble_shared(space, task, parts, seed=0)
    except ArchloomError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"space '{config.space.type}' does not fit task '{config.task and config.task.type}', whose "
            f"{_inputs(task)}: {error}"
        ) from error


_MEANING = {
    "supernet": "shares weights (has 'candidate' and 'around'; 'layers', 'candidate' and 'wire'; or 'shared')",
    "differentiable": "can be mixed (shares weights, all options of a decision with one output shape)",
}


def check_needs(
    config: SearchConfig,
    space: SearchSpace,
    entries: Sequence[Entry],
    estimators: Sequence[Estimator],
    *,
    supernet: bool,
) -> None:
    """A ConfigError where the method or the strategy (`entries`), or an estimator, needs what nothing here offers."""
    offered = offers(space)
    if any(hasattr(estimator, "epochs_at") for estimator in estimators):
        offered.add("fidelity")
    for entry in entries:
        for need in entry.needs:
            if need == "fidelity" and need not in offered:
                raise ConfigError(
                    f"strategy '{entry.name}' measures most architectures by a part of the full effort, and no "
                    "estimator here can do less than all of it (has 'epochs_at', as 'accuracy' does)"
                )
            if need not in offered:
                raise ConfigError(
                    f"strategy '{entry.name}' needs a space that {_MEANING.get(need, f'offers {need!r}')}; "
                    f"space '{config.space.type}' does not. Choose another space, or a strategy that only proposes"
                    f"{entry.trains_unsaid}"
                )
    for part, estimator in zip(config.estimators, estimators, strict=True):
        if "supernet" in getattr(estimator, "needs", ()) and not supernet:
            raise ConfigError(
                f"estimator '{part.type}' uses a supernet's weights, and no 'method' here trains one; name a method, "
                "or estimate by training"
            )
