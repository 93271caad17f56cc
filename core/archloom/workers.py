"""Measuring in other processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .config import SearchConfig, parse_config
from .estimator import FULL, Context, Fidelity
from .measuring import Measurer, Outcome
from .plugins import Host
from .resolve import resolve
from .run import recorded

_measurer: Measurer | None = None  # one per worker process, made by its initializer


class Workers:
    """`config.workers` processes, each with its own objects made from the configuration."""

    def __init__(self, config: SearchConfig, files: Sequence[str], folder: Path) -> None:
        self.workers = config.workers
        # spawned, not forked: PyTorch's thread pool does not survive a fork
        self._pool = ProcessPoolExecutor(
            config.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(config.model_dump(mode="json"), tuple(files), str(folder)),
        )

    def submit(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Future[Outcome]:
        """Measure in the next free worker."""
        return self._pool.submit(_measure, architecture, seed, fidelity)

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(cancel_futures=True)


def _prepare(data: dict[str, Any], files: tuple[str, ...], folder: str) -> None:
    import torch

    global _measurer
    config = parse_config(data)
    torch.set_num_threads(config.threads or max(1, torch.get_num_threads() // config.workers))
    resolved = resolve(config, Host(files))
    context = Context(
        resolved.space,
        resolved.task,
        resolved.parts,
        config.seed,
        resolved.device,
        config.precision,
        partial(recorded, Path(folder)),
        folder=Path(folder),
    )
    _measurer = Measurer(resolved.space, resolved.estimators, resolved.constraints, context, config.strict)


def _measure(architecture: Architecture, seed: int, fidelity: Fidelity) -> Outcome:
    if _measurer is None:
        raise RuntimeError("this process was not prepared as a worker")
    return _measurer(architecture, seed, fidelity)
