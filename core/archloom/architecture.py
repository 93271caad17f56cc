"""Choices and architectures: values, not modules. Nothing here imports torch."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from .documents import scalar, trouble
from .errors import SpaceError, nearest, shown

Option = str | int | float | bool | None
"""What can be chosen: a JSON scalar."""

LONGEST = 200
"""The longest name of a choice, and the longest option, in characters."""


@dataclass(frozen=True)
class Choice:
    """A name and its options. The order of the options is part of the space: indices refer to it.

    Options are all texts, all numbers (whole ones become fractions where one of them is) or all true and false, and
    None may stand among them; numpy's numbers and texts become Python's. Anything else is refused with a SpaceError,
    as is a name that no file, module or path can bear.

    ordered: the options stand in an order that means something (depths 2, 3, 4), so that an option's neighbours are
    the one before it and the one after. when: earlier choice -> options of it under which this choice is decided,
    `{"depth": (3, 4)}`; all of them must hold. An architecture decides the active choices and no others.
    """

    name: str
    options: tuple[Option, ...]
    ordered: bool = False
    when: Mapping[str, tuple[Option, ...]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        name, given = scalar(self.name), self.options
        if problem := _trouble_of_name(name):
            raise SpaceError(f"a choice cannot be called {shown(repr(name))}: {problem}")
        if isinstance(given, str | bytes | Set) or not isinstance(given, Iterable):
            # a set has no order of its own, and each process would have another
            raise SpaceError(f"choice '{name}': the options are a list or a tuple, not {shown(repr(given))}")
        options = _of_one_kind(tuple(plain_option(option, f"choice '{name}'") for option in given), name)
        if not isinstance(self.ordered, bool):
            raise SpaceError(f"choice '{name}': ordered is True or False, not {shown(repr(self.ordered))}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "when", _conditions(self.when, f"choice '{name}'"))

    def active(self, decisions: Mapping[str, Option]) -> bool:
        """Whether this choice is decided where the earlier ones are decided like this."""
        if self.when is None:
            return True
        return all(name in decisions and decisions[name] in options for name, options in self.when.items())

    def index(self, option: Option) -> int:
        """The position of `option`; a SpaceError that names the nearest one where there is none."""
        sought = scalar(option)
        for position, known in enumerate(self.options):
            if known == sought and _kind(known) == _kind(sought):
                return position
        near = nearest(str(sought), [str(known) for known in self.options])
        hint = f"; did you mean '{near}'?" if near and near != str(sought) else "."
        raise SpaceError(
            f"choice '{self.name}' has no option {shown(repr(sought))}{hint} "
            f"It has: {shown(', '.join(map(str, self.options)), 600)}."
        )


def plain_option(value: Any, where: str) -> Option:
    """The option as one of Python's own scalars; a SpaceError that begins with `where` for anything else."""
    found = scalar(value)
    if type(value) not in _PLAIN and (type(found) not in _PLAIN or type(found) is type(value)):
        raise SpaceError(
            f"{where}: {shown(repr(value), 100)} is of type {type(value).__name__}; an option is a text, a number, "
            "true or false, or None. Give it a text for a name ('3x3'), and look up what it means where the network "
            "is built"
        )
    odd = "is not finite" if isinstance(found, float) and not math.isfinite(found) else trouble(found)
    if isinstance(found, str):
        odd = odd or _trouble_of_text(found)
    if odd:
        raise SpaceError(f"{where}: the option {shown(repr(found), 100)} {odd}")
    return found


def _conditions(when: Any, where: str) -> dict[str, tuple[Option, ...]] | None:
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(
            f'{where}: when is a dictionary of earlier choices and their options, {{"depth": (3, 4)}}, not '
            f"{shown(repr(when))}; leave it out where the choice is always decided"
        )
    found = {}
    for name, options in when.items():
        if type(scalar(name)) is not str:
            raise SpaceError(f"{where}: when names a choice by {shown(repr(name))}, which is no text")
        if isinstance(options, str | bytes | Set) or not isinstance(options, Iterable):
            raise SpaceError(
                f"{where}: when names the options of '{shown(str(name))}' in a list or a tuple, not as "
                f"{shown(repr(options))}"
            )
        found[scalar(name)] = tuple(plain_option(option, f"{where}, when '{name}'") for option in options)
        if not found[scalar(name)]:
            raise SpaceError(f"{where}: when names no option of '{name}'; it would never be decided")
    return found


