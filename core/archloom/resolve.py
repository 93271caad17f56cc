"""From a configuration to the objects of a search, with everything checked that can be checked before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from .config import ModelConfig, Part, SearchConfig, parse_part
from .context import RunContext
from .contradictions import (
    check_canonical,
    check_executor,
    check_fit,
    check_needs,
    check_owned_head,
    check_together,
    without_task,
)
from .defaults import executor_of, named
from .errors import ArchloomError, ConfigError, UnknownName
from .estimator import Context, Estimator, Metric
from .factories import WITHOUT_FIT, Entry, Kind
from .hypervolume import check_reference
from .measuring import Measurer, Watch, unwatched
from .metrics import check_scoring
from .model import GlobalAverage, LinearHead, ModelParts
from .objective import Constraint, Objective, Picking
from .plugins import Host
from .ranks import Ranks
from .space import SearchSpace
from .strategy import Recorded
from .task import Task
from .training import Recipe


@dataclass(frozen=True)
class Maker:
    """A registered factory with its checked options, to be called with what the engine hands in."""

    entry: Entry
    options: Mapping[str, Any]

    def __call__(self, **available: Any) -> Any:
        return self.entry.make(self.options, **available)


@dataclass(frozen=True)
class Resolved:
    """A configuration's objects. `method` trains a supernet; `strategy` proposes (None: the method does)."""

    config: SearchConfig
    host: Host
    space: SearchSpace
    task: Task | None
    parts: ModelParts
    estimators: Sequence[Estimator]
    metrics: Mapping[str, Metric]
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    picking: Picking | None
    recipe: Recipe
    method: Maker | None
    strategy: Maker | None
    executor: Maker
    device: torch.device

    def context(self, ranks: Ranks, recorded: Recorded, *, seed: int | None = None) -> RunContext:
        """What this run's parts are made from; `seed` where it is another one than the configuration's."""
        context = RunContext(
            space=self.space,
            task=cast(Task, self.task),  # whoever needs one is refused where there is none
            model=self.parts,
            seed=self.config.seed if seed is None else seed,
            device=self.device,
            precision=self.config.precision,
            recorded=recorded,
            ranks=ranks,
            objectives=tuple(self.objectives),
            metrics=self.metrics,
            constraints=tuple(self.constraints),
        )
        return context.counting(self.estimators)

    @property
    def data(self) -> Task:
        """The task; a ConfigError in a run without one."""
        if self.task is None:
            raise ConfigError(
                "this run has no task (task: null), and nothing can be trained without one; name a task"
            )
        return self.task

    def measurer(self, context: Context, watch: Watch = unwatched) -> Measurer:
        """What measures with the configured estimators and constraints."""
        parts = self.config.estimators
        return Measurer(
            self.space,
            self.estimators,
            self.constraints,
            context,
            self.config.strict,
            names=tuple(part.type for part in parts),
            timeouts=tuple(part.timeout for part in parts),
            watch=watch,
        )


def resolve(config: SearchConfig, host: Host) -> Resolved:
    """Look everything up, check every option, and check that the parts fit one another."""
    given, config = config, named(config, host)
    method, strategy = _who(config, host)
    _check_options(config, host)  # all of them before anything is made, which takes time and libraries
    space = make(host, "space", config.space)
    task = cache(
        lambda: None if config.task is None else make(host, "task", config.task)
    )  # takes libraries too
    estimators = [_estimator(host, part, task) for part in config.estimators]
    part = executor_of(config, host)
    where = host.get("executor", part.type)
    executor = Maker(where, where.validate(part.options))
    metrics = _metrics(estimators)
    entries = [maker.entry for maker in (method, strategy) if maker is not None]
    check_needs(config, space, entries, estimators, supernet=method is not None)
    check_executor(config, host, executor.entry, estimators)
    check_canonical(config, space)
    objectives = [_objective(name, metrics, "objectives") for name in config.objectives]
    constraints = [_constraint(text, metrics) for text in config.constraints]
    check_together(config, constraints, estimators, supernet=method is not None)
    picking = _picking(config, metrics)
    check_reference(config.reference, config.objectives)
    resolved = Resolved(
        config=config,
        host=host,
        space=space,
        task=task(),
        parts=model_parts(host, config.model),
        estimators=estimators,
        metrics=metrics,
        objectives=objectives,
        constraints=constraints,
        picking=picking,
        recipe=make(host, "recipe", config.recipe),
        method=method,
        strategy=strategy,
        executor=executor,
        device=device_of(config.device),
    )
    check_owned_head(given, space)
    if resolved.task is not None:
        check_fit(config, space, resolved.task, resolved.parts, supernet=method is not None)
        for estimator in estimators:
            if hasattr(estimator, "check"):
                estimator.check(space, resolved.task, resolved.parts)
    if config.verdict.seeds and config.verdict.cost not in metrics:
        raise ConfigError(
            f"verdict.cost is '{config.verdict.cost}', which no estimator here measures; there are {', '.join(metrics)}"
        )
    if getattr(space, "owns_head", False):
        config = config.model_copy(
            update={"model": config.model.model_copy(update={"neck": None, "head": None})}
        )
    return replace(resolved, config=completed(config, host))


