"""What a process has while it searches: its share of the CPU, a log file, and where that is recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..documents import read_json
from ..errors import RunError
from ..run import Run, write_json

logger = logging.getLogger("archloom")


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """PyTorch's CPU threads inside the block; None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_then(run: Run) -> int | None:
    """The threads that the run began with, where that is known: sums over another number of them round differently."""
    first = next(run.log.of("start"), None)
    then = None if first is None else first.get("threads")
    if first is not None and then is None and (run.folder / "environment.json").is_file():
        then = run.read_json("environment.json").get("threads")  # older versions recorded it there alone
    return then if type(then) is int and then > 0 else None


def note_environment(path: Path, now: Mapping[str, Any]) -> None:
    """Write where a run begins; of each later start, under `resumed`, what is not as it was then."""
    if not path.exists():
        write_json(path, now)
        return
    then = read_json(path, "the run's environment", error=RunError)
    resumed = then.setdefault("resumed", [])
    differing = {name: value for name, value in now.items() if name != "command" and then.get(name) != value}
    if differing and not (resumed and resumed[-1] == differing):
        resumed.append(differing)
        write_json(path, then)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """What is logged inside the block, from INFO on, goes to the end of the file too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
