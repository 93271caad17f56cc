"""The gradients of the compiled operators. Each `setup` keeps what its `backward` needs and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.archloom


def _differentiable(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    torch.library.register_autograd(f"archloom::{name}", backward, setup_context=setup)


def _swish_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])


def swish_backward(ctx: Any, grad: Tensor) -> Tensor:
    return _ops.swish_backward.default(grad, ctx.saved_tensors[0])


def _swish_backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _swish_double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """dx = g swish'(x): linear in g; swish''(x) = s (1 - s) (2 + x (1 - 2 s)) with s = sigmoid(x)."""
    g, x = ctx.saved_tensors
    s = torch.sigmoid(x)
    return _ops.swish_backward.default(grad, x), grad * g * (s * (1 - s) * (2 + x * (1 - 2 * s)))


def _drop_connect_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[-1])


def drop_connect_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _ops.drop_connect.default(grad, ctx.saved_tensors[0]), None


def drop_connect_add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
    dx = _ops.drop_connect.default(grad, ctx.saved_tensors[0]) if ctx.needs_input_grad[0] else None
    return dx, grad, None


def _mixed_sum_setup(ctx: Any, inputs: Any, output: Any) -> None:
    xs, weights = inputs
    ctx.save_for_backward(*xs, weights)


def _mixed_sum_backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor | None], Tensor | None]:
    *xs, weights = ctx.saved_tensors
    needs_xs, needs_weights = ctx.needs_input_grad
    dxs, dweights = _ops.mixed_sum_backward.default(grad, xs, weights, any(needs_xs), needs_weights)
    kept: list[Tensor | None] = [dx if need else None for dx, need in zip(dxs, needs_xs, strict=False)]
    return kept or [None] * len(xs), dweights if needs_weights else None


def _mixed_sum_backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
    grad, xs, weights, *_ = inputs
    ctx.save_for_backward(grad, *xs, weights)


def _mixed_sum_double_backward(ctx: Any, grad_dxs: list[Tensor], grad_dweights: Tensor) -> tuple[Any, ...]:
    """dx_i = w_i g and dw_i = <g, x_i> are bilinear: their gradients are the same two operations again."""
    g, *xs, weights = ctx.saved_tensors
    dg = _ops.mixed_sum.default(xs, grad_dweights)
    dxs, _ = _ops.mixed_sum_backward.default(g, xs, grad_dweights, True, False)
    dweights = None
    if grad_dxs:
        dg = dg + _ops.mixed_sum.default(grad_dxs, weights)
        dweights = _ops.mixed_sum_backward.default(g, grad_dxs, weights, False, True)[1]
    return dg, dxs, dweights, None, None


def _bn_mixed_sum_setup(ctx: Any, inputs: Any, output: Any) -> None:
    xs, weights, gammas, betas, eps = inputs
    _, mean, var = output
    ctx.save_for_backward(*xs, weights, *gammas, *betas, mean, var)
    ctx.eps = eps
    ctx.set_materialize_grads(False)


def bn_mixed_sum_backward(ctx: Any, grad: Tensor | None, *statistics: Tensor | None) -> tuple[Any, ...]:
    _refuse_statistics("bn_mixed_sum", statistics)
    n = len(ctx.eps)
    saved = ctx.saved_tensors
    xs, weights, gammas, betas = saved[:n], saved[n], saved[n + 1 : 2 * n + 1], saved[2 * n + 1 : 3 * n + 1]
    if grad is None:
        return [None] * n, None, [None] * n, [None] * n, None
    dxs, dweights, dgamma, dbeta = _ops.bn_mixed_sum_backward.default(
        grad, list(xs), weights, list(gammas), list(betas), *saved[-2:], ctx.eps
    )
    dgammas = [row.to(gamma.dtype) for row, gamma in zip(dgamma.unbind(0), gammas, strict=True)]
    dbetas = [row.to(beta.dtype) for row, beta in zip(dbeta.unbind(0), betas, strict=True)]
    return dxs, dweights, dgammas, dbetas, None


def _bn_swish_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, gamma, beta, eps = inputs
    _, mean, var = output
    ctx.save_for_backward(x, gamma, beta, mean, var)
    ctx.eps = eps
    ctx.set_materialize_grads(False)


def bn_swish_backward(ctx: Any, grad: Tensor | None, *statistics: Tensor | None) -> tuple[Any, ...]:
    _refuse_statistics("bn_swish", statistics)
    if grad is None:
        return None, None, None, None
    return *_ops.bn_swish_backward.default(grad, *ctx.saved_tensors, ctx.eps), None


def _refuse_statistics(name: str, grads: Sequence[Tensor | None]) -> None:
    if any(grad is not None for grad in grads):
        raise NotImplementedError(
            f"archloom::{name} has no gradient through the mean and variance that it returns: "
            "detach them, or use the reference in archloom.ops"
        )


def _scale_gate_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def scale_gate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _ops.scale_gate_backward.default(grad, *ctx.saved_tensors)


def _once_only(name: str) -> None:
    """Refuse the second derivative of `name` in words, where silence would mean a wrong zero."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"archloom::{name} can be differentiated once; for more use the reference in archloom.ops"
        )

    _differentiable(f"{name}_backward", setup, backward)


_differentiable("swish", _swish_setup, swish_backward)
_differentiable("swish_backward", _swish_backward_setup, _swish_double_backward)
_differentiable("drop_connect", _drop_connect_setup, drop_connect_backward)
_differentiable("drop_connect_add", _drop_connect_setup, drop_connect_add_backward)
_differentiable("mixed_sum", _mixed_sum_setup, _mixed_sum_backward)
_differentiable("mixed_sum_backward", _mixed_sum_backward_setup, _mixed_sum_double_backward)
_differentiable("bn_mixed_sum", _bn_mixed_sum_setup, bn_mixed_sum_backward)
_differentiable("bn_swish", _bn_swish_setup, bn_swish_backward)
_differentiable("scale_gate", _scale_gate_setup, scale_gate_backward)
for _name in ("bn_mixed_sum", "bn_swish", "scale_gate"):
    _once_only(_name)
