"""The functions that `archloom.ops` calls, and what eager code records of them for the backward.

Eager code records Python autograd functions with the formulas of `autograd`: going through the dispatcher's
Python kernels costs 20 to 90 microseconds more per forward and backward, which is a small layer's whole time.
torch.compile, which traces the operators once, pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .autograd import (
    again,
    bn_mixed_sum_backward,
    bn_swish_backward,
    drop_connect_add_backward,
    drop_connect_backward,
    mixed_sum_backward,
    mixed_sum_setup,
    scale_gate_backward,
    scale_gate_setup,
    swish_backward,
)

_ops = torch.ops.archloom
_below_autograd = torch._C._AutoDispatchBelowAutograd


def _direct(backward: Callable[..., Any]) -> Any:
    """`backward` without the dispatcher's autograd, unless more is asked of its result."""

    def call(ctx: Any, *grads: Any) -> Any:
        if again(grads[0]):
            return backward(ctx, *grads)
        with _below_autograd():
            return backward(ctx, *grads, more=False)

    return staticmethod(call)


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with _below_autograd():
            return _ops.swish.default(x)

    backward = _direct(swish_backward)


class _DropConnect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        with _below_autograd():
            return _ops.drop_connect.default(x, scale)

    backward = _direct(drop_connect_backward)


class _DropConnectAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        with _below_autograd():
            return _ops.drop_connect_add.default(x, skip, scale)

    backward = _direct(drop_connect_add_backward)


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *xs: Tensor) -> Tensor:
        mixed_sum_setup(ctx, xs, weights)
        with _below_autograd():
            return _ops.mixed_sum.default(xs, weights)

    @_direct
    def backward(ctx: Any, grad: Tensor, more: bool = True) -> Any:  # noqa: N805
        dxs, dweights = mixed_sum_backward(ctx, grad, ctx.needs_input_grad[1:], more)
        return dweights, *dxs


class _BnMixedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, eps: list[float], weights: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = len(eps)
        ctx.eps = eps
        with _below_autograd():
            y, mean, var = _ops.bn_mixed_sum.default(
                tensors[:n], weights, tensors[n : 2 * n], tensors[2 * n :], eps
            )
        ctx.save_for_backward(*tensors[:n], weights, *tensors[n:], mean, var)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @_direct
    def backward(ctx: Any, grad: Tensor, *_: Any, more: bool = True) -> Any:  # noqa: N805
        dxs, dweights, dgammas, dbetas, _none = bn_mixed_sum_backward(ctx, grad, more=more)
        return None, dweights, *dxs, *dgammas, *dbetas


class _BnSwish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        with _below_autograd():
            y, mean, var = _ops.bn_swish.default(x, gamma, beta, eps)
        ctx.eps = eps
        ctx.save_for_backward(x, gamma, beta, mean, var)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @_direct
    def backward(ctx: Any, grad: Tensor, *_: Any, more: bool = True) -> Any:  # noqa: N805
        return bn_swish_backward(ctx, grad, more=more)


class _ScaleGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor) -> Tensor:
        scale_gate_setup(ctx, x, s)
        if x.device.type == "cpu":  # bound by memory however it is written: PyTorch's product is as fast
            return x * torch.sigmoid(s).reshape(*x.shape[:2], *[1] * (x.dim() - 2)).to(x.dtype)
        with _below_autograd():
            return _ops.scale_gate.default(x, s)

    backward = _direct(scale_gate_backward)


def _face(operator: Any, recorded: Callable[..., Any], *args: Any) -> Any:
    """Where nothing is recorded, the operator alone, which costs two microseconds less."""
    if torch.compiler.is_compiling():
        return operator(*args)
    if torch.is_grad_enabled():
        return recorded(*args)
    with _below_autograd():
        return operator(*args)


def swish(x: Tensor) -> Tensor:
    return _face(_ops.swish.default, _Swish.apply, x)


def drop_connect(x: Tensor, scale: Tensor) -> Tensor:
    return _face(_ops.drop_connect.default, _DropConnect.apply, x, scale)


def drop_connect_add(x: Tensor, skip: Tensor, scale: Tensor) -> Tensor:
    return _face(_ops.drop_connect_add.default, _DropConnectAdd.apply, x, skip, scale)


def mixed_sum(xs: list[Tensor], weights: Tensor) -> Tensor:
    return _face(_ops.mixed_sum.default, _record_mixed_sum, xs, weights)


def _record_mixed_sum(xs: list[Tensor], weights: Tensor) -> Tensor:
    return _MixedSum.apply(weights, *xs)


def bn_mixed_sum(
    xs: list[Tensor], weights: Tensor, gammas: list[Tensor], betas: list[Tensor], eps: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    return _face(_ops.bn_mixed_sum.default, _record_bn_mixed_sum, xs, weights, gammas, betas, eps)


def _record_bn_mixed_sum(
    xs: list[Tensor], weights: Tensor, gammas: list[Tensor], betas: list[Tensor], eps: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    return _BnMixedSum.apply(eps, weights, *xs, *gammas, *betas)


def bn_swish(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _face(_ops.bn_swish.default, _BnSwish.apply, x, gamma, beta, eps)


def scale_gate(x: Tensor, s: Tensor) -> Tensor:
    return _face(_ops.scale_gate.default, _ScaleGate.apply, x, s)
