"""What PyTorch is told of the compiled operators: shapes, gradients, batching. Imported once they are loaded.

Every operator has a fake kernel (for tracing), an autograd formula and a rule for vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

_ops = torch.ops.archloom
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


# Fake kernels: shape, dtype and strides of the results.


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


# Autograd. Each `setup` keeps what its `backward` needs and no more.


def _differentiable(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    torch.library.register_autograd(f"archloom::{name}", backward, setup_context=setup)


def _swish_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])


def _swish_backward(ctx: Any, grad: Tensor) -> Tensor:
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


def _drop_connect_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _ops.drop_connect.default(grad, ctx.saved_tensors[0]), None


def _drop_connect_add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
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


def _bn_mixed_sum_backward(ctx: Any, grad: Tensor | None, *statistics: Tensor | None) -> tuple[Any, ...]:
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


def _bn_swish_backward(ctx: Any, grad: Tensor | None, *statistics: Tensor | None) -> tuple[Any, ...]:
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


def _scale_gate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
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


_differentiable("swish", _swish_setup, _swish_backward)
_differentiable("swish_backward", _swish_backward_setup, _swish_double_backward)
_differentiable("drop_connect", _drop_connect_setup, _drop_connect_backward)
_differentiable("drop_connect_add", _drop_connect_setup, _drop_connect_add_backward)
_differentiable("mixed_sum", _mixed_sum_setup, _mixed_sum_backward)
_differentiable("mixed_sum_backward", _mixed_sum_backward_setup, _mixed_sum_double_backward)
_differentiable("bn_mixed_sum", _bn_mixed_sum_setup, _bn_mixed_sum_backward)
_differentiable("bn_swish", _bn_swish_setup, _bn_swish_backward)
_differentiable("scale_gate", _scale_gate_setup, _scale_gate_backward)
for _name in ("bn_mixed_sum", "bn_swish", "scale_gate"):
    _once_only(_name)


# The same formulas as Python autograd functions: what eager code calls. Going through the dispatcher's Python
# kernels costs 20 to 90 microseconds more per forward and backward, which is a small layer's whole time.
# torch.compile, which traces the operators once, pays nothing for them.

_below_autograd = torch._C._AutoDispatchBelowAutograd


def _direct(backward: Callable[..., Any]) -> Any:
    """`backward` without the dispatcher's autograd, unless its result shall be differentiated again."""

    def call(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            return backward(ctx, *grads)
        with _below_autograd():
            return backward(ctx, *grads)

    return staticmethod(call)


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with _below_autograd():
            return _ops.swish.default(x)

    backward = _direct(_swish_backward)


class _DropConnect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        with _below_autograd():
            return _ops.drop_connect.default(x, scale)

    backward = _direct(_drop_connect_backward)


class _DropConnectAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        with _below_autograd():
            return _ops.drop_connect_add.default(x, skip, scale)

    backward = _direct(_drop_connect_add_backward)


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *xs: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *xs)
        with _below_autograd():
            return _ops.mixed_sum.default(xs, weights)

    @_direct
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: N805
        weights, *xs = ctx.saved_tensors
        needs_weights, *needs_xs = ctx.needs_input_grad
        dxs, dweights = _ops.mixed_sum_backward.default(grad, xs, weights, any(needs_xs), needs_weights)
        return dweights if needs_weights else None, *(dxs or [None] * len(xs))


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
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:  # noqa: N805
        dxs, dweights, dgammas, dbetas, _none = _bn_mixed_sum_backward(ctx, grad)
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
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:  # noqa: N805
        return _bn_swish_backward(ctx, grad)


class _ScaleGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor) -> Tensor:
        ctx.save_for_backward(x, s)
        if x.device.type == "cpu":  # bound by memory however it is written: PyTorch's product is as fast
            return x * torch.sigmoid(s).reshape(*x.shape[:2], *[1] * (x.dim() - 2)).to(x.dtype)
        with _below_autograd():
            return _ops.scale_gate.default(x, s)

    backward = _direct(_scale_gate_backward)


# The faces that `archloom.ops` calls. Where nothing is recorded, the operator alone costs two microseconds less.


def _face(operator: Any, recorded: Callable[..., Any], *args: Any) -> Any:
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


# vmap of an operator: swish batches as it is, every other one sample by sample. (torch.func on the functions
# of `archloom.ops` does not come here: there the references run, which PyTorch batches itself.)


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
