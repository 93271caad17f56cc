"""The meta network that matches a path with a teacher, and the gradient that it learns by (section 3.3).

The path's class probabilities on a few probe images are compared with those of each prioritized path:

    w_k = M(softmax f(X; a) - softmax f(X; b_k)),   teacher = argmax_k w_k,   m = sigmoid(w_teacher)

and m weighs the teacher's word. M's parameters theta are learned so that a step with the weighted
distillation loss lowers the loss on held-out data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


class MatchingNetwork(nn.Linear):
    """M: the differences of K pairs (K, S, classes) -> K numbers, all in one product."""

    def __init__(self, images: int, num_classes: int) -> None:
        super().__init__(images * num_classes, 1)
        nn.init.uniform_(self.weight, -1, 1)
        nn.init.zeros_(self.bias)

    def forward(self, difference: Tensor) -> Tensor:
        return super().forward(difference.flatten(1)).squeeze(1)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KD = mean over images of -sum_c q_c log softmax(f_a)_c, at temperature 1.

    logits: of the path, (N, classes). teacher: probabilities q (N, classes).
    """
    return F.cross_entropy(logits, teacher)


def joined_loss(ce: Tensor, kd: Tensor, m: Tensor) -> Tensor:
    """L = (m KD + (2 - m) CE) / 2."""
    return (m * kd + (2 - m) * ce) / 2


def meta_gradient(
    inner: Callable[[Weights], Tensor],
    outer: Callable[[Weights], Tensor],
    w: Weights,
    theta: Sequence[nn.Parameter],
    lr: float,
    *,
    scale: float | None = None,
    first_only: bool = False,
    average: Callable[[Tensor], Tensor] = lambda values: values,
) -> list[Tensor]:
    """d L_val(w - lr dF/dw) / d theta, where F(w, theta) = m KD is the step's loss.

        = -lr d/dtheta <v, dF/dw>,   v = dL_val/dw at the stepped weights

    The mixed second derivative along v is a derivative of dF/dtheta along v, and that is taken as a central
    difference, (dF/dtheta(w + h v) - dF/dtheta(w - h v)) / 2h: two forwards, and a backward through M alone. No
    graph of second order is built, and w itself is never touched.

    inner: w -> F, differentiable in w and theta. outer: w -> L_val. w: the path's weights by name.
    scale: a factor other than `lr` for the result. first_only: v of the first tensor of w alone. Both are
        the reference code's form. average: over the ranks.
    """
    names, leaves = list(w), [tensor.detach().requires_grad_() for tensor in w.values()]
    g1 = _gradient(inner(dict(zip(names, leaves, strict=True))), leaves, average)
    stepped = [(leaf - lr * g).detach().requires_grad_() for leaf, g in zip(leaves, g1, strict=True)]
    v = _gradient(outer(dict(zip(names, stepped, strict=True))), stepped, average)
    if first_only:
        v = (v[0], *(torch.zeros_like(tensor) for tensor in v[1:]))
    length = torch.stack([tensor.norm() for tensor in v]).norm()
    if not float(length) > 0:  # nothing to go by; NaN comes out as NaN, and is named by the caller
        return [torch.zeros_like(parameter) * length for parameter in theta]
    h = float(_reach(leaves[0].dtype) / length)
    ends = []
    for sign in (h, -h):
        moved = {
            name: (leaf.detach() + sign * tensor) for name, leaf, tensor in zip(names, leaves, v, strict=True)
        }
        ends.append(_gradient(inner(moved), theta, average))
    factor = -(lr if scale is None else scale) / (2 * h)
    return [factor * (ahead - behind) for ahead, behind in zip(*ends, strict=True)]


def _reach(dtype: torch.dtype) -> float:
    """How far from w the ends of the difference lie, as a norm: where the errors of cutting the series off
    and of rounding balance, near the cube root of the type's precision."""
    return 0.4 * float(torch.finfo(dtype).eps) ** (1 / 3)


def _gradient(loss: Tensor, of: Sequence[Tensor], average: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a loss, the mean over the ranks in one message."""
    gradients = torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True)
    flat = average(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    return tuple(part.view(g.shape) for part, g in zip(parts, gradients, strict=True))
