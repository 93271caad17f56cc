"""The gradients of the compiled operators. Each `setup` keeps what its `backward` needs and no more.

A backward of which more is asked than a gradient (a batch of gradients, forward-mode derivatives, for some of them a
further derivative) is PyTorch's own, of the operation in plain PyTorch. `more=False` says that it is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import functional as F

_ops = torch.ops.archloom
_transforming = torch._C._are_functorch_transforms_active


def _asks_more(grad: Tensor) -> bool:
    """Whether the backward is batched, transformed by torch.func, or differentiated forward."""
    return is_legacy_batchedtensor(grad) or _transforming() or forward_ad._current_level >= 0


def again(grad: Tensor) -> bool:
    """Whether more than a gradient is asked for: that, or that it can be differentiated once more."""
    return torch.is_grad_enabled() or _asks_more(grad)


def _plain(operation: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
    """The gradients of `operation`, PyTorch's own, to those inputs that need one."""
    with torch.enable_grad():
        # views: one tensor that stands at two places has a gradient for each
        inputs = [x.view_as(x) if x.requires_grad else x for x in inputs]
        y = operation(*inputs)
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=torch.is_grad_enabled()))
    return [next(found) if x.requires_grad else None for x in inputs]


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """`values`, (N,) or (N, C), in x's type and with as many dimensions as x."""
    return values.reshape(*values.shape[:2], *[1] * (x.dim() - min(values.dim(), 2))).to(x.dtype)


def _normalized(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return F.batch_norm(x, None, None, gamma.to(dtype), beta.to(dtype), True, 0.0, eps)


def _differentiable(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    torch.library.register_autograd(f"archloom::{name}", backward, setup_context=setup)


def _swish_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])


def swish_backward(ctx: Any, grad: Tensor, more: bool = True) -> Tensor | None:
    if more and _asks_more(grad):
        return _plain(F.silu, ctx.saved_tensors, grad)[0]
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


def drop_connect_backward(ctx: Any, grad: Tensor, more: bool = True) -> tuple[Tensor, None]:
    if more and _asks_more(grad):
        return grad * _per_sample(ctx.saved_tensors[0], grad), None
    return _ops.drop_connect.default(grad, ctx.saved_tensors[0]), None


def drop_connect_add_backward(
    ctx: Any, grad: Tensor, more: bool = True
) -> tuple[Tensor | None, Tensor, None]:
    return drop_connect_backward(ctx, grad, more)[0] if ctx.needs_input_grad[0] else None, grad, None


def mixed_sum_setup(ctx: Any, xs: Sequence[Tensor], weights: Tensor) -> None:
    """The xs are kept for the weights' gradient alone."""
    ctx.count = len(xs)
    ctx.save_for_backward(weights, *(xs if weights.requires_grad else ()))


def mixed_sum_backward(
    ctx: Any, grad: Tensor, needs_xs: Sequence[bool], more: bool = True
) -> tuple[Sequence[Tensor | None], Tensor | None]:
    """(dxs, dweights), None for those that need none."""
    weights, *xs = ctx.saved_tensors
    if more and (_asks_more(grad) or (torch.is_grad_enabled() and not xs)):
        if not xs:
            factors = weights.to(grad.dtype).unbind(0)
            return [grad * w if need else None for w, need in zip(factors, needs_xs, strict=True)], None
        dweights, *dxs = _plain(_weighted_sum, (weights, *xs), grad)
        return dxs, dweights
    dxs, dweights = _ops.mixed_sum_backward.default(
        grad, xs or [grad] * ctx.count, weights, any(needs_xs), bool(xs)
    )
    return dxs or [None] * ctx.count, dweights if xs else None


