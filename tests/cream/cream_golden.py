"""The recorded behaviour of the reference implementation, and the fill under which it was recorded."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import archloom
import archloom_cream
from archloom.plugins import Host
from archloom_vision import components

DATA = Path(__file__).parent.parent / "data" / "golden_cream.json"


@cache
def golden() -> dict[str, Any]:
    return json.loads(DATA.read_text())


@cache
def host() -> Host:
    """A host with the plugin and the components that its models need, and nothing else."""
    host = Host(entry_points=False)
    host.add(components, "components", "archloom", "-")
    host.add(archloom_cream, "cream", "archloom", "-")
    return host


def built(name: str, *, dropout: float | None = None, **options: Any) -> Any:
    model = archloom.build(name, host=host(), **options)
    if dropout is not None:
        model.head.dropout.p = dropout
    return model


def noise(key: str, count: int) -> np.ndarray:
    """`count` values in [-1, 1), a function of `key`: two rounds of multiplicative mixing modulo 2**32."""
    mask = np.uint64(0xFFFFFFFF)
    x = (
        np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))
    ) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(2246822519)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(3266489917)) & mask
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2**31 - 1


def filled(key: str, like: Tensor) -> Tensor:
    """The value of a tensor that is stored under the reference's `key`."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    u = noise(key, like.numel())
    if key.endswith("running_var") or (key.endswith("weight") and like.ndim == 1):
        u = 1 + 0.25 * u
    elif key.endswith(("running_mean", "bias")):
        u = 0.1 * u
    else:
        u = u * np.sqrt(4.5 * like.shape[0] / like.numel())
    return torch.from_numpy(u.astype(np.float32)).view(like.shape)


def fill(module: torch.nn.Module, theirs: Callable[[str], str | None]) -> list[str]:
    """Fill every tensor of `module` by its reference key; the keys, in order."""
    state, keys = {}, []
    for ours, value in module.state_dict().items():
        key = theirs(ours)
        assert key is not None, f"{ours} has no counterpart"
        state[ours] = filled(key, value)
        keys.append(key)
    module.load_state_dict(state)
    return keys


def det_input(n: int, side: int) -> Tensor:
    """Images (n, 3, side, side)."""
    u = noise("input", n * 3 * side * side) * np.sqrt(3)
    return torch.from_numpy(u.astype(np.float32)).view(n, 3, side, side)


def checkpoint(net: str) -> dict[str, Tensor]:
    """The reference's state dict of a network, filled."""
    state = {}
    for key, shape, dtype in golden()["nets"][net]["state_dict"]:
        state[key] = filled(key, torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch."))))
    return state


def close(ours: Tensor, theirs: list[float], tolerance: float) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=tolerance, rtol=0)
