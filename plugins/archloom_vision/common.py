"""What several tasks share: fractions, loading processes, torchvision where it is needed."""

from __future__ import annotations

import importlib
from typing import Any

from archloom import ConfigError
from archloom.processes import processors


def shares(task: str, architecture: float, validation: float = 0.0) -> dict[str, float]:
    """Fractions of the training images by split; weights gets what the others leave."""
    if not (architecture >= 0 and validation >= 0 and architecture + validation < 1):
        raise ConfigError(
            f"task '{task}': architecture = {architecture} and validation = {validation} must be at least 0 "
            "and leave something of the training images to the weights split"
        )
    weights = 1 - architecture - validation
    return {"weights": weights, "architecture": architecture} | (
        {"validation": validation} if validation else {}
    )


def at_least(task: str, smallest: int, **options: int | None) -> None:
    """Refuse the first of the options that is smaller; None stands for a default and passes."""
    for name, value in options.items():
        if value is not None and value < smallest:
            raise ConfigError(f"task '{task}': {name} must be at least {smallest}, not {value}")


MOST = 1024
"""Loading processes that one machine is asked for at most."""


def loading_processes(workers: int | None) -> int:
    """`workers`, or up to four where the processors that this process may use are as many."""
    if workers is not None and workers > MOST:
        raise ConfigError(f"workers is {workers}: more processes than any machine has; write at most {MOST}")
    if workers is not None:
        return workers
    cpus = processors()
    return min(4, cpus)


def torchvision_module(name: str, task: str) -> Any:
    """`torchvision.NAME`, imported only now: tasks that need no torchvision work without it."""
    try:
        return importlib.import_module(f"torchvision.{name}")
    except ImportError as error:
        raise ConfigError(
            f"the task '{task}' needs torchvision, which cannot be imported ({error}). "
            "The way out: pip install torchvision; or choose the task 'digits', which does without"
        ) from error
