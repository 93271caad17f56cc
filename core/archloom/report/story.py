"""What a run folder says, read without changing it: the run may be alive."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..columns import ACCURACY, Judged, judged_by
from ..documents import parse_yaml, reachable, read_text
from ..errors import RunError
from ..objective import Objective, front
from ..trial import Trial, since_anew
from .markup import OPTIONS, amount, escaped


@dataclass(frozen=True)
class Network:
    """A network that was trained from scratch: one entry of `trainings` for each seed."""

    role: str
    index: int
    architecture: Architecture
    trainings: Sequence[Mapping[str, Any]]

    def values(self, metric: str) -> list[float]:
        return [training["metrics"][metric] for training in self.trainings]

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.values(metric))

    def has(self, metric: str) -> bool:
        return all(metric in training["metrics"] for training in self.trainings)

    def spread(self, metric: str) -> float | None:
        """The standard deviation over seeds; None with a single seed."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Story:
    """The content of a run folder."""

    folder: Path
    config_text: str
    config: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    result: Mapping[str, Any] | None
    document: Mapping[str, Any] | None
    settings: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Story:
        with reachable(folder, "the run", error=RunError):
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> Story:
        for name in ("log.jsonl", "config.yaml"):
            if not (folder / name).is_file():
                raise RunError(
                    f"{folder} is no run folder: it has no {name}. Name the folder that archloom search wrote"
                )
        text = read_text(folder / "config.yaml", "the run's configuration", error=RunError)
        config = parse_yaml(text, f"{folder / 'config.yaml'} is damaged: it", error=RunError)
        if not isinstance(config, Mapping):
            raise RunError(f"{folder / 'config.yaml'} is damaged: it holds no mapping of keys to values")
        recorded = {path.stem: _json(path) for path in sorted(folder.glob("recorded/*.json"))}
        return cls(
            folder=folder,
            config_text=text,
            config=config,
            events=_events(folder / "log.jsonl"),
            environment=_json(folder / "environment.json") or {},
            result=_json(folder / "result.json"),
            document=_json(folder / "architecture.json"),
            settings={n: v["setting"] for n, v in recorded.items() if isinstance(v, dict) and "setting" in v},
        )

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @cached_property
    def trials(self) -> list[Trial]:
        results = {
            event["number"]: {key: value for key, value in event.items() if key not in ("event", "active")}
            for event in since_anew(self.events)
            if event["event"] == "result"
        }
        return [Trial.from_json(results[number]) for number in sorted(results)]

    @cached_property
    def front(self) -> list[Trial]:
        return front(self.trials)

    @cached_property
    def finals(self) -> list[Mapping[str, Any]]:
        """The trainings of the last verdict; of each role, place and seed the last, since a run that is resumed with
        a larger budget may have found another network."""
        return list({(e["role"], e["index"], e["seed"]): e for e in self._of_verdict("final")}.values())

    @cached_property
    def failures(self) -> list[Mapping[str, Any]]:
        """The trainings of the last verdict that ended with an error and not with a figure later."""
        reached = {final["name"] for final in self.finals}
        failed = {e["name"]: e for e in self._of_verdict("final failed") if e["name"] not in reached}
        return list(failed.values())

    def _of_verdict(self, kind: str) -> list[Mapping[str, Any]]:
        events, verdicts = self.of(kind), self.of("verdict")
        return [e for e in events if e["name"] in verdicts[-1]["names"]] if verdicts else events

    @cached_property
    def networks(self) -> list[Network]:
        finals = self.finals
        keys = dict.fromkeys((final["role"], final["index"]) for final in finals)
        mine = {key: [final for final in finals if (final["role"], final["index"]) == key] for key in keys}
        return [
            Network(role, index, Architecture.from_json(trainings[0]["architecture"]), trainings)
            for (role, index), trainings in mine.items()
        ]

    @cached_property
    def judged(self) -> Judged:
        """What the networks of the verdict are judged by."""
        verdicts = self.of("verdict")
        metric = verdicts[-1].get("metric") if verdicts else None
        if metric is None:
            return ACCURACY
        return judged_by(metric["name"], metric["unit"], metric["direction"], metric.get("cost"))

    @cached_property
    def objectives(self) -> list[Objective]:
        """The configured objectives; directions are read off the scores, which are metric or -metric."""
        ok = [trial for trial in self.trials if trial.scores is not None]
        return [
            Objective(name, "min" if any((t.scores or ())[i] == -t.metrics[name] != 0 for t in ok) else "max")
            for i, name in enumerate(self.config.get("objectives", []))
        ]

    @cached_property
    def end(self) -> Mapping[str, Any] | None:
        """The event that ended the search, unless the run was started again after it."""
        last = [event for event in self.events if event["event"] in ("start", "end")]
        return last[-1] if last and last[-1]["event"] == "end" else None

    @cached_property
    def found(self) -> Architecture | None:
        """What the ended search found."""
        if self.end is None or self.document is None:
            return None
        return Architecture.from_json(self.document["architecture"])

    def quantity(self, name: str, value: float) -> str:
        """A metric's figure and its unit, which result.json knows."""
        unit = (self.result or {}).get("units", {}).get(name, "1")
        return amount(value) if unit in ("", "1") else f"{amount(value)} {escaped(unit)}"

    @cached_property
    def finished(self) -> bool:
        """Whether result.json is there and speaks of all that the log holds."""
        if self.result is None or self.end is None or self.result["trials"] != len(self.trials):
            return False
        trained = sum(group["trainings"] for group in self.result["groups"])
        return bool(self.result.get("finished", True)) and trained == len(self.finals)

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour for each option that occurs anywhere in the run."""
        seen = [t.architecture for t in self.trials] + [n.architecture for n in self.networks]
        seen += [Architecture.from_json(failure["architecture"]) for failure in self.failures]
        options = {str(option) for architecture in seen for option in architecture.values()}
        ordered = sorted(
            options, key=lambda text: [(p.isdigit(), p.zfill(9)) for p in re.split(r"(\d+)", text)]
        )
        return {option: OPTIONS[i % len(OPTIONS)] for i, option in enumerate(ordered)}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged: {error}. Restore it, or resume the run to have it written anew"
        ) from error


def _events(path: Path) -> list[Mapping[str, Any]]:
    """The log's events. Read only: the run may be alive, and its last line half written."""
    events = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{path}, line {number}, is not JSON; restore the file, or start a new run"
            ) from error
        if not isinstance(events[-1], dict) or not isinstance(events[-1].get("event"), str):
            raise RunError(f"{path}, line {number}, is no event; restore the file, or start a new run")
    return events
