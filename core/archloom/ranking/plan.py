"""From a configuration to what is compared, with everything checked that can be checked before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..architecture import Architecture
from ..context import RunContext, remembered
from ..defaults import executor_of, named
from ..errors import ConfigError, SpaceError, UnknownName
from ..estimator import Estimator, Metric
from ..factories import WITHOUT_FIT
from ..objective import Objective
from ..plugins import Host
from ..randomness import python_rng
from ..ranks import Ranks
from ..resolve import Maker, device_of, make, model_parts
from ..shared import offers
from ..space import SearchSpace, draw, everything, size, violations
from ..task import Task
from .agreement import LEAST
from .config import RankConfig

BASELINES: Mapping[str, str] = {"params": "parameters", "macs": "MACs"}
"""Counted for every network, with their units. A predictor below them is worse than counting."""

LARGE = 1_000_000
"""A space of more architectures is not listed."""


@dataclass(frozen=True)
class Predictor:
    """One thing that estimates: an estimator, with one of the supernets or without; `prefix` stands before the
    names of its metrics."""

    prefix: str
    estimator: Estimator
    supernet: str | None = None

    @property
    def key(self) -> str:
        """Its name among the estimates."""
        return self.prefix + ", ".join(metric.name for metric in self.estimator.metrics)


@dataclass(frozen=True)
class Plan:
    """A configuration's objects. `supernets`: label -> the method that trains it."""

    config: RankConfig
    host: Host
    truth: Estimator
    supernets: Mapping[str, Maker]
    predictors: Sequence[Predictor]
    context: RunContext
    networks: Sequence[Architecture]
    executor: Maker

    @property
    def measure(self) -> Metric:
        """The truth's metric."""
        return next(metric for metric in self.truth.metrics if metric.name == self.config.metric)

    def names(self, predictor: Predictor) -> list[str]:
        """The rows that a predictor adds: its metrics, but for the baselines and the truth itself."""
        known = () if predictor.supernet else (*BASELINES, self.config.metric)
        return [predictor.prefix + m.name for m in predictor.estimator.metrics if m.name not in known]


def make_plan(config: RankConfig, host: Host) -> Plan:
    """Look everything up, check every option, and draw the networks."""
    config = named(config, host)
    space: SearchSpace = make(host, "space", config.space)
    task: Task = make(host, "task", config.task)
    truth: Estimator = make(host, "estimator", config.truth, task=task)
    if config.metric not in (known := [m.name for m in truth.metrics]):
        raise UnknownName("metric", config.metric, known, f"('{config.truth.type}' is the truth here.)")
    if "supernet" in getattr(truth, "needs", ()):
        raise ConfigError(f"'{config.truth.type}' needs a supernet, so it cannot be the truth")
    supernets = _supernets(config, host, space)
    predictors = _predictors(config, host, supernets, task)
    plan = Plan(
        config,
        host,
        truth,
        supernets,
        predictors,
        _context(config, host, space, task, [truth, *(predictor.estimator for predictor in predictors)]),
        _networks(config, space, truth),
        _executor(config, host),
    )
    names = [name for predictor in plan.predictors for name in plan.names(predictor)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two predictors measure '{twice}'; keep one of them")
    if len(plan.networks) < LEAST:
        raise ConfigError(f"{len(plan.networks)} networks show no order; at least {LEAST} are needed")
    if config.top >= len(plan.networks):
        raise ConfigError(f"top is {config.top}, of {len(plan.networks)} networks; it must be fewer")
    return plan


def _executor(config: RankConfig, host: Host) -> Maker:
    part = executor_of(config, host)
    entry = host.get("executor", part.type)
    return Maker(entry, entry.validate(part.options))


def _context(
    config: RankConfig, host: Host, space: SearchSpace, task: Task, estimators: Sequence[Estimator]
) -> RunContext:
    """What supernets are made from, and estimates with. The objective is the metric of the truth, the first one."""
    metrics = {metric.name: metric for estimator in reversed(estimators) for metric in estimator.metrics}
    return RunContext(
        space=space,
        task=task,
        model=model_parts(host, config.model),
        seed=config.seed,
        device=device_of(config.device),
        precision=config.precision,
        recorded=remembered(),
        ranks=Ranks(),
        objectives=(Objective(config.metric, metrics[config.metric].direction),),
        metrics=metrics,
    )


def _supernets(config: RankConfig, host: Host, space: SearchSpace) -> dict[str, Maker]:
    """Label -> method; a second one of the same name is numbered."""
    made: dict[str, Maker] = {}
    for part in config.supernets:
        entry = host.get("strategy", part.type)
        if not entry.shares_weights:
            raise ConfigError(
                f"'{part.type}' trains no supernet, so it cannot be among the supernets ({WITHOUT_FIT})"
            )
        if lacking := [need for need in entry.needs if need not in offers(space)]:
            raise ConfigError(
                f"supernet '{part.type}' needs a space that offers '{lacking[0]}'; space '{config.space.type}' does not"
            )
        same = sum(maker.entry.name == part.type for maker in made.values())
        label = f"{part.type} {same + 1}" if same else part.type
        made[label] = Maker(entry, entry.validate(part.options))
    return made


def _predictors(
    config: RankConfig, host: Host, supernets: Mapping[str, Maker], task: Task
) -> list[Predictor]:
    predictors: list[Predictor] = []
    for part in config.predictors:
        estimator: Estimator = make(host, "estimator", part, task=task)
        if "supernet" not in getattr(estimator, "needs", ()):
            predictors.append(Predictor("", estimator))
        elif supernets:
            predictors += [Predictor(f"{label}: ", estimator, label) for label in supernets]
        else:
            raise ConfigError(
                f"predictor '{part.type}' uses a supernet's weights, and no supernet is named; add supernets: [...]"
            )
    if supernets and not any(p.supernet for p in predictors):
        able = [e.name for e in host.entries() if e.kind == "estimator" and "supernet" in e.needs]
        raise ConfigError(
            "supernets are named, but no predictor uses their weights; add one of: "
            f"{', '.join(able) or 'none is registered'}"
        )
    # those of one supernet stand together, so that one is trained and in memory at a time
    order = [None, *supernets]
    return sorted(predictors, key=lambda predictor: order.index(predictor.supernet))


def _networks(config: RankConfig, space: SearchSpace, truth: Estimator) -> list[Architecture]:
    """As many as are asked for, drawn by the seed, of those that the truth has."""
    rng, wanted = python_rng(config.seed, "networks"), config.networks
    known = getattr(truth, "known", None)
    if known is not None:
        found = list(known(space))
    elif wanted == "all" or size(space) <= 4 * wanted:
        if size(space) > LARGE:
            raise SpaceError(
                f"the space has {size(space):,} networks, too many to take all; write networks: 300"
            )
        found = list(everything(space))
    else:
        found = draw(space, wanted, rng, tries=100)
    found = [architecture for architecture in found if not violations(space, architecture)]
    if wanted != "all" and len(found) < wanted:
        raise ConfigError(
            f"{wanted} networks were asked for, and '{config.truth.type}' has {len(found)} of space "
            f"'{config.space.type}'; write networks: {len(found)}, or networks: all"
        )
    rng.shuffle(found)
    return found if wanted == "all" else found[:wanted]
