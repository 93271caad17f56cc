"""What a plugin registers: a factory, the options that its signature names, and how they are checked."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from .config import TOLD, refuse_bool
from .context import BEFORE_STAR, HANDED
from .errors import ConfigError, PluginError, SpaceError, nearest, shown

Kind = Literal["space", "strategy", "estimator", "executor", "task", "component", "recipe", "observer"]

INJECTED: Mapping[Kind, tuple[str, ...]] = {
    "space": ("host",),
    "strategy": tuple(HANDED),
    "estimator": ("host", "task"),
    "executor": ("job", "measure"),
    "task": (),
    "component": ("in_channels", "num_classes"),
    "recipe": (),
    "observer": ("folder",),
}
"""The parameter names that are handed in, for each kind of factory; all others are options."""


NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "strategy": ("supernet", "differentiable", "fidelity"),
    "estimator": ("supernet", "task"),
}
"""The words that `needs` may hold, for each kind that has any."""

OFFERS: Mapping[Kind, tuple[str, ...]] = {"executor": ("supernet", "timeout")}
"""The words that `offers` may hold, for each kind that has any."""

WITHOUT_FIT = (
    "what trains one has 'fit', in the class that is registered or in the one that a function is annotated to "
    "return"
)
"""How a factory says that it makes a method that trains a supernet."""


@dataclass(frozen=True)
class Option:
    """One option of a factory. `default` is `inspect.Parameter.empty` where it must be given."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    def to_json(self) -> dict[str, Any]:
        """name, type as text, default as text; for `archloom plugins --json`."""
        kind = self.annotation
        text = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        entry: dict[str, Any] = {"name": self.name, "type": text, "required": self.required}
        return entry if self.required else entry | {"default": self.default}


