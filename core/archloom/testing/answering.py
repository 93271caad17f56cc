"""A plugin file: a space whose architectures say how they are to be measured, and the estimator that does so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import archloom
from archloom.architecture import Architecture, Choice
from archloom.estimator import STATIC, Context, Metric
from archloom.testing.tiny import tiny_task

MEASURED = "measured.txt"
"""In the run's folder: a line for each estimate that began, with what it did, its number and its process."""

SLEEP = 60.0
"""Seconds that an estimate takes which is to be ended before."""


class Behaviours:
    """What an estimate does, and a number that it gives."""

    def __init__(self) -> None:
        does = ("answers", "waits", "asks", "raises", "dies", "dies once", "sleeps")
        self.choices = [Choice("does", does), Choice("number", tuple(range(8)))]

    def build(self, architecture: Architecture) -> nn.Module:
        """A network, which nobody looks at."""
        return nn.Conv2d(1, 4, 1)


class Answering:
    """Does what the architecture says, and tells what it was handed."""

    metrics = tuple(
        Metric(name, "1", "max") for name in ("number", "seed", "upto", "since", "asked", "process")
    )
    expense, needs = STATIC, ()

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        """The architecture's number, the trial's seed and fidelity, a recorded value, and the process's number."""
        assert context.folder is not None
        does, number = architecture["does"], architecture["number"]
        before = measured(context.folder)
        _note(context.folder, does, number)
        asked = 0.0
        match does:
            case "waits":
                time.sleep(0.5)
            case "asks":
                asked = context.recorded("asked", lambda: self._measure(context.folder))
            case "raises":
                raise ValueError(f"the number was {number}")
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "dies once" if (does, number) not in before:
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleeps":
                time.sleep(SLEEP)
        return {
            "number": float(number or 0),
            "seed": context.seed,
            "upto": context.fidelity.upto,
            "since": context.fidelity.since,
            "asked": asked,
            "process": os.getpid(),
        }

    def _measure(self, folder: Any) -> float:
        """A value that each measuring finds another: how many measured it before."""
        _note(folder, "measures", 0)
        time.sleep(0.2)
        return float(measured(folder).count(("measures", 0)))


def _note(folder: Path, does: Any, number: Any) -> None:
    with (folder / MEASURED).open("a", encoding="utf-8") as file:
        file.write(f"{does},{number},{os.getpid()}\n")


def rows(folder: Path) -> list[tuple[str, int, int]]:
    """What each estimate that began did, its number and its process."""
    path = folder / MEASURED
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [
        (does, int(number), int(pid)) for does, number, pid in (line.split(",") for line in text.splitlines())
    ]


def measured(folder: Path) -> list[tuple[str, int]]:
    """What each estimate that began did, and its number."""
    return [row[:2] for row in rows(folder)]


class Silent:
    """Proposes nothing."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def propose(self) -> None:
        """Nothing."""

    def observe(self, trial: Any) -> None:
        """Nobody listens."""


@archloom.hookimpl
def register_search_spaces(register: Any) -> None:
    register("contract_behaviours", Behaviours)


@archloom.hookimpl
def register_strategies(register: Any) -> None:
    register("contract_silent", Silent)


@archloom.hookimpl
def register_estimators(register: Any) -> None:
    register("contract_answering", Answering)


@archloom.hookimpl
def register_tasks(register: Any) -> None:
    register("contract_tiny", tiny_task_by_name)


def tiny_task_by_name() -> Any:
    """Noise of four classes."""
    return tiny_task()