def _estimator(host: Host, part: Part, task: Callable[[], Task | None]) -> Estimator:
    """An estimator; the task is made where its factory asks for it."""
    asks = "task" in host.get("estimator", part.type).injected
    if asks and task() is None:
        raise ConfigError(without_task(part.type))
    made: Estimator = make(host, "estimator", part, task=task()) if asks else make(host, "estimator", part)
    return made


def _check_options(config: SearchConfig, host: Host) -> None:
    parts: list[tuple[Kind, Part]] = [
        ("space", config.space),
        ("recipe", config.recipe),
        ("executor", executor_of(config, host)),
    ]
    parts += [("task", part) for part in (config.task,) if part is not None]
    parts += [("estimator", part) for part in config.estimators]
    parts += [("observer", part) for part in config.observers]
    for kind, part in parts:
        host.get(kind, part.type).validate(part.options)


def completed(config: SearchConfig, host: Host) -> SearchConfig:
    """The configuration with every option of every part written out: what it means, whatever later defaults are."""

    config = named(config, host)

    def whole(kind: Kind, part: Part, prefix: str = "") -> Part:
        own = {"in_channels", "num_classes"} if prefix == "head." else set()
        given = {name: option for name, option in part.options.items() if name not in own}
        rest = {name: option for name, option in part.options.items() if name in own}
        options = host.get(kind, prefix + part.type).complete(given)
        return part.model_copy(update={"options": {**options, **rest}})

    kinds: dict[str, Kind] = {
        "space": "space",
        "task": "task",
        "method": "strategy",
        "strategy": "strategy",
        "recipe": "recipe",
    }
    parts = {name: part for name in kinds if (part := getattr(config, name)) is not None}
    executor = None if config.executor is None else whole("executor", executor_of(config, host))
    model = {
        name: whole("component", part, f"{name}.")
        for name in ("neck", "head", "loss")
        if (part := getattr(config.model, name)) is not None
    }
    return config.model_copy(
        update={
            **{name: whole(kinds[name], part) for name, part in parts.items()},
            "estimators": [whole("estimator", part) for part in config.estimators],
            "observers": [whole("observer", part) for part in config.observers],
            "executor": executor,
            "model": config.model.model_copy(update=model),
        }
    )


