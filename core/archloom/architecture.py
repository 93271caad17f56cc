"""Choices and architectures: values, not modules. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SpaceError, nearest

Option = str | int | float | bool | None
"""What can be chosen: a JSON scalar."""


@dataclass(frozen=True)
class Choice:
    """A name and its options. The order of the options is part of the space: indices refer to it."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise SpaceError(f"choice '{self.name}' has no options; give it at least one")
        if len(set(self.options)) != len(
            self.options
        ):  # 1, 1.0 and True are equal: one architecture, not three
            raise SpaceError(f"choice '{self.name}' lists an option twice: {list(self.options)}")

    def index(self, option: Option) -> int:
        """The position of `option`; a SpaceError that names the nearest one where there is none."""
        for position, known in enumerate(self.options):
            if known == option and type(known) is type(option):
                return position
        near = nearest(str(option), [str(known) for known in self.options])
        hint = f"; did you mean '{near}'?" if near else "."
        raise SpaceError(
            f"choice '{self.name}' has no option {option!r}{hint} It has: {', '.join(map(str, self.options))}."
        )


class Architecture(Mapping[str, Option]):
    """One decision for each choice of a space: frozen, hashable, JSON-able.

    `Architecture({"layer0": "skip"})["layer0"]`; a change returns a new one: `a.replace(layer0="k3_e6")`.
    Two architectures are equal when they decide the same, in whatever order they were written.
    """

    __slots__ = ("_decisions",)
    _decisions: dict[str, Option]

    def __init__(self, decisions: Mapping[str, Option]) -> None:
        object.__setattr__(self, "_decisions", dict(decisions))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Architecture is frozen; use replace() for a changed one")

    def __reduce__(self) -> tuple[type[Architecture], tuple[dict[str, Option]]]:
        return Architecture, (dict(self._decisions),)

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

    def replace(self, **decisions: Option) -> Architecture:
        """The same architecture with some decisions changed."""
        unknown = set(decisions) - set(self._decisions)
        if unknown:
            raise SpaceError(f"no choice named {sorted(unknown)}; there are {list(self._decisions)}")
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
                raise SpaceError(f"an architecture maps names to scalars; got {name!r}: {option!r}")
        return cls(dict(data))
