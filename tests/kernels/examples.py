"""Inputs for every operator, and what it shall give: plain PyTorch, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# relative to the largest value: what one rounding of a result costs, with room for sums
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}

# odd sizes: no vector is filled, a plane of one row, several segments of a plane, channels that fold
SHAPES = ((2, 3, 5, 7), (1, 5, 1, 1), (5, 7, 1, 3), (2, 24, 9, 9), (2, 2, 70, 67))


def tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    match layout:
        case "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        case "sliced":
            wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        case "transposed":
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        case "offset":  # contiguous, and not aligned to a vector
            flat = torch.zeros(x.numel() + 3, dtype=dtype)
            flat[3:] = x.reshape(-1)
            return flat[3:].reshape(shape)
        case _:
            return x


LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "offset")


@dataclass(frozen=True)
class Example:
    """`op(*args)` and `reference(*args)`, each one tensor; `args` hold tensors and lists of them."""

    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    args: tuple[Any, ...]
    name: str

    def leaves(self) -> list[Tensor]:
        flat = [x for arg in self.args for x in (arg if isinstance(arg, list) else [arg])]
        return [x for x in flat if isinstance(x, Tensor) and x.requires_grad]

    def in_float64(self) -> Example:
        def wide(arg: Any) -> Any:
            if isinstance(arg, list):
                return [wide(x) for x in arg]
            if isinstance(arg, Tensor):
                return arg.detach().double().requires_grad_(arg.requires_grad)
            return arg

        return Example(self.op, self.reference, tuple(wide(arg) for arg in self.args), self.name)


def _rows(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (x.dim() - 1))


def _bn(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    return F.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)


def examples(shape: tuple[int, ...], dtype: torch.dtype, layout: str, n: int = 3) -> list[Example]:
    """One of each operator."""
    coefficient = torch.float64 if dtype == torch.float64 else torch.float32
    ops = torch.ops.archloom

    def x(seed: int) -> Tensor:
        return (tensor(shape, dtype, layout, seed) * (1 + seed) + seed).requires_grad_()

    def per_channel(seed: int) -> Tensor:
        return (1 + 0.5 * tensor((shape[1],), coefficient, "", 50 + seed)).requires_grad_()

    weights = torch.rand(n, generator=torch.Generator().manual_seed(9)).to(coefficient).requires_grad_()
    scale = torch.tensor([0.0, 1.25, 1.25, 0.0, 1.25] * shape[0], dtype=coefficient)[: shape[0]]
    xs = [x(k) for k in range(n)]
    gammas, betas = [per_channel(k) for k in range(n)], [per_channel(10 + k) for k in range(n)]
    eps = [1e-5, 1e-3, 1e-2][:n]
    s = tensor((*shape[:2], 1, 1), dtype, "", 77).requires_grad_()
    found = [
        Example(ops.swish.default, F.silu, (x(1),), "swish"),
        Example(ops.drop_connect.default, lambda x, k: x * _rows(k, x), (x(1), scale), "drop_connect"),
        Example(
            ops.drop_connect_add.default,
            lambda x, y, k: y + x * _rows(k, x),
            (x(1), x(2), scale),
            "drop_connect_add",
        ),
        Example(
            ops.mixed_sum.default,
            lambda xs, w: sum(a * b for a, b in zip(w, xs, strict=True)),
            (xs, weights),
            "mixed_sum",
        ),
        Example(ops.scale_gate.default, lambda x, s: x * torch.sigmoid(s), (x(1), s), "scale_gate"),
    ]
    if shape[0] * shape[2] * shape[3] > 1:
        found += [
            Example(
                lambda xs, w, g, b: ops.bn_mixed_sum.default(xs, w, g, b, eps)[0],
                lambda xs, w, g, b: sum(a * _bn(*each) for a, *each in zip(w, xs, g, b, eps, strict=True)),
                (xs, weights, gammas, betas),
                "bn_mixed_sum",
            ),
            Example(
                lambda x, g, b: ops.bn_swish.default(x, g, b, 1e-3)[0],
                lambda x, g, b: F.silu(_bn(x, g, b, 1e-3)),
                (x(2), gammas[1], betas[1]),
                "bn_swish",
            ),
        ]
    return found
