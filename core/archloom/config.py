"""A search's configuration: validated as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .documents import plain
from .errors import ConfigError, nearest, shown
from .functions import with_function_files
from .processes import MOST


def refuse_bool(value: Any) -> Any:
    """The value, unless it is true or false: pydantic takes these for the numbers 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError(
            "number", "a number is needed; YAML reads yes, no, on and off as true and false"
        )
    return value


Int = Annotated[int, BeforeValidator(refuse_bool)]
Float = Annotated[float, BeforeValidator(refuse_bool)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), ser_json_inf_nan="constants"
    )


DEFAULT = "(default)"
"""The type of a part that a configuration leaves out: what a plugin registers as the default of its kind. In a list it
is all that are registered so. `archloom.defaults` puts the names in its place as soon as the plugins are known."""


class Part(_Strict):
    """Something by name, with options: `fbnet`, or `{type: fbnet, form: small}`."""

    type: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"type": self.type, **self.options}


class EstimatorPart(Part):
    """An estimator by name, with options, and with a `timeout`: seconds after which one estimate counts as failed."""

    timeout: Float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        limit = {} if self.timeout is None else {"timeout": self.timeout}
        return {"type": self.type, **self.options, **limit}


def _as_part(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": value}
    if not isinstance(value, Mapping):
        return value
    if "type" not in value:
        near = nearest("type", [key for key in value if isinstance(key, str)])
        hint = f"; is '{near}' meant?" if near else ": a name, or {type: name, option: value}"
        raise PydanticCustomError("part", "it needs the key 'type'{hint}", {"hint": hint})
    return {"type": value["type"], "options": {key: option for key, option in value.items() if key != "type"}}


def _as_estimator(value: Any) -> Any:
    part = _as_part(value)
    if not isinstance(part, Mapping) or "timeout" not in part.get("options", ()):
        return part
    options = {key: option for key, option in part["options"].items() if key != "timeout"}
    return {**part, "options": options, "timeout": part["options"]["timeout"]}


PartLike = Annotated[Part, BeforeValidator(_as_part)]
EstimatorLike = Annotated[EstimatorPart, BeforeValidator(_as_estimator)]


class Budget(_Strict):
    """When a search stops. Each is optional; the first that is reached ends it.

    trials: architectures measured, ok or failed. epochs: training epochs, of a supernet and of trained
    candidates together. seconds: active time of fit and search, summed over resumes.
    """

    trials: Int | None = Field(None, ge=1)
    epochs: Float | None = Field(None, gt=0)
    seconds: Float | None = Field(None, gt=0)


class Pick(_Strict):
    """One network of a Pareto front: the `best` in one metric among those `within` a margin of the best
    in others: `{best: macs, within: {accuracy.inherited: 0.5}}`."""

    best: str
    within: dict[str, Annotated[Float, Field(ge=0)]] = Field(default_factory=dict)


class ModelConfig(_Strict):
    """Backbone, neck, head and loss, by name. The loss may stand inside the head: `head: {type: ..., loss: ...}`.

    A search takes the backbone from its space; one that is named here makes a network of its own. A space whose
    networks own their head has neither neck nor head here: they are left out, or null as in what a run folder keeps.
    """

    backbone: PartLike | None = None
    neck: PartLike | None = Part(type=DEFAULT)
    head: PartLike | None = Part(type=DEFAULT)
    loss: PartLike = Part(type=DEFAULT)

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_head(cls, data: Any) -> Any:
        head = data.get("head") if isinstance(data, Mapping) else None
        if not isinstance(head, Mapping) or "loss" not in head:
            return data
        if "loss" in data:
            raise PydanticCustomError(
                "loss", "the loss is named twice, by the model and by its head; keep one"
            )
        return {**data, "loss": head["loss"], "head": {k: v for k, v in head.items() if k != "loss"}}

    @model_serializer(mode="wrap")
    def _without_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: part for key, part in dump(self).items() if part is not None or key in ("neck", "head")}


class Verdict(_Strict):
    """What is trained from scratch after the search, to judge it.

    seeds: trainings of each network. random: how many random architectures of about the same cost, and
    how many of any cost. cost: the metric that "cost" means. 0 seeds: nothing is trained.
    """

    seeds: Int = Field(3, ge=0)
    random: Int = Field(3, ge=0)
    cost: str = "macs"


def check_workers(executor: Part | None, workers: int | None) -> None:
    """Refuse two numbers of workers."""
    own = None if executor is None else executor.options.get("workers")
    if None not in (own, workers) and own != workers:
        told = "executor.workers is {own} and workers is {workers}; keep one (null drops the other)"
        raise PydanticCustomError("workers", told, {"own": own, "workers": workers})


def at_once(executor: Part | None, workers: int | None) -> int:
    """How many measurements are to be made at once: `workers`, or the executor's option of that name, else 1."""
    own = None if executor is None else executor.options.get("workers")
    number = workers if own is None else own
    return number if isinstance(number, int) and not isinstance(number, bool) else 1


LATER = ("constraints", "pick", "recipe", "verdict")
"""Sections that say how trials are judged, and what follows from them: a run that goes on may change them."""


