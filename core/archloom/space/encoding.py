"""Architectures as rows of numbers, for what learns from them, and as lines of text, for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture, Choice, Option
from ..errors import SpaceError, shown
from .decisions import check
from .protocol import SearchSpace

Floats = NDArray[np.float64]
Code = Literal["options", "indices", "either"]
"""How decisions are written: as the options, as their positions from 0, or each as one of these."""


class Encoding:
    """Architectures as rows of the same width: a column for each option of each choice, 1 where it is decided.

    An ordered choice has one column, from 0 for its first option to 1 for its last, unless `numbers` is False. The
    columns of a choice that is not active are 0. columns: (choice, option) of each; None for the option of a number.
    """

    def __init__(self, choices: Sequence[Choice], *, numbers: bool = True) -> None:
        self.columns: list[tuple[str, Option]] = []
        self._places: dict[tuple[str, Option], tuple[int, float]] = {}
        for choice in choices:
            last = max(1, len(choice.options) - 1)
            for position, option in enumerate(choice.options):
                if numbers and choice.ordered:
                    self._places[choice.name, option] = len(self.columns), position / last
                else:
                    self._places[choice.name, option] = len(self.columns), 1.0
                    self.columns.append((choice.name, option))
            if numbers and choice.ordered:
                self.columns.append((choice.name, None))

    def of(self, architectures: Sequence[Architecture]) -> Floats:
        """(n, columns)."""
        rows = np.zeros((len(architectures), len(self.columns)))
        for row, architecture in enumerate(architectures):
            places, values = zip(*(self._places[decision] for decision in architecture.items()), strict=True)
            rows[row, list(places)] = values
        return rows


def one_hot(space: SearchSpace, architecture: Architecture) -> tuple[float, ...]:
    """The row of one architecture in the space's `Encoding`."""
    return tuple(Encoding(space.choices).of([check(space, architecture)])[0].tolist())


def to_text(space: SearchSpace, architecture: Architecture) -> str:
    """The options of the active choices in the space's order, separated by blanks; a SpaceError where one holds a
    blank itself."""
    words = [str(option) for option in check(space, architecture).values()]
    if broken := next((word for word in words if len(word.split()) != 1), None):
        raise SpaceError(
            f"the option '{broken}' holds a blank, so that a line of options cannot be read back; write the "
            "architecture as a dictionary choice -> option"
        )
    return " ".join(words)


def from_text(space: SearchSpace, text: str, code: Code = "options") -> Architecture:
    """The architecture of a line that has a word for each active choice, in the space's order; positions may also be
    written as digits without blanks ("0212"). A SpaceError where it is no architecture of the space."""
    choices, line = list(space.choices), text.strip()
    together = code != "options" and " " not in line and len(choices) > 1
    words = list(line) if together else line.split()
    decided: dict[str, Option] = {}
    for choice in choices:
        if not choice.active(decided):
            continue
        if len(decided) == len(words):
            raise SpaceError(_another_number(line, words, choices))
        try:
            decided[choice.name] = option_of(choice, words[len(decided)], code)
        except SpaceError as error:
            raise SpaceError(f"architecture '{shown(line)}': {error}") from error
    if len(decided) != len(words):
        raise SpaceError(_another_number(line, words, choices))
    return Architecture(decided)


def _another_number(line: str, words: Sequence[str], choices: Sequence[Choice]) -> str:
    conditional = ", and needs one for each that is active" if any(choice.when for choice in choices) else ""
    return (
        f"architecture '{shown(line)}' has {len(words)} decisions, but the space has {len(choices)} choices, "
        f"{choices[0].name} to {choices[-1].name}{conditional}"
    )


def option_of(choice: Choice, written: Any, code: Code = "options") -> Option:
    """The option that is written like this: a file has text where the space may have numbers."""
    word = str(written)
    alike = [option for option in choice.options if str(option) == word]
    if code != "indices" and alike:
        return alike[0]
    # not int(1.7), which would be 1
    if code != "options" and word.isascii() and word.isdigit() and int(word) < len(choice.options):
        return choice.options[int(word)]
    if code == "options":
        return choice.options[choice.index(written)]
    listed = shown(", ".join(map(str, choice.options)), 600)
    either = "neither an option nor the position of one" if code == "either" else "no position of an option"
    raise SpaceError(
        f"'{shown(word)}' is {either} of choice '{choice.name}'; it has {len(choice.options)}, "
        f"0 to {len(choice.options) - 1}: {listed}"
    )
