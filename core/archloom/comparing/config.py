"""What is compared, on what, and by which protocol: a search's configuration and a few keys of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..config import Float, Int, Part, PartLike, SearchConfig, explain, parse_config
from ..config_files import located, override
from ..defaults import default, named
from ..documents import plain, read_yaml
from ..errors import ConfigError, nearest, shown
from ..objective import exact
from ..plugins import Host
from ..processes import MOST

_ELSEWHERE = {
    "strategy": "name each of them under 'strategies'",
    "method": "name it under 'strategies': {label: {method: ..., strategy: ...}}",
    "objectives": "'select' is the one objective",
    "seed": "'seeds' says how many searches there are of each strategy, with the seeds 0, 1, 2 ...",
    "verdict": "a comparison scores what the estimators measured; it trains nothing of its own",
    "pick": "a comparison has one objective, and so no front to pick from",
}

Axis = Literal["trials", "epochs", "seconds"]


class Contender(BaseModel):
    """Who searches: a strategy, a method that trains a supernet and proposes, or one of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: PartLike | None = None
    method: PartLike | None = None

    def to_json(self) -> dict[str, Any]:
        """The parts that there are, flat."""
        parts = {"strategy": self.strategy, "method": self.method}
        return {name: part.model_dump(mode="json") for name, part in parts.items() if part is not None}


def _as_contender(value: Any) -> Any:
    if isinstance(value, Mapping) and "type" not in value and {"strategy", "method"} & set(value):
        return value
    return {"strategy": value}


def _labelled(value: Any) -> Any:
    """Contenders by label; a list is labelled by the strategies' names."""
    if not isinstance(value, list):
        return value
    labelled: dict[str, Any] = {}
    for one in value:
        label = one.get("type") if isinstance(one, Mapping) else one
        if not isinstance(label, str):
            raise PydanticCustomError(
                "contender", "each of the list is a name or {type: name, option: value}; or write label: part"
            )
        if label in labelled:
            raise PydanticCustomError(
                "contender", "'{label}' is there twice; give each a label: {label: part}", {"label": label}
            )
        labelled[label] = one
    return labelled


def _scores(value: Any) -> Any:
    """label -> metrics whose mean is the score. One metric alone is its own label."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        if not all(isinstance(one, str) for one in value):
            raise PydanticCustomError(
                "score", "each of the list is a metric; or write label: [metric, metric]"
            )
        value = {one: one for one in value}
    if isinstance(value, Mapping):
        return {label: [one] if isinstance(one, str) else one for label, one in value.items()}
    return value


Contenders = Annotated[
    dict[str, Annotated[Contender, BeforeValidator(_as_contender)]], BeforeValidator(_labelled)
]
Scores = Annotated[
    dict[str, Annotated[list[str], Field(min_length=1)]], BeforeValidator(_scores), Field(min_length=1)
]


class Protocol(BaseModel):
    """The comparison's own keys.

    strategies: label -> strategy; the default one, under its name, is added where it is missing, since all others are
    tested against it. select: the metric that a strategy
    optimizes, and by which the incumbent is chosen. score: what the incumbent is judged by, one metric or the mean
    of several, or several scores by label. optimum: the best score there is, for the regret: "exhaustive" measures
    the whole space; a number, for a single score; without one the best that any of the searches found. seeds:
    searches of each strategy. at: budgets to tabulate and to test at; the last one is always the whole.
    confidence and resamples: of the bootstrap. processes: how many searches run at once; by default all cores.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: Contenders = Field(min_length=1)
    select: str
    score: Scores
    optimum: Literal["exhaustive"] | Float | None = None
    seeds: Int = Field(20, ge=2)
    at: tuple[Annotated[Float, Field(gt=0)], ...] = ()
    confidence: Float = Field(0.95, gt=0.5, lt=1)
    resamples: Int = Field(10_000, ge=100)
    processes: Int | None = Field(None, ge=1, le=MOST)

    @model_validator(mode="after")
    def _one_optimum_for_one_score(self) -> Protocol:
        if isinstance(self.optimum, float) and len(self.score) > 1:
            raise PydanticCustomError("optimum", "one number cannot be the optimum of several scores")
        return self


