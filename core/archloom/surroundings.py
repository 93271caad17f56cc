"""What a call finds in its process and shares with all of it: PyTorch's settings, its generator, its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from .errors import RunError
from .randomness import watched_rng

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def plain_settings() -> Iterator[None]:
    """PyTorch and numpy with the settings that they start with, whatever the caller has set; given back afterwards.

    Gradients are on, tensors are float32 and on the CPU unless something else is asked for, there is no inference mode
    and no autocast, and numpy raises nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


_lock = threading.RLock()
_running: list[str] = []


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """A RunError where another thread of this process is at work."""
    if not _lock.acquire(blocking=False):
        other = _running[0] if _running else "a run"
        raise RunError(
            f"{other} is at work in another thread of this process, and PyTorch's random generator and number of "
            f"threads belong to the whole process. Start {what} when that has ended, or in a process of its own"
        )
    try:
        _running.append(what)
        if len(_running) > 1:  # a search of a comparison, say: the same thread
            yield
            return
        with watched_rng():
            yield
    finally:
        _running.pop()
        _lock.release()


def undisturbed(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates what works for long: one at a time in a process, under `plain_settings`. what: "a search"."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with _alone(what), plain_settings():
                return function(*args, **kwargs)

        return call

    return decorate


def plainly(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates what measures or judges: under `plain_settings`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        with plain_settings():
            return function(*args, **kwargs)

    return call
