"""The recorded behaviour of the reference implementation, and the fill under which it was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toys import noise
from toys import wave as det_input

__all__ = ["close", "det_input", "fill", "filled", "golden", "noise"]

DATA = Path(__file__).parent.parent / "data" / "golden_fbnet.json"


@cache
def golden() -> dict[str, Any]:
    return json.loads(DATA.read_text())


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


def close(ours: Tensor, theirs: list[Any]) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-5, rtol=1e-5)