class Comparison(BaseModel):
    """A checked comparison: its own keys, and the configuration that all its searches share.

    shared: as it was given; what it leaves out each search resolves by itself, which depends on its space too. whole:
    the same with every default named, by which a folder is known. baseline: the label of the strategy that all others
    are tested against. Both of these come with the plugins, see `named`.
    """

    model_config = ConfigDict(frozen=True)

    protocol: Protocol
    shared: SearchConfig
    whole: SearchConfig | None = None
    baseline: str = ""

    def named(self, host: Host) -> Comparison:
        """The same with the plugins' defaults in the place of what it leaves out: with the default strategy among
        the strategies, as the baseline. A ConfigError where nothing is the default."""
        baseline, protocol = default(host, "strategy").name, self.protocol
        if baseline not in protocol.strategies:
            added = {baseline: Contender(strategy=Part(type=baseline)), **protocol.strategies}
            protocol = protocol.model_copy(update={"strategies": added})
        whole = named(self.shared, host)
        return Comparison(protocol=protocol, shared=self.shared, whole=whole, baseline=baseline)

    @property
    def axis(self) -> Axis:
        """What the budget counts, and so what the curves run over."""
        budget = self.shared.budget
        limits: dict[Axis, float | None] = {
            "trials": budget.trials,
            "epochs": budget.epochs,
            "seconds": budget.seconds,
        }
        return next(axis for axis, limit in limits.items() if limit is not None)

    @property
    def limit(self) -> float:
        """The budget, in units of the axis."""
        return float(getattr(self.shared.budget, self.axis))

    def of(self, label: str, seed: int) -> SearchConfig:
        """The configuration of one search."""
        contender = self.protocol.strategies[label]
        return self.shared.model_copy(
            update={"strategy": contender.strategy, "method": contender.method, "seed": seed}
        )

    def identity(self) -> dict[str, Any]:
        """What the searches of one folder must agree in. Strategies and seeds may be added, and the scores, the
        optimum and the statistics changed: they are computed from what the searches left."""
        own = ("strategy", "method", "seed", "verdict", "pick")
        whole = self.whole or self.shared
        shared = {name: value for name, value in whole.identity().items() if name not in own}
        return shared | {"budget": self.shared.budget.model_dump(mode="json")}


def parse_comparison(data: Any, where: str = "the comparison") -> Comparison:
    """A `Comparison` from plain data; a ConfigError that names each wrong key and the nearest right one."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values, not {type(data).__name__}")
    data = plain(data, where)
    own, others = set(Protocol.model_fields), set(SearchConfig.model_fields) - set(_ELSEWHERE)
    for key in data:
        if key in _ELSEWHERE:
            raise ConfigError(f"{where}: '{key}' has no place in a comparison; {_ELSEWHERE[key]}")
        if key not in own | others:
            near = nearest(str(key), own | others)
            hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(sorted(own | others))}."
            raise ConfigError(f"{where}: unknown key '{shown(str(key))}'; {hint}")
    try:
        protocol = Protocol.model_validate({key: value for key, value in data.items() if key in own})
    except ValidationError as error:
        raise ConfigError(explain(error, where, Protocol)) from None
    rest = {key: value for key, value in data.items() if key in others}
    fixed = {"objectives": [protocol.select], "verdict": {"seeds": 0}, "observers": rest.get("observers", [])}
    shared = parse_config({**rest, **fixed}, where)
    if not any((shared.budget.trials, shared.budget.epochs, shared.budget.seconds)):
        raise ConfigError(f"{where} has no budget; say what each search may spend: budget: {{trials: 100}}")
    made = Comparison(protocol=protocol, shared=shared)
    beyond = [one for one in protocol.at if one > made.limit]
    if beyond:
        raise ConfigError(
            f"{where}: 'at' names {exact(beyond[0])} {made.axis}, but the budget is {exact(made.limit)}"
        )
    if made.axis == "trials" and (parts := [one for one in protocol.at if one != int(one)]):
        raise ConfigError(f"{where}: 'at' names {exact(parts[0])} trials; the budget counts whole trials")
    return made


def read_comparison(path: str | Path, overrides: tuple[str, ...] = ()) -> Comparison:
    """A comparison from a YAML file, with `key=value` overrides: `seeds=50`."""
    return parse_comparison(located(override(read_yaml(path, "the comparison"), overrides), path), str(path))