_PLAIN = {str, int, float, bool, type(None)}


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def _of_one_kind(options: tuple[Option, ...], name: str) -> tuple[Option, ...]:
    if not options:
        raise SpaceError(f"choice '{name}' has no options; give it at least one")
    listed = shown(str(list(options)))
    if len(set(options)) != len(options):  # 1, 1.0 and True are equal: one architecture, not three
        raise SpaceError(f"choice '{name}' lists an option twice: {listed}")
    kinds = sorted({_kind(option) for option in options if option is not None})
    if len(kinds) > 1:
        raise SpaceError(
            f"choice '{name}' has options of several kinds ({', '.join(kinds)}): {listed}. Write all of them as texts"
        )
    if "number" in kinds and any(isinstance(option, float) for option in options):
        options = tuple(None if option is None else float(option) for option in options)
    if len({unicodedata.normalize("NFC", str(option)) for option in options}) != len(options):
        raise SpaceError(f"choice '{name}' has two options that are written alike: {listed}")
    return options


def _trouble_of_name(name: Any) -> str:
    if type(name) is not str:
        return "a name is a text"
    if odd := next((sign for sign in "./\\" if sign in name), None):
        return f"'{odd}' has a meaning of its own in the names of modules and files"
    return trouble(name) or _trouble_of_text(name)


def _trouble_of_text(text: str) -> str:
    if not text or text != text.strip():
        return "is empty, or begins or ends with a blank" if text else "is empty"
    if not all(sign.isprintable() for sign in text):
        return "holds a character that cannot be printed"
    return f"has {len(text):,} characters; {LONGEST} are the most" if len(text) > LONGEST else ""


class Architecture(Mapping[str, Option]):
    """One decision for each choice of a space: frozen, hashable, JSON-able.

    `Architecture({"layer0": "skip"})["layer0"]`; a change returns a new one: `a.replace(layer0="k3_e6")`.
    Two architectures are equal when they decide the same, in whatever order they were written. One that a search
    gave knows its `document`, what `architecture.json` holds, so that `archloom.build` takes it.
    """

    __slots__ = ("_decisions", "_document")
    _decisions: dict[str, Option]
    _document: Mapping[str, Any] | None

    def __init__(self, decisions: Mapping[str, Option]) -> None:
        own = {
            name: option if type(option) in _PLAIN else plain_option(option, f"choice '{name}'")
            for name, option in decisions.items()
        }
        object.__setattr__(self, "_decisions", own)
        object.__setattr__(self, "_document", None)

    @property
    def document(self) -> Mapping[str, Any] | None:
        """What it takes to build it anywhere; None where nobody has said it."""
        return self._document

    def known_by(self, document: Mapping[str, Any]) -> Architecture:
        """The same architecture, which knows its document."""
        known = Architecture(self._decisions)
        object.__setattr__(known, "_document", document)
        return known

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Architecture is frozen; use replace() for a changed one")

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        decisions = dict(self._decisions)
        if self._document is None:
            return Architecture, (decisions,)
        return Architecture.known_by, (Architecture(decisions), self._document)

    def __getitem__(self, choice: str) -> Option:
        return self._decisions[choice]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)

    def __len__(self) -> int:
        return len(self._decisions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._decisions == other._decisions

    def __hash__(self) -> int:
        return hash(frozenset(self._decisions.items()))

    def __repr__(self) -> str:
        return f"Architecture({self._decisions})"

    def __str__(self) -> str:
        return " ".join(str(option) for option in self._decisions.values())

    def replace(self, /, **decisions: Option) -> Architecture:
        """The same architecture with some decisions changed."""
        unknown = set(decisions) - set(self._decisions)
        if unknown:
            raise SpaceError(
                f"no choice named {shown(str(sorted(unknown)))}; there are {shown(str(list(self._decisions)), 600)}"
            )
        return Architecture({**self._decisions, **decisions})

    def to_json(self) -> dict[str, Option]:
        """A plain dictionary, choice -> option, in order."""
        return dict(self._decisions)

    @classmethod
    def from_json(cls, data: Any) -> Architecture:
        """The inverse of `to_json`; a SpaceError where `data` is not a flat dictionary of scalars."""
        if not isinstance(data, Mapping):
            raise SpaceError(
                f"an architecture is a dictionary of choice -> option, not {type(data).__name__}"
            )
        for name, option in data.items():
            if not isinstance(name, str) or not isinstance(option, str | int | float | bool | None):
                told = f"{shown(repr(name))}: {shown(repr(option))}"
                raise SpaceError(f"an architecture maps the names of choices to scalars; got {told}")
        return cls(dict(data))