@dataclass(frozen=True)
class Entry:
    """Something registered: its factory, and the distribution that it came with."""

    kind: Kind
    name: str
    factory: Callable[..., Any]
    distribution: str
    version: str
    options: tuple[Option, ...]
    injected: tuple[str, ...]
    schema: type[BaseModel]
    default: bool = False

    def is_a(self, sort: str) -> bool:
        """Whether it may stand under the key `sort` of a configuration: of a component, its name says that."""
        return self.kind != "component" or self.name.startswith(f"{sort}.")

    @property
    def sort(self) -> str:
        """What there is one default of: its kind; of components "neck", "head" or "loss"."""
        return self.name.partition(".")[0] if self.kind == "component" else self.kind

    @property
    def shares_weights(self) -> bool:
        """Whether this strategy trains a supernet: what it makes has `fit`.

        A class says so itself, a function by the annotation of what it returns. One that says nothing there trains if
        it takes a `task`, as all methods do.
        """
        if self.kind != "strategy":
            return False
        said = _has_fit(self.factory)
        return "task" in self.injected if said is None else said

    @property
    def trains_since(self) -> str:
        """Why it is taken to train a supernet, and the way out where it does not."""
        if _has_fit(self.factory):
            return "it has 'fit'; where it only proposes, call that otherwise"
        return (
            "its factory takes a task and does not say what it returns; where it only proposes, annotate that: "
            "'-> archloom.strategy.Strategy'"
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """What the factory declares to need of a space."""
        needs = tuple(getattr(self.factory, "needs", ()))
        return needs if not self.shares_weights or "supernet" in needs else ("supernet", *needs)

    @property
    def offers(self) -> tuple[str, ...]:
        """What the factory declares to offer to those who need it."""
        return tuple(getattr(self.factory, "offers", ()))

    @property
    def trains_unsaid(self) -> str:
        """A sentence on why it needs a supernet, where it does and does not declare that."""
        said = not self.shares_weights or "supernet" in getattr(self.factory, "needs", ())
        return "" if said else f". It is taken to train a supernet, since {self.trains_since}"

    def validate(self, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """The options with their types converted and defaults filled in; a ConfigError for a wrong one."""
        try:
            checked = self.schema.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(self._explain(error, where)) from None
        return {option.name: getattr(checked, f"option_{option.name}") for option in self.options}

    def _explain(self, error: ValidationError, where: str) -> str:
        place = where or f"{self.kind} '{self.name}'"
        lines = []
        problems = error.errors()
        for problem in problems[:TOLD]:
            name = shown(".".join(map(str, problem["loc"]))) or "?"
            if problem["type"] == "extra_forbidden":
                known = [option.name for option in self.options]
                near = nearest(name, known)
                hint = f"did you mean '{near}'? " if near else ""
                lines.append(f"{place} has no option '{name}'; {hint}It has: {', '.join(known) or 'none'}.")
            elif problem["type"] == "missing":
                lines.append(f"{place} needs the option '{name}'.")
            else:
                given = shown(repr(problem["input"]))
                lines.append(f"{place}: option '{name}' = {given}: {shown(problem['msg'], 400)}.")
        if len(problems) > TOLD:
            lines.append(f"{place}: and {len(problems) - TOLD} more")
        return "\n".join(lines)

    def make(self, options: Mapping[str, Any], **available: Any) -> Any:
        """Call the factory with checked options and with those of `available` that it asks for.

        What it makes is checked too: a space's choices (SpaceError), and what an estimator needs (PluginError).
        """
        handed = {name: available[name] for name in self.injected if name in available}
        try:
            made = self.factory(**handed, **options)
            if self.kind == "space" and hasattr(made, "choices"):
                from .space import check_choices  # which imports torch

                check_choices(made)
        except SpaceError as error:
            raise SpaceError(f"{self.kind} '{self.name}' of {self.distribution}: {error}") from error
        _check_words(f"{self.kind} '{self.name}' of {self.distribution}", self.kind, made)
        if self.kind in ("strategy", "estimator", "executor"):
            of = f" of {self.distribution}" if self.kind == "executor" else ""
            with contextlib.suppress(AttributeError, TypeError):  # an object that takes no attribute
                made.registered_as = f"{self.kind} '{self.name}'{of}"
        return made

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the default of each other one, as plain data: what they mean where defaults have changed."""
        values = self.schema.model_validate(dict(options))
        whole = {}
        for option in self.options:
            if option.name in options:
                whole[option.name] = options[option.name]
                continue
            try:
                plain = self.schema.model_dump(values, mode="json", include={f"option_{option.name}"})
                whole[option.name] = next(iter(plain.values()))
            except (ValueError, TypeError):  # a default that no file can hold stays the factory's own
                continue
        return whole

    def to_json(self) -> dict[str, Any]:
        """What `archloom plugins --json` lists."""
        return {
            "name": self.name,
            "kind": self.kind,
            "distribution": self.distribution,
            "version": self.version,
            "default": self.default,
            "summary": (inspect.getdoc(self.factory) or "").split("\n")[0],
            "options": [option.to_json() for option in self.options],
        }


_RESERVED: Mapping[Kind, tuple[str, ...]] = {"estimator": ("type", "timeout")}
"""Keys of a part of a configuration that are not its options. Of the kinds that are not here: type."""


NO_DEFAULT = ("space", "backbone")
"""What is always named: no plugin can say which one a stranger's search is about."""


def entry_of(
    kind: Kind,
    name: str,
    factory: Callable[..., Any],
    distribution: str,
    version: str,
    *,
    default: bool = False,
) -> Entry:
    """What a plugin registers under a name; a PluginError for a factory that does not keep the rules of options."""
    where = f"{kind} '{name}' of {distribution}"
    if not callable(factory):
        raise PluginError(f"{where}: register(name, factory) takes a callable, not {factory!r}")
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except (NameError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        raise PluginError(
            f"{where}: its factory's signature cannot be read: {type(error).__name__}: {error}{_place(factory)}"
        ) from error
    options, injected = [], []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue  # a module class without an __init__ of its own shows nn.Module's
        if _is_handed(kind, parameter):
            injected.append(parameter.name)
        elif problem := _trouble(kind, parameter):
            raise PluginError(f"{where}: {problem}{_place(factory)}")
        else:
            options.append(Option(parameter.name, parameter.annotation, parameter.default))
    _check_words(where, kind, factory, _place(factory))
    schema = _schema(kind, name, options, where + _place(factory))
    _check_defaults(where, schema, factory)
    entry = Entry(
        kind, name, factory, distribution, version, tuple(options), tuple(injected), schema, default
    )
    _check_default(entry, where)
    return entry


def _check_default(entry: Entry, where: str) -> None:
    if entry.default and entry.sort in NO_DEFAULT:
        raise PluginError(
            f"{where}: a {entry.sort} is always named, so none is the default; leave default out"
        )
    required = [option.name for option in entry.options if option.required]
    if entry.default and required:
        raise PluginError(
            f"{where}: the default is made without options, and '{required[0]}' must be given; give it a default, or "
            "register it without default=True"
        )


def _is_handed(kind: Kind, parameter: inspect.Parameter) -> bool:
    behind_star = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    if kind == "strategy" and behind_star and parameter.name in BEFORE_STAR:
        return False
    # an estimator's option may well be called host: behind the * it is one
    return parameter.name in INJECTED[kind] and not (kind == "estimator" and behind_star)


def _has_fit(factory: Any) -> bool | None:
    """Whether what a factory makes has `fit`; None where the factory does not say."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, type):
        return hasattr(factory, "fit")
    returned = inspect.signature(factory, eval_str=True).return_annotation
    kinds = get_args(returned) if get_origin(returned) in (types.UnionType, Union) else (returned,)
    silent = (inspect.Signature.empty, Any, object, None, type(None))
    said = {hasattr(kind, "fit") for kind in kinds if kind not in silent and isinstance(kind, type)}
    return said.pop() if len(said) == 1 else None


def _trouble(kind: Kind, parameter: inspect.Parameter) -> str:
    """Why a factory's parameter is no option; empty where it is one."""
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        allowed = ", ".join(INJECTED[kind]) or "none"
        return (
            f"the factory's parameter '{parameter.name}' is neither an option (options are keyword-only, after *) nor "
            f"something that is handed in ({allowed})"
        )
    if parameter.name in _RESERVED.get(kind, ("type",)):
        return (
            f"an option cannot be called '{parameter.name}', which is the configuration's own key; rename it"
        )
    if parameter.annotation is inspect.Parameter.empty:
        return f"option '{parameter.name}' has no type annotation"
    return ""


def _schema(kind: Kind, name: str, options: Sequence[Option], where: str) -> type[BaseModel]:
    """What checks the options. The fields' own names are out of the way of pydantic's ('schema', 'copy')."""
    workers = lambda option: kind == "executor" and option.name == "workers" and option.annotation is int
    fields: dict[str, Any] = {
        f"option_{option.name}": (
            _numbers(Annotated[int, Field(ge=1)] if workers(option) else option.annotation),
            Field(... if option.required else option.default, alias=option.name),
        )
        for option in options
    }
    config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        arbitrary_types_allowed=True,
        validate_default=True,
        ser_json_inf_nan="constants",
    )
    try:
        return create_model(f"{kind} {name}", __config__=config, **fields)
    except (
        Exception
    ) as error:  # an annotation that means nothing: pydantic's own errors, TypeError, NameError
        raise PluginError(f"{where}: its options' annotations cannot be used: {error}") from error


def _numbers(annotation: Any) -> Any:
    """The annotation with each int and float such that true and false are none."""
    if annotation is int or annotation is float:
        return Annotated[annotation, BeforeValidator(refuse_bool)]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal and not any(isinstance(word, bool) for word in inner):
        return Annotated[annotation, BeforeValidator(refuse_bool)] if 0 in inner or 1 in inner else annotation
    if origin in (types.UnionType, Union):
        return annotation if bool in inner else Union[tuple(map(_numbers, inner))]  # noqa: UP007 - made, not written
    if origin is Annotated:
        return Annotated[(_numbers(inner[0]), *inner[1:])]
    if origin in (list, tuple, set, frozenset, dict, Sequence, Mapping, Iterable):
        return origin[tuple(map(_numbers, inner))]
    return annotation


def _check_defaults(where: str, schema: type[BaseModel], factory: Callable[..., Any]) -> None:
    """Refuse a default that its own annotation refuses."""
    try:
        schema.model_validate({})
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] != "missing":
                name = ".".join(map(str, problem["loc"])).removeprefix("option_")
                hint = f"; write '{name}: ... | None'" if problem["input"] is None else ""
                raise PluginError(
                    f"{where}: option '{name}' has the default {shown(repr(problem['input']))}, which its annotation "
                    f"refuses: {problem['msg']}{hint}{_place(factory)}"
                ) from None


def _check_words(where: str, kind: Kind, thing: Any, place: str = "") -> None:
    """Refuse a word in `needs` or `offers` that means nothing here."""
    for attribute, known in ("needs", NEEDS.get(kind)), ("offers", OFFERS.get(kind)):
        words = getattr(thing, attribute, ())
        if known is None or isinstance(words, property):
            continue
        if isinstance(words, str) or not isinstance(words, Iterable):
            raise PluginError(
                f"{where}: '{attribute}' is a tuple of words, such as {known[:1]!r}, and not {words!r}{place}"
            )
        for word in words:
            if word not in known:
                near = nearest(str(word), known)
                hint = f"did you mean '{near}'? " if near else ""
                verb = attribute.removesuffix("s")
                raise PluginError(
                    f"{where}: it {attribute} {word!r}, which means nothing here; {hint}It can {verb}: "
                    f"{', '.join(known)}{place}"
                )


def _place(factory: Any) -> str:
    """Where a factory is written, as " (file:line)"; empty where nobody knows."""
    made = inspect.unwrap(vars(factory).get("__init__", factory) if isinstance(factory, type) else factory)
    code = getattr(made, "__code__", None)
    if code is not None:
        return f" ({code.co_filename}:{code.co_firstlineno})"
    try:
        return f" ({inspect.getsourcefile(factory)}:{inspect.getsourcelines(factory)[1]})"
    except (TypeError, OSError):
        return ""
