"""Randomness as a function of (seed, purpose, step), never of global state.

Two processes that agree on the three numbers draw the same, in whatever order and however often they
were interrupted. That is what makes a resumed run equal to an uninterrupted one, and what lets every
rank of a distributed run draw the same path without a message.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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

    For code that draws from global state and takes no generator: module initialization, dropout,
    torchvision's transforms. The CPU's generator alone is kept and restored by hand, since that costs
    microseconds; CUDA's are forked only once CUDA is in use.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        # `default_generator` rather than `torch.manual_seed`: the latter also walks all backends
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(derive_seed(seed, *purpose))
        yield
