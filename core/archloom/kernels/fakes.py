"""Fake kernels of the compiled operators: shape, dtype and strides of their results, for tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _image_like(x: Tensor) -> Tensor:
    """An empty tensor, channels_last if x is that, else contiguous: the layout of operators on images."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake(name: str) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        torch.library.register_fake(f"archloom::{name}", function)
        return function

    return register


@_fake("swish")
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_fake("swish_backward")
def _(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_fake("drop_connect")
def _(x: Tensor, scale: Tensor) -> Tensor:
    return _image_like(x)


@_fake("drop_connect_add")
def _(x: Tensor, skip: Tensor, scale: Tensor) -> Tensor:
    return _image_like(x)


@_fake("mixed_sum")
def _(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    return torch.empty_like(xs[0])


@_fake("mixed_sum_backward")
def _(
    grad: Tensor, xs: Sequence[Tensor], weights: Tensor, want_xs: bool, want_weights: bool
) -> tuple[list[Tensor], Tensor]:
    model = torch.empty_like(xs[0])
    return [torch.empty_like(model) for _ in xs] if want_xs else [], weights.new_empty(len(xs))


@_fake("bn_mixed_sum")
def _(
    xs: Sequence[Tensor], weights: Tensor, gammas: Any, betas: Any, eps: Any
) -> tuple[Tensor, Tensor, Tensor]:
    x = xs[0]
    shape, dtype = (len(xs), x.shape[1]), _compute_dtype(x)
    return _image_like(x), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


@_fake("bn_mixed_sum_backward")
def _(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    gammas: Any,
    betas: Any,
    mean: Tensor,
    var: Tensor,
    eps: Any,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    model = _image_like(xs[0])
    dxs = [torch.empty_like(model) for _ in xs]
    return dxs, weights.new_empty(len(xs)), mean.new_empty(mean.shape), mean.new_empty(mean.shape)


@_fake("bn_swish")
def _(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = (1, x.shape[1]), _compute_dtype(x)
    return _image_like(x), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


@_fake("bn_swish_backward")
def _(
    grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    return _image_like(x), gamma.new_empty(channels), beta.new_empty(channels)


@_fake("scale_gate")
def _(x: Tensor, s: Tensor) -> Tensor:
    return _image_like(x)


@_fake("scale_gate_backward")
def _(grad: Tensor, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    return _image_like(x), s.new_empty(s.shape)
