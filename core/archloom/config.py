"""A search's configuration: validated as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
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

from .errors import ConfigError, nearest


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), ser_json_inf_nan="constants"
    )


class Part(_Strict):
    """Something by name, with options: `fbnet`, or `{type: fbnet, form: small}`."""

    type: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"type": self.type, **self.options}


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


PartLike = Annotated[Part, BeforeValidator(_as_part)]


class Budget(_Strict):
    """When a search stops. Each is optional; the first that is reached ends it.

    trials: architectures measured, ok or failed. epochs: training epochs, of a supernet and of trained
    candidates together. seconds: active time of fit and search, summed over resumes.
    """

    trials: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    seconds: float | None = Field(None, gt=0)


class Pick(_Strict):
    """One network of a Pareto front: the `best` in one metric among those `within` a margin of the best
    in others: `{best: macs, within: {accuracy.inherited: 0.5}}`."""

    best: str
    within: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class ModelConfig(_Strict):
    """Backbone, neck, head and loss, by name. The loss may stand inside the head: `head: {type: ..., loss: ...}`.

    A search takes the backbone from its space; one that is named here makes a network of its own.
    """

    backbone: PartLike | None = None
    neck: PartLike = Part(type="GlobalAverage")
    head: PartLike = Part(type="LinearHead")
    loss: PartLike = Part(type="CrossEntropyLoss")

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
        return {key: part for key, part in dump(self).items() if part is not None}


class Verdict(_Strict):
    """What is trained from scratch after the search, to judge it.

    seeds: trainings of each network. random: how many random architectures of about the same cost, and
    how many of any cost. cost: the metric that "cost" means. 0 seeds: nothing is trained.
    """

    seeds: int = Field(3, ge=0)
    random: int = Field(3, ge=0)
    cost: str = "macs"


class SearchConfig(_Strict):
    """Everything a search is made of."""

    space: PartLike
    task: PartLike = Part(type="digits")
    method: PartLike | None = None
    strategy: PartLike | None = None
    estimators: list[PartLike] = [Part(type="params"), Part(type="macs")]
    objectives: list[str] = Field(min_length=1)
    constraints: list[str] = []
    pick: Pick | None = None
    reference: dict[str, float] = {}
    budget: Budget = Budget()  # type: ignore[call-arg]
    model: ModelConfig = ModelConfig()
    recipe: PartLike = Part(type="default")
    verdict: Verdict = Verdict()  # type: ignore[call-arg]
    observers: list[PartLike] = [Part(type="tensorboard")]
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    order: Literal["submitted", "completion"] = "submitted"
    window: int = Field(1, ge=1)
    workers: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)
    checkpoint_every: float = Field(60.0, ge=0)
    max_failures: int = Field(10, ge=1)
    max_rejected: int = Field(1000, ge=1)
    max_repeats: int = Field(1000, ge=1)
    strict: bool = False
    plugins: list[str] = []

    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree in: everything that its trials depend on."""
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
        identity = {
            name: whole[name]
            for name in (*names, "precision", "threads", "order", "recipe", "verdict", "pick")
        }
        return identity | {"window": self.open_trials if self.order == "submitted" else self.window}

    @property
    def open_trials(self) -> int:
        """How many trials are open at once at most: the window, and as many as there are workers."""
        return max(self.window, self.workers)


def parse_config(data: Any, where: str = "the configuration") -> SearchConfig:
    """A `SearchConfig` from plain data; a ConfigError that names each wrong key and the nearest right one."""
    return parse(SearchConfig, data, where)


Kind = TypeVar("Kind", bound=_Strict)


def parse(model: type[Kind], data: Any, where: str) -> Kind:
    """A configuration of the kind `model` from plain data; a ConfigError as of `parse_config`."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values, not {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, where, model) for problem in error.errors())) from None


def parse_model(data: Any, where: str = "the model") -> ModelConfig:
    """A `ModelConfig` from plain data; errors as of `parse_config`."""
    if isinstance(data, ModelConfig):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of backbone, neck, head and loss, not {data!r}")
    try:
        return ModelConfig.model_validate(data)
    except ValidationError as error:
        told = [_explain(problem, where, ModelConfig) for problem in error.errors()]
        raise ConfigError("\n".join(told)) from None


def _explain(problem: Any, where: str, root: Any = None) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = _keys(path[:-1], SearchConfig if root is None else root)
        near = nearest(path[-1], known)
        hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(known)}."
        return f"{where}: unknown key '{name}'; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key '{name}' is missing"
    return f"{where}: '{name}' = {problem['input']!r}: {problem['msg']}"


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
        return TypeAdapter(PartLike).validate_python(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, where) for problem in error.errors())) from None


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> SearchConfig:
    """A configuration from a YAML file, with `key=value` overrides: `strategy.population=20`."""
    return parse_config(override(read_yaml(path), overrides), str(path))


def read_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file; a ConfigError where it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # no text, 2001-99-99, [[[[...
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def override(data: Any, overrides: Iterable[str]) -> Any:
    """`data` with dotted keys set: `budget.trials=20`, `estimators.0.runs=5`; values are YAML."""
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, not '{text}'")
        try:
            parsed = yaml.safe_load(value)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"--set {text}: the value is not YAML") from error
        data = _set(data, key.strip().split("."), parsed, text)
    return data


def _set(node: Any, path: list[str], value: Any, text: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdecimal() or int(head) >= len(node):
            raise ConfigError(f"--set {text}: '{head}' is no position of a list of {len(node)}")
        return [_set(item, rest, value, text) if i == int(head) else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if isinstance(node, str):
        node = {"type": node}
    if not isinstance(node, Mapping):
        raise ConfigError(f"--set {text}: '{head}' cannot be set inside {node!r}")
    return {**node, head: _set(node.get(head), rest, value, text)}