class SearchConfig(_Strict):
    """Everything a search is made of."""

    space: PartLike
    task: PartLike | None = Part(type=DEFAULT)
    method: PartLike | None = None
    strategy: PartLike | None = None
    estimators: list[EstimatorLike] = [EstimatorPart(type=DEFAULT, timeout=None)]
    objectives: list[str] = Field(min_length=1)
    constraints: list[str] = []
    pick: Pick | None = None
    reference: dict[str, Float] = {}
    budget: Budget = Budget()  # type: ignore[call-arg]
    model: ModelConfig = ModelConfig()
    recipe: PartLike = Part(type=DEFAULT)
    verdict: Verdict = Verdict()  # type: ignore[call-arg]
    observers: list[PartLike] = [Part(type=DEFAULT)]
    seed: Int = Field(0, ge=0)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    order: Literal["submitted", "completion"] = "submitted"
    window: Int = Field(1, ge=1)
    executor: PartLike | None = None
    workers: Int | None = Field(None, ge=1, le=MOST)
    threads: Int | None = Field(None, ge=1, le=MOST)
    checkpoint_every: Float = Field(60.0, ge=0)
    max_failures: Int = Field(10, ge=1)
    max_rejected: Int = Field(1000, ge=1)
    max_repeats: Int = Field(1000, ge=1)
    canonical: bool = False
    strict: bool = False
    plugins: list[str] = []

    @model_validator(mode="after")
    def _one_number_of_workers(self) -> SearchConfig:
        check_workers(self.executor, self.workers)
        return self

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_trained_without_a_task(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("task", "") is not None:
            return data
        verdict = data.get("verdict", {})
        untrained = isinstance(verdict, Mapping) and "seeds" not in verdict
        return {**data, "verdict": {**verdict, "seeds": 0}} if untrained else data

    def identity(self) -> dict[str, Any]:
        """Everything that trials and verdict depend on. A resumed run must agree in it, but for what is `LATER`."""
        whole = self.model_dump(mode="json")
        names = (
            "seed",
            "space",
            "task",
            "model",
            "method",
            "strategy",
            "estimators",
            "objectives",
            "constraints",
        )
        on = (
            ("canonical",) if self.canonical else ()
        )  # where it is off, runs of before there was the key go on
        identity = {
            name: whole[name]
            for name in (*names, "precision", "threads", "order", "recipe", "verdict", "pick", *on)
        }
        # how long an estimate may take is this machine's matter, as the number of workers is
        identity["estimators"] = [
            {key: value for key, value in part.items() if key != "timeout"} for part in identity["estimators"]
        ]
        return identity | {"window": self.open_trials if self.order == "submitted" else self.window}

    @property
    def timed(self) -> bool:
        """Whether an estimate may have to be ended."""
        return any(part.timeout is not None for part in self.estimators)

    @property
    def at_once(self) -> int:
        """How many measurements are to be made at once: `workers`, or the executor's option of that name, else 1."""
        return at_once(self.executor, self.workers)

    @property
    def open_trials(self) -> int:
        """How many trials are open at once at most: the window, and as many as there are workers."""
        return max(self.window, self.at_once)


def parse_config(data: Any, where: str = "the configuration") -> SearchConfig:
    """A `SearchConfig` from plain data; a ConfigError that names each wrong key and the nearest right one."""
    return parse(SearchConfig, data, where)


Kind = TypeVar("Kind", bound=_Strict)


def parse(model: type[Kind], data: Any, where: str) -> Kind:
    """A configuration of the kind `model` from plain data; a ConfigError as of `parse_config`."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values, not {type(data).__name__}")
    try:
        return model.model_validate(with_function_files(plain(data, where)))
    except ValidationError as error:
        raise ConfigError(explain(error, where, model)) from None


def parse_model(data: Any, where: str = "the model") -> ModelConfig:
    """A `ModelConfig` from plain data; errors as of `parse_config`."""
    if isinstance(data, ModelConfig):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{where} must be a mapping of backbone, neck, head and loss, not {shown(repr(data))}"
        )
    return parse(ModelConfig, data, where)


TOLD = 12
"""So many wrong keys are named at most."""


def explain(error: ValidationError, where: str, root: Any = None) -> str:
    """What is wrong, a line for each wrong key of the configuration `root`."""
    problems = error.errors()
    lines = [_explain(problem, where, root) for problem in problems[:TOLD]]
    return "\n".join([*lines, f"{where}: and {len(problems) - TOLD} more"] if len(problems) > TOLD else lines)


def _explain(problem: Any, where: str, root: Any) -> str:
    path = [str(part) for part in problem["loc"] if not str(part).startswith(("literal[", "function-before"))]
    name = shown(".".join(path))
    if problem["type"] == "extra_forbidden":
        known = _keys(path[:-1], SearchConfig if root is None else root)
        near = nearest(path[-1], known)
        hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(known)}."
        return f"{where}: unknown key '{name}'; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key '{name}' is missing"
    value = f"'{name}' = {shown(repr(problem['input']))}: " if name else ""
    return f"{where}: {value}{shown(problem['msg'], 400)}"


def _keys(path: Iterable[str], model: Any) -> list[str]:
    """The keys that `model`, a configuration, knows inside `path`."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        of = () if field is None else (field.annotation, *get_args(field.annotation))  # Pick | None
        model = next((kind for kind in of if hasattr(kind, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def parse_part(data: Any, where: str) -> Part:
    """A `Part` from plain data."""
    try:
        return data if isinstance(data, Part) else TypeAdapter(PartLike).validate_python(plain(data, where))
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from None
