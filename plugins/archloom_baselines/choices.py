"""A space that is written in the configuration: decisions, and no networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from archloom import Architecture, Choice, SpaceError


class Choices:
    """Decisions without networks, for a function of your own: `choices: {lr: [0.1, 0.01], depth: [2, 4, 8]}`.

    choices: name -> its options, or {options: [2, 4, 8], ordered: true, when: {kind: [deep]}}: ordered options have
    neighbours, and a choice with `when` is decided under these options of earlier ones alone.
    """

    def __init__(self, *, choices: dict[str, Any]) -> None:
        if not choices:
            raise SpaceError("space 'choices' has none; write choices: {lr: [0.1, 0.01], depth: [2, 4, 8]}")
        self.choices = [_choice(name, given) for name, given in choices.items()]

    def build(self, architecture: Architecture) -> nn.Module:
        """There is nothing to build."""
        raise SpaceError(
            "space 'choices' has decisions and no networks. Write 'task: null', and let a function of yours measure: "
            "estimators: [{type: function, path: train.py:evaluate, metrics: accuracy}]"
        )


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _choice(name: str, given: Any) -> Choice:
    if not isinstance(given, Mapping):
        given = {"options": given}
    known = ("options", "ordered", "when")
    if "options" not in given or not set(given) <= set(known):
        raise SpaceError(
            f"choice '{name}' is {given!r:.80}; write a list of options, or {{options: [2, 4], ordered: true}} with "
            f"any of: {', '.join(known)}"
        )
    for option in given["options"] if isinstance(given["options"], list) else ():
        if isinstance(option, str) and _NUMBER.fullmatch(option):
            raise SpaceError(
                f"choice '{name}': YAML reads {option} as a text; as a number it needs a point: {float(option):.1e}"
            )
    when = given.get("when")
    if when is not None and not isinstance(when, Mapping):
        raise SpaceError(f"choice '{name}': when is {when!r:.80}; write {{kind: [deep]}}")
    lists = when and {one: tuple(o) if isinstance(o, list) else (o,) for one, o in when.items()}
    return Choice(name, given["options"], ordered=given.get("ordered", False), when=lists)
