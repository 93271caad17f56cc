"""vmap of the compiled operators: swish batches as it is, every other one sample by sample.

torch.func on the functions of `archloom.ops` does not come here: there the references run, which PyTorch batches
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.archloom


def _sample(arg: Any, dim: Any, index: int) -> Any:
    if isinstance(arg, (list, tuple)):
        return (
            [_sample(a, d, index) for a, d in zip(arg, dim, strict=True)]
            if isinstance(dim, (list, tuple))
            else arg
        )
    return arg if dim is None else arg.select(dim, index)


def _batched(name: str) -> Callable[..., Any]:
    op = getattr(_ops, name).default

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        results = [op(*map(_sample, args, in_dims, [b] * len(args))) for b in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(
            [torch.stack(each) for each in zip(*part, strict=True)]
            if isinstance(part[0], list)
            else torch.stack(part)
            for part in zip(*results, strict=True)
        )
        return stacked, tuple([0] * len(part) if isinstance(part, list) else 0 for part in stacked)

    return rule


def _swish_batched(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
    return _ops.swish.default(x), in_dims[0]


torch.library.register_vmap("archloom::swish", _swish_batched)

for _name in (
    *("swish_backward", "drop_connect", "drop_connect_add", "mixed_sum", "mixed_sum_backward"),
    *(
        "bn_mixed_sum",
        "bn_mixed_sum_backward",
        "bn_swish",
        "bn_swish_backward",
        "scale_gate",
        "scale_gate_backward",
    ),
):
    torch.library.register_vmap(f"archloom::{_name}", _batched(_name))