def _weighted_sum(weights: Tensor, *xs: Tensor) -> Tensor:
    terms = [x * w for x, w in zip(xs, weights.to(xs[0].dtype).unbind(0), strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _mixed_sum_setup(ctx: Any, inputs: Any, output: Any) -> None:
    mixed_sum_setup(ctx, *inputs)


def _mixed_sum_backward(ctx: Any, grad: Tensor) -> tuple[Sequence[Tensor | None], Tensor | None]:
    needs_xs, _ = ctx.needs_input_grad
    dxs, dweights = mixed_sum_backward(ctx, grad, needs_xs)
    return [dx if need else None for dx, need in zip(dxs, needs_xs, strict=True)], dweights


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


def bn_mixed_sum_backward(
    ctx: Any, grad: Tensor | None, *statistics: Tensor | None, more: bool = True
) -> tuple[Any, ...]:
    _refuse_statistics("bn_mixed_sum", statistics)
    n = len(ctx.eps)
    saved = ctx.saved_tensors
    xs, weights, gammas, betas = saved[:n], saved[n], saved[n + 1 : 2 * n + 1], saved[2 * n + 1 : 3 * n + 1]
    if grad is None:
        return [None] * n, None, [None] * n, [None] * n, None
    if more and again(grad):
        dweights, *rest = _plain(_normalized_sum(ctx.eps), (weights, *xs, *gammas, *betas), grad)
        return rest[:n], dweights, rest[n : 2 * n], rest[2 * n :], None
    dxs, dweights, dgamma, dbeta = _ops.bn_mixed_sum_backward.default(
        grad, list(xs), weights, list(gammas), list(betas), *saved[-2:], ctx.eps
    )
    dgammas = [row.to(gamma.dtype) for row, gamma in zip(dgamma.unbind(0), gammas, strict=True)]
    dbetas = [row.to(beta.dtype) for row, beta in zip(dbeta.unbind(0), betas, strict=True)]
    return dxs, dweights, dgammas, dbetas, None


def _normalized_sum(eps: Sequence[float]) -> Callable[..., Tensor]:
    def operation(weights: Tensor, *tensors: Tensor) -> Tensor:
        n = len(eps)
        each = zip(tensors[:n], tensors[n : 2 * n], tensors[2 * n :], eps, strict=True)
        return _weighted_sum(weights, *(_normalized(*inputs) for inputs in each))

    return operation


def _bn_swish_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, gamma, beta, eps = inputs
    _, mean, var = output
    ctx.save_for_backward(x, gamma, beta, mean, var)
    ctx.eps = eps
    ctx.set_materialize_grads(False)


def bn_swish_backward(
    ctx: Any, grad: Tensor | None, *statistics: Tensor | None, more: bool = True
) -> tuple[Any, ...]:
    _refuse_statistics("bn_swish", statistics)
    if grad is None:
        return None, None, None, None
    if more and again(grad):
        x, gamma, beta, *_ = ctx.saved_tensors
        return *_plain(lambda x, g, b: F.silu(_normalized(x, g, b, ctx.eps)), (x, gamma, beta), grad), None
    return *_ops.bn_swish_backward.default(grad, *ctx.saved_tensors, ctx.eps), None


def _refuse_statistics(name: str, grads: Sequence[Tensor | None]) -> None:
    if any(grad is not None for grad in grads):
        raise NotImplementedError(
            f"archloom::{name} has no gradient through the mean and variance that it returns: "
            "detach them, or use the reference in archloom.ops"
        )


def scale_gate_setup(ctx: Any, x: Tensor, s: Tensor) -> None:
    """x is kept for s's gradient alone."""
    ctx.save_for_backward(s, *([x] if s.requires_grad else ()))


def scale_gate_backward(ctx: Any, grad: Tensor, more: bool = True) -> tuple[Tensor | None, Tensor | None]:
    s, *xs = ctx.saved_tensors
    if not xs:
        return grad * _per_sample(torch.sigmoid(s), grad), None
    if more and again(grad):
        dx, ds = _plain(lambda x, s: x * _per_sample(torch.sigmoid(s), x), (*xs, s), grad)
        return dx, ds
    dx, ds = _ops.scale_gate_backward.default(grad, *xs, s)
    return dx, ds


def _scale_gate_setup(ctx: Any, inputs: Any, output: Any) -> None:
    scale_gate_setup(ctx, *inputs)


def _once_only(name: str) -> None:
    """Refuse to differentiate `name`'s backward operator itself, where silence would mean a wrong zero."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"archloom::{name}_backward has no gradient: differentiate archloom::{name} with create_graph=True"
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
