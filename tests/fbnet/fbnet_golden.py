"""The recorded behaviour of the reference implementation, and the fill under which it was recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent.parent / "data" / "golden_fbnet.json"


@cache
def golden() -> dict[str, Any]:
    return json.loads(DATA.read_text())


def noise(key: str, count: int) -> np.ndarray:
    """`count` values in [-1, 1), a function of `key`: multiplicative hashing modulo 2**32."""
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    mask = np.uint64(0xFFFFFFFF)
    x = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(start)) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x45D9F3B)) & mask
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2**31 - 1


def filled(key: str, like: Tensor, gain: float = 1.0) -> Tensor:
    """The value of a tensor that is stored under the reference's `key`."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    v = noise(key, like.numel())
    if key.endswith("running_var"):
        v = 1 + 0.5 * v
    elif key.endswith(("running_mean", "bias")):
        v = 0.1 * v
    elif key.endswith("weight") and like.ndim == 1:
        v = 1 + 0.25 * v
    else:
        v = v * gain * np.sqrt(3 / (like.numel() / like.shape[0]))
    return torch.from_numpy(v.astype(np.float32)).view(like.shape)


def fill(module: torch.nn.Module, theirs: Callable[[str], str | None] = str, gain: float = 1.0) -> list[str]:
    """Fill every tensor of `module` by its reference key; the keys, in order."""
    state, keys = {}, []
    for ours, value in module.state_dict().items():
        key = theirs(ours)
        assert key is not None, f"{ours} has no counterpart"
        state[ours] = filled(key, value, gain)
        keys.append(key)
    module.load_state_dict(state)
    module.eval()
    return keys


def det_input(*shape: int) -> Tensor:
    """Images (N, C, H, W): a plane wave of each image and channel, and noise."""
    n, c, y, x = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    wave = np.sin(2 * np.pi * ((c + 1) * (n + 1) * y / shape[2] + (n + c + 1) * x / shape[3]))
    v = noise("input", int(np.prod(shape))).reshape(shape)
    return torch.from_numpy((0.5 * v + wave).astype(np.float32))


def close(ours: Tensor, theirs: list[Any]) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-5, rtol=1e-5)
