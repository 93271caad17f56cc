"""Operations that architecture search does more than anything else, in plain PyTorch.

Each function says in its docstring the PyTorch expression that it equals.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mixed_sum(xs: Sequence[Tensor | None], weights: Tensor) -> Tensor:
    """The weighted sum of N candidates' outputs, `sum(w * x for w, x in zip(weights, xs))`.

    xs: N tensors of one shape; None for a candidate that was not run (its weight counts as zero).
    weights: (N,). Gradients reach every x and every weight whose x is not None.
    """
    total = None
    for x, weight in zip(xs, weights.unbind(0), strict=True):
        if x is not None:
            term = x * weight.to(x.dtype)
            total = term if total is None else total + term
    if total is None:
        raise ValueError("mixed_sum needs at least one candidate that is not None")
    return total
