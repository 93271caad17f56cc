"""What the events of a search may say: each one's shape, and how it fits those before it.

A log that something else than one search at a time has written is found here, whether lines are missing, doubled,
changed, or another run's; the first one that does not fit is named. Kinds of events that are not known here pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from .architecture import Architecture
from .errors import RunError, SpaceError
from .trial import Status, Trial

Damage = Callable[[int, str], RunError]
"""Makes the error for the event of an index, from what is wrong with it: "has no number"."""

_TWICE = "two processes wrote at once, or the line was doubled"


def unnamed(index: int, what: str) -> RunError:
    """The error for events that are in no file."""
    return RunError(f"event {index + 1} of the log {what}; it was changed by hand")


def check_history(
    events: Sequence[Mapping[str, Any]], damage: Damage = unnamed, *, whole: bool = False
) -> None:
    """A RunError, made by `damage`, for the first event that one search alone cannot have written.

    whole: the events are all of a run's, and so begin with its start.
    """
    history = _History()
    for index, event in enumerate(events):
        kind = event.get("event")
        problem = ""
        if not isinstance(kind, str):
            problem = "is no event: it does not say which"
        elif whole and index == 0 and kind != "start":
            problem = "is no start of a run, as the first line is"
        elif kind in _FIELDS:
            problem = _shape(event, _FIELDS[kind])
        if not problem and kind in _RULES:
            problem = _RULES[kind](history, event, index + 1)
        if problem:
            raise damage(index, problem)


# -- shapes -----------------------------------------------------------------------------------------------


def _whole(value: Any) -> bool:
    return type(value) is int


def _amount(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(one) in (int, float) for one in value.values())


def _finite(value: Any) -> bool:
    return _numbers(value) and all(map(math.isfinite, value.values()))


def _share(value: Any) -> bool:
    return _amount(value) and 0 < value <= 1


def _architecture(value: Any) -> bool:
    try:
        Architecture.from_json(value)
    except SpaceError:
        return False
    return True


def _scores(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(type(one) in (int, float) and math.isfinite(one) for one in value)
    )


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_Fields = Mapping[str, tuple[Callable[[Any], bool], str]]

_FIELDS: Mapping[str, _Fields] = {
    "start": {
        "identity": (_table, "the run's identity"),
        "versions": (_table, "versions by name"),
        "device": (_text, "a device"),
    },
    "fit": {
        "unit": (_whole, "a whole number"),
        "of": (_whole, "a whole number"),
        "epochs": (_amount, "a number of epochs"),
        "metrics": (_numbers, "numbers by name"),
        "active": (_amount, "seconds"),
    },
    "propose": {
        "number": (_or_none(_whole), "a whole number or null"),
        "architecture": (_or_none(_architecture), "an architecture or null"),
    },
    "result": {
        "number": (_whole, "a whole number"),
        "architecture": (_architecture, "an architecture"),
        "status": (lambda value: value in get_args(Status), " or ".join(get_args(Status))),
        "metrics": (_finite, "finite numbers by name"),
        "scores": (_scores, "finite numbers or null"),
        "cost": (_numbers, "numbers by name"),
        "seed": (_whole, "a whole number"),
        "source": (_or_none(_whole), "a trial's number or null"),
        "error": (_or_none(_text), "a text or null"),
    },
    "observe": {"number": (_whole, "a whole number")},
    "end": {"reason": (_text, "a reason")},
    "final": {
        "name": (_text, "a training's name"),
        "role": (_text, "a role"),
        "index": (_whole, "a whole number"),
        "seed": (_whole, "a whole number"),
        "architecture": (_architecture, "an architecture"),
    },
}

_OF_A_RESULT = {field.name for field in dataclasses.fields(Trial)} | {"event", "active"}


def _shape(event: Mapping[str, Any], fields: _Fields) -> str:
    for name, (good, what) in fields.items():
        if name not in event:
            return f"is a {event['event']} without {name}"
        if not good(event[name]):
            return f"is a {event['event']} whose {name} is not {what}"
    return ""


# -- order ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _History:
    """What the events so far have said, each with its line."""

    proposed: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    results: dict[int, int] = dataclasses.field(default_factory=dict)
    observed: dict[int, int] = dataclasses.field(default_factory=dict)
    unit: int = 0

    def anew(self, event: Mapping[str, Any], line: int) -> str:
        """The search began anew, with the same supernet: its trials are numbered from 0 again."""
        self.proposed, self.results, self.observed = [], {}, {}
        return ""

    def fit(self, event: Mapping[str, Any], line: int) -> str:
        unit, of = event["unit"], event["of"]
        if unit > of:
            return f"is unit {unit} of {of} of the supernet's training"
        if unit <= self.unit:
            return f"is unit {unit} of the supernet's training once more: {_TWICE}"
        if unit != self.unit + 1:
            return f"is unit {unit} of the supernet's training, and unit {self.unit + 1} is missing before it"
        self.unit = unit
        return ""

    def propose(self, event: Mapping[str, Any], line: int) -> str:
        number = event["number"]
        if (number is None) != (event["architecture"] is None):
            return "is a proposal of which half is missing"
        if number is None:
            return ""
        if not _share(event.get("fidelity", 1.0)):
            return "is a propose whose fidelity is not above 0 and at most 1"
        if number < len(self.proposed):
            return f"proposes trial {number} once more: {_TWICE}"
        if number > len(self.proposed):
            return f"proposes trial {number}, and the proposal of trial {len(self.proposed)} is missing before it"
        self.proposed.append(event)
        return ""

    def result(self, event: Mapping[str, Any], line: int) -> str:
        number, source = event["number"], event["source"]
        if unknown := event.keys() - _OF_A_RESULT:
            return f"is a result with the unknown {', '.join(sorted(unknown))}"
        if not 0 <= number < len(self.proposed):
            return f"is the result of trial {number}, whose proposal is missing before it"
        if number in self.results:
            return f"is a second result of trial {number}, beside line {self.results[number]}: {_TWICE}"
        asked = self.proposed[number]
        if event["architecture"] != asked["architecture"] or event.get("fidelity", 1.0) != asked.get(
            "fidelity", 1.0
        ):
            return f"is a result of another architecture than trial {number} proposed"
        if (event["scores"] is not None) != (event["status"] == "ok"):
            return f"is a result whose scores do not go with its status, {event['status']}"
        if source is not None and not (source < number and source in self.results):
            return f"repeats trial {source}, which has no result before it"
        self.results[number] = line
        return ""

    def observe(self, event: Mapping[str, Any], line: int) -> str:
        number = event["number"]
        if not 0 <= number < len(self.proposed):
            return f"delivers trial {number}, whose proposal is missing before it"
        if number not in self.results:
            return f"delivers trial {number} without a result before it"
        if number in self.observed:
            return f"delivers trial {number} once more, after line {self.observed[number]}: {_TWICE}"
        self.observed[number] = line
        return ""

    def final(self, event: Mapping[str, Any], line: int) -> str:
        if not _table(event.get("metrics")) and not _text(event.get("error")):
            return "is a final with neither metrics nor an error"
        if "metrics" in event and not _numbers(event["metrics"]):
            return "is a final whose metrics are not numbers by name"
        return ""


_RULES: Mapping[Any, Callable[[_History, Mapping[str, Any], int], str]] = {
    "anew": _History.anew,
    "fit": _History.fit,
    "propose": _History.propose,
    "result": _History.result,
    "observe": _History.observe,
    "final": _History.final,
}
