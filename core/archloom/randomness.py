"""Randomness as a function of (seed, purpose, step), never of global state.

Two processes that agree on the three numbers draw the same, in whatever order and however often they
were interrupted. That is what makes a resumed run equal to an uninterrupted one, and what lets every
rank of a distributed run draw the same path without a message.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("archloom")


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: `derive_seed(0, "gumbel", step)`.

    The parts are hashed with their types and lengths, so that ("a", 11) and ("a1", 1) differ.
    """
    digest = hashlib.sha256()
    for part in (seed, *purpose):
        text = f"{type(part).__name__}:{part}"
        digest.update(f"{len(text)}|{text}".encode())
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def python_rng(seed: int, *purpose: str | int) -> random.Random:
    """A generator of the standard library for one purpose."""
    return random.Random(derive_seed(seed, *purpose))


def torch_rng(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of PyTorch for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def forked_rng(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block and give them back as they were.

    For code that draws from global state and takes no generator, and is worth no detour: the training of networks with
    dropout. Networks are built under `archloom.drawing.own_rng`. The CPU's generator alone is kept and restored by
    hand, since that costs microseconds; CUDA's are forked only once CUDA is in use. One thread at a time is inside;
    others wait, so that two trainings in two threads take turns by the epoch and both draw as alone.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _Watch.turn, torch.random.fork_rng(devices=devices), _Watch.block():
        # `default_generator` rather than `torch.manual_seed`: the latter also walks all backends
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(derive_seed(seed, *purpose))
        yield


def other_threads() -> bool:
    """Whether code that is not ours may run in another thread of this process."""
    ours = ("rich.", "tensorboard.")
    return threading.active_count() > 1 and any(
        thread is not threading.current_thread()
        and not type(thread).__module__.startswith(ours)
        and "archloom" not in thread.name
        for thread in threading.enumerate()
    )


class _Watch:
    """Does anybody else draw from PyTorch's global generator while a run uses it?

    Each `forked_rng` gives the generator back as it was, so between two of them it stays the same. A block within
    another (images are read and changed while a network is trained) finds the outer block's numbers, and says nothing.
    """

    turn = threading.RLock()
    depth = 0  # changed by the thread that has the turn
    state: torch.Tensor | None = None
    watching = told = False

    @classmethod
    @contextmanager
    def block(cls) -> Iterator[None]:
        """Compare the generator's state with that of the block before, unless within another block."""
        import torch

        if cls.depth == 0:
            cls._look(torch.default_generator.get_state())
        cls.depth += 1
        try:
            yield
        finally:
            cls.depth -= 1

    @classmethod
    def _look(cls, state: torch.Tensor) -> None:
        if not cls.watching or cls.told or not other_threads():
            return
        if cls.state is not None and not state.equal(cls.state):
            cls.told = True
            logger.warning(_DRAWN)
            with suppress(Exception):  # where warnings are errors: it is in log.txt
                warnings.warn(_DRAWN, stacklevel=7)
        cls.state = state


def _new_turn() -> None:
    # in a forked process nobody is left who would give it back
    _Watch.turn, _Watch.depth = threading.RLock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_turn)


_DRAWN = (
    "other code draws from PyTorch's global random generator while this run uses it: another thread of this process, "
    "or a plugin. A network with dropout draws from the same generator, so such a run may not be repeatable. Give that "
    "code a torch.Generator of its own, or a process of its own"
)


@contextmanager
def watched_rng() -> Iterator[None]:
    """Warn once where other code draws from the global generator while the block runs."""
    _Watch.watching, _Watch.told, _Watch.state = True, False, None
    try:
        yield
    finally:
        _Watch.watching, _Watch.state = False, None