def device_of(name: str) -> torch.device:
    """The device, if it is there; a ConfigError if not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"'{name}' is no device; write cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but PyTorch sees no GPU here; use --device cpu")
    return device


def model_parts(host: Host, config: ModelConfig) -> ModelParts:
    """Neck, head and loss by name, their options checked. They stand behind a space's networks.

    `in_channels` and `num_classes` may stand among the head's options; they are compared with what is found.
    """
    if config.backbone is not None:
        raise ConfigError(
            f"model.backbone is '{config.backbone.type}', but here the search space supplies the backbone; leave it "
            "out, or build a network without a space (archloom.assembly.build_model)"
        )
    config = named(config, host)
    neck = checked_component(host, "neck", config.neck) if config.neck else GlobalAverage
    head = _head(host, config.head) if config.head else LinearHead
    return ModelParts(neck=neck, head=head, loss=checked_component(host, "loss", config.loss))


def checked_component(host: Host, kind: str, part: Part) -> Maker:
    """The maker of a component, its options checked."""
    known = [n.removeprefix(f"{kind}.") for n in host.names("component") if n.startswith(f"{kind}.")]
    if part.type not in known:
        raise UnknownName(kind, part.type, known)
    entry = host.get("component", f"{kind}.{part.type}")
    return Maker(entry, entry.validate(part.options, f"{kind} '{part.type}'"))


def _head(host: Host, part: Part) -> Callable[[int, int], nn.Module]:
    given = {name: part.options[name] for name in ("in_channels", "num_classes") if name in part.options}
    own = {name: option for name, option in part.options.items() if name not in given}
    maker = checked_component(host, "head", Part(type=part.type, options=own))
    for name, number in given.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ConfigError(
                f"head '{part.type}': {name} must be a whole number of at least 1, not {number!r}"
            )

    def head(in_channels: int, num_classes: int) -> nn.Module:
        found = {
            "in_channels": (in_channels, "backbone and neck give", "channels"),
            "num_classes": (num_classes, "the task has", "classes"),
        }
        for name, number in given.items():
            actual, giver, unit = found[name]
            if number != actual:
                raise ConfigError(
                    f"head '{part.type}': {name} = {number}, but {giver} {actual} {unit}; leave {name} out, "
                    "since it is found"
                )
        module: nn.Module = maker(in_channels=in_channels, num_classes=num_classes)
        return module

    return head


def make(
    host: Host, kind: Kind, part: Part | str | Mapping[str, Any], where: str = "", **available: Any
) -> Any:
    """The object that a part of a configuration means: `make(host, "task", "digits")`, or {"type": ..., option: ...}.

    where: what a message calls a part that cannot be meant; its kind, if nothing is said. available: what is handed to
    its factory besides the host.
    """
    part = parse_part(part, where or kind)
    entry = host.get(kind, part.type)
    options = entry.validate(part.options)
    try:
        made = entry.make(options, host=host, **available)
    except ArchloomError:
        raise
    except Exception as error:
        raise ConfigError(f"{kind} '{part.type}' cannot be made: {type(error).__name__}: {error}") from error
    if kind == "task":
        check_scoring(made)
    return made


def _who(config: SearchConfig, host: Host) -> tuple[Maker | None, Maker | None]:
    def maker(part: Part | None) -> Maker | None:
        if part is None:
            return None
        entry = host.get("strategy", part.type)
        return Maker(entry, entry.validate(part.options))

    method, strategy = maker(config.method), maker(config.strategy)
    if method is None and strategy is None:
        raise ConfigError("the configuration names neither a 'strategy' nor a 'method'; name one of them")
    if method is None and strategy is not None and strategy.entry.shares_weights:
        method, strategy = strategy, None
    if method is not None and not method.entry.shares_weights:
        raise ConfigError(
            f"'{method.entry.name}' trains no supernet, so it cannot be the 'method'; make it the 'strategy' "
            f"({WITHOUT_FIT})"
        )
    if strategy is not None and strategy.entry.shares_weights:
        raise ConfigError(
            f"'{strategy.entry.name}' trains a supernet; make it the 'method', and leave the 'strategy' out or "
            "name one that only proposes"
        )
    factory = None if method is None else method.entry.factory
    if (
        method is not None
        and strategy is None
        and isinstance(factory, type)
        and not hasattr(factory, "propose")
    ):
        raise ConfigError(f"method '{method.entry.name}' only trains; name a 'strategy' that proposes")
    return method, strategy


def _metrics(estimators: Sequence[Estimator]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for estimator in estimators:
        for metric in estimator.metrics:
            if metric.name in metrics:
                raise ConfigError(f"two estimators measure '{metric.name}'; keep one of them")
            metrics[metric.name] = metric
    return metrics


def _objective(name: str, metrics: Mapping[str, Metric], where: str) -> Objective:
    if name not in metrics:
        raise UnknownName("metric", name, metrics, f"({where} can use what the estimators measure.)")
    return Objective(name, metrics[name].direction)


def _constraint(text: str, metrics: Mapping[str, Metric]) -> Constraint:
    constraint = Constraint.parse(text)
    if constraint.metric not in metrics:
        raise UnknownName(
            "metric",
            constraint.metric,
            metrics,
            f"(The constraint '{text}' can use what the estimators measure.)",
        )
    return constraint


def _picking(config: SearchConfig, metrics: Mapping[str, Metric]) -> Picking | None:
    if config.pick is None:
        return None
    within = [(_objective(name, metrics, "pick"), margin) for name, margin in config.pick.within.items()]
    return Picking(_objective(config.pick.best, metrics, "pick"), within)
