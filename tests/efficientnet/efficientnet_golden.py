"""The golden file, the deterministic fill that its logits were made with, and what several tests share."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from archloom_efficientnet.formats import key_map

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_efficientnet.json").read_text())
NETWORKS = list(GOLDEN["models"])


def noise(key: str, count: int) -> np.ndarray:
    """`count` values in [-1, 1), a function of the key."""
    h = np.uint32(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + h
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x45D9F3B)
    x ^= x >> np.uint32(16)
    return x / 2.0**31 - 1


def fill_value(key: str, shape: torch.Size, gain: float) -> torch.Tensor:
    """What the tensor of lukemelas' key `key` holds."""
    count = int(np.prod(shape))
    v = noise(key, count)
    if key.endswith("running_var"):
        v = 1 + 0.5 * v
    elif key.endswith("running_mean"):
        v = 0.1 * v
    elif key.endswith("weight") and len(shape) == 1:
        v = 1 + 0.25 * v
    elif key.endswith("bias"):
        v = 0.1 * v
    else:
        v = v * gain * np.sqrt(3 / (count / shape[0]))
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)


def fill(model, name="efficientnet-b0"):
    """`model` (ours) with the deterministic weights; batch counters at zero."""
    gain = GOLDEN["meta"]["gain"].get(name, 1.4)
    names = key_map("lukemelas", model.config)
    state = model.state_dict()
    for key, value in state.items():
        value.copy_(
            torch.zeros_like(value)
            if key.endswith("num_batches_tracked")
            else fill_value(names[key], value.shape, gain)
        )
    return model


def det_input(n: int, c: int, h: int, w: int) -> torch.Tensor:
    """The golden file's images, (n, c, h, w)."""
    nn, cc, yy, xx = np.meshgrid(*(np.arange(size) for size in (n, c, h, w)), indexing="ij")
    wave = np.sin(2 * np.pi * ((cc + 1) * (nn + 1) * yy / h + (nn + cc + 1) * xx / w))
    v = noise("input", n * c * h * w).reshape(n, c, h, w)
    return torch.from_numpy((0.5 * v + wave).astype(np.float32))


def first(values: torch.Tensor, golden: list) -> float:
    """How far `values` are from the golden file's first numbers, over the tolerance: at most 1 is right."""
    wanted = torch.tensor(golden, dtype=torch.float64)
    got = values.flatten()[: len(golden)].double()
    return float(((got - wanted).abs() / (1e-5 + 1e-5 * wanted.abs())).max())
