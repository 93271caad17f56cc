"""Operations that architecture search does more than anything else.

Each function says the PyTorch expression that it equals, and has that expression beside it as `..._ref`. The
compiled kernels (csrc/, operators `torch.ops.archloom.*`) run where they are installed; elsewhere, on other
devices and for other dtypes, the reference does. See `archloom.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._device import DeviceContext

from . import kernels
from .kernels.norms import TENSORS, affine_parameters, normalizes_batch, track

_DEVICES = kernels.status().devices
if _DEVICES:
    from .kernels import faces as compiled

__all__ = [
    *("bn_mixed_sum", "bn_mixed_sum_ref", "bn_swish", "bn_swish_ref", "drop_connect", "drop_connect_add"),
    *(
        "drop_connect_add_ref",
        "drop_connect_ref",
        "mixed_sum",
        "mixed_sum_ref",
        "scale_gate",
        "scale_gate_ref",
    ),
    *("has_kernels", "swish", "swish_ref", "transformed"),
]

_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))

SMALL = 131072
"""Elements below which the ops on one or two tensors are left to PyTorch: a call costs more than it saves."""


SMALL_GATE = 1 << 20
"""The same for `scale_gate`, of which only the backward gains."""

PAST_CACHES = 32 << 20
"""Bytes touched beyond which the CPU kernels write their results past the caches, and gain by it."""

_EXACT = frozenset((torch.float32, torch.float64))


def has_kernels(x: Tensor) -> bool:
    """Whether operations on `x` may be run by compiled kernels; else their references run."""
    return x.device.type in kernels.status().devices


def _within_caches(tensors: int, x: Tensor) -> bool:
    """Whether what an op on the CPU touches, so many tensors of x's size, fits the caches."""
    return x.device.type == "cpu" and tensors * x.numel() * x.element_size() <= PAST_CACHES


_ON_CPU = "cpu" in _DEVICES
_transforming, _tracing = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state
_compiler = (
    torch.compiler
)  # its flag, and not the function around it: that takes as long as half of a small op's checks
_modes, _mode = torch._C._len_torch_function_stack, torch._C._get_function_stack_at


def transformed() -> bool:
    """Whether more is asked of an operation than its value and gradients.

    Under a torch.func transform, in forward-mode differentiation, where a mode looks at every function that is
    called, and in a graph that is made to be run elsewhere, where sizes may be free and the operators unknown. Only
    PyTorch's own operations have all of that.
    """
    return (
        _transforming()
        or forward_ad._current_level >= 0
        or (_modes() > 0 and _watched())
        or _tracing() is not None
        or _compiler._is_exporting_flag
    )


def _watched() -> bool:
    """Whether a mode sees the functions that are called; one that only places new tensors does not look."""
    return any(type(_mode(k)) is not DeviceContext for k in range(_modes()))


def _compiled(x: Tensor) -> bool:
    """Whether the compiled kernels take x. Asked for every call: each line of it is a tenth of a small op."""
    if (_ON_CPU and x.is_cpu) or x.device.type in _DEVICES:
        return x.dtype in _DTYPES and type(x) in TENSORS and x.layout is torch.strided and not transformed()
    if not _DEVICES and not torch.compiler.is_compiling():
        kernels.say_fallback()
    return False


def _is_small(x: Tensor, limit: int) -> bool:
    """Whether x is left to PyTorch for its size, which nobody may look at who records a graph for other sizes."""
    return (
        _ON_CPU
        and type(x) in TENSORS
        and (_tracing() is not None or _compiler._is_exporting_flag or x.numel() < limit)
    )


def swish_ref(x: Tensor) -> Tensor:
    return F.silu(x)


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x), any shape; saves x alone for the backward, and can be differentiated twice."""
    if _is_small(x, SMALL) or not _compiled(x) or x.numel() < SMALL:
        return swish_ref(x)
    return compiled.swish(x)


def _keep_scale(
    x: Tensor, p: float, generator: torch.Generator | None, dtype: torch.dtype, *ones: int
) -> Tensor:
    """One factor per sample, (N, *ones): 0 with probability p, else 1 / (1 - p).

    Drawn where the generator lives (a CPU generator gives every device the same), else on x's device.
    """
    keep, shape = 1 - p, (x.shape[0], *ones)
    if _transforming():  # the same numbers, as a new tensor: vmap may want others for each of its samples
        at = x.device if generator is None else generator.device
        empty = torch.empty(shape, device=at, dtype=dtype)
        return torch.bernoulli(empty, keep, generator=generator).div_(keep).to(x.device)
    if generator is None:
        return x.new_empty(shape, dtype=dtype).bernoulli_(keep).div_(keep)
    scale = torch.empty(shape, device=generator.device, dtype=dtype)
    return scale.bernoulli_(keep, generator=generator).div_(keep).to(x.device)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"the probability p of dropping a sample's path must lie in [0, 1], not {p}")


def _per_sample(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """The factors in x's dtype, in a shape that broadcasts over x."""
    return _keep_scale(x, p, generator, x.dtype, *(1,) * (x.dim() - 1))


def _always(x: Tensor) -> Tensor:
    """The condition, (), that holds everywhere: what it selects takes the whole gradient, the other zeros."""
    return torch.ones((), dtype=torch.bool, device=x.device)


def drop_connect_ref(x: Tensor, p: float, training: bool, generator: torch.Generator | None = None) -> Tensor:
    _check_probability(p)
    if not training or p == 0:
        return x
    # zeros that x is still a part of, whatever stands in it: its gradient is zero, and not missing
    return x.masked_fill(_always(x), 0) if p == 1 else x * _per_sample(x, p, generator)


def drop_connect(x: Tensor, p: float, training: bool, generator: torch.Generator | None = None) -> Tensor:
    """x * mask / (1 - p), x of shape (N, ...), the mask per sample and drawn by PyTorch from `generator`.

    x itself with training=False or p = 0; zeros, and a gradient of zeros, with p = 1; nothing of x's size is
    saved. ValueError for p outside [0, 1]. Stochastic depth (Huang et al. 2016).
    """
    # one broadcast product is bound by memory however it is written: on the CPU PyTorch's own is as fast
    _check_probability(p)
    if not training or p in (0, 1) or x.device.type == "cpu" or not _compiled(x):
        return drop_connect_ref(x, p, training, generator)
    return compiled.drop_connect(x, _keep_scale(x, p, generator, _compute_dtype(x)))


def drop_connect_add_ref(
    x: Tensor, skip: Tensor, p: float, training: bool, generator: torch.Generator | None = None
) -> Tensor:
    _check_probability(p)
    if not training or p == 0:
        return x + skip
    return torch.where(_always(x), skip, x) if p == 1 else skip + x * _per_sample(x, p, generator)


def drop_connect_add(
    x: Tensor, skip: Tensor, p: float, training: bool, generator: torch.Generator | None = None
) -> Tensor:
    """skip + x * mask / (1 - p): a residual block's end, both of shape (N, ...), the mask per sample.

    Exactly x + skip with training=False or p = 0, exactly skip with p = 1; nothing of x's size is saved.
    ValueError for p outside [0, 1] or differing shapes.
    """
    _check_probability(p)
    if _tracing() is not None or _compiler._is_exporting_flag:
        return drop_connect_add_ref(x, skip, p, training, generator)
    if x.shape != skip.shape:
        raise ValueError(
            f"drop_connect_add: x has shape {tuple(x.shape)}, skip {tuple(skip.shape)}; they must agree"
        )
    if not training or p in (0, 1) or x.dtype != skip.dtype or x.device != skip.device:
        return drop_connect_add_ref(x, skip, p, training, generator)
    if x.dtype in _EXACT and (x.numel() < SMALL or _within_caches(3, x)):
        return torch.addcmul(
            skip, x, _per_sample(x, p, generator)
        )  # PyTorch's own single pass; saves the factors
    if x.numel() < SMALL or not _compiled(x):
        return drop_connect_add_ref(x, skip, p, training, generator)
    return compiled.drop_connect_add(x, skip, _keep_scale(x, p, generator, _compute_dtype(x)))


def mixed_sum_ref(xs: Sequence[Tensor | None], weights: Tensor) -> Tensor:
    total = None
    for x, weight in zip(xs, weights.unbind(0), strict=True):
        if x is not None:
            term = x * weight.to(x.dtype)
            total = term if total is None else total + term
    if total is None:
        raise ValueError("mixed_sum needs at least one candidate that is not None")
    return total


def mixed_sum(xs: Sequence[Tensor | None], weights: Tensor) -> Tensor:
    """The weighted sum of N candidates' outputs, `sum(w * x for w, x in zip(weights, xs))`, in one pass.

    xs: N tensors of one shape; None for a candidate that was not run (its weight counts as zero).
    weights: (N,). Gradients reach every x and every weight whose x is not None; they are deterministic.
    """
    if _tracing() is not None or _compiler._is_exporting_flag:
        return mixed_sum_ref(xs, weights)
    run, chosen = _run(xs, weights)
    if not (_takes(run, weights) and _agree(run)):
        return mixed_sum_ref(xs, weights)
    return compiled.mixed_sum(run, _beside(chosen, run[0]))


def _run(xs: Sequence[Tensor | None], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    """The candidates that were run, and their weights."""
    if weights.dim() != 1 or len(xs) != weights.shape[0]:
        raise ValueError(
            f"{len(xs)} candidates need weights of shape ({len(xs)},), not {tuple(weights.shape)}"
        )
    run = [x for x in xs if x is not None]
    if not run:
        raise ValueError("mixed_sum needs at least one candidate that is not None")
    if len(run) < len(xs):
        weights = torch.stack([w for w, x in zip(weights.unbind(0), xs, strict=True) if x is not None])
    return run, weights


def _agree(xs: Sequence[Tensor]) -> bool:
    """Whether all have the shape, dtype and device of the first, which the kernels take; anything else is left to
    PyTorch's promotion or error.
    """
    shape, dtype, device = xs[0].shape, xs[0].dtype, xs[0].device
    tensors = TENSORS
    for x in xs[1:]:
        if x.shape != shape or x.dtype is not dtype or x.device != device or type(x) not in tensors:
            return False
    return True


def _takes(xs: Sequence[Tensor], weights: Tensor) -> bool:
    """Whether the compiled kernels take so many: on CUDA their pointers travel as one kernel's arguments."""
    return _compiled(xs[0]) and type(weights) in TENSORS and (len(xs) <= 64 or xs[0].device.type != "cuda")


def _beside(weights: Tensor, x: Tensor) -> Tensor:
    """Weights on x's device and in the type that x is computed in."""
    dtype = _compute_dtype(x)
    return weights if weights.dtype is dtype and weights.device == x.device else weights.to(x.device, dtype)


def bn_mixed_sum_ref(
    xs: Sequence[Tensor | None], weights: Tensor, norms: Sequence[nn.modules.batchnorm._BatchNorm]
) -> Tensor:
    normal = [None if x is None else norm(x) for x, norm in zip(xs, norms, strict=True)]
    return mixed_sum_ref(normal, weights)


def bn_mixed_sum(
    xs: Sequence[Tensor | None], weights: Tensor, norms: Sequence[nn.modules.batchnorm._BatchNorm]
) -> Tensor:
    """`sum(w * norm(x) for w, x, norm in zip(weights, xs, norms))`, no normalized one ever materialized.

    xs: N tensors (B, C, ...) of one shape, None for one that was not run; norms: each one's BatchNorm, whose
    running statistics are kept as its own forward would. The weights' gradient comes out of the reductions
    that BatchNorm's backward does anyway. A norm in eval mode, with hooks, of another class or that would refuse its
    x runs itself; the others stay fused.
    """
    if _tracing() is not None or _compiler._is_exporting_flag:
        return bn_mixed_sum_ref(xs, weights, norms)
    run, chosen = _run(xs, weights)
    active = [norm for x, norm in zip(xs, norms, strict=True) if x is not None]
    if not (_takes(run, weights) and _agree(run)) or len(set(map(id, active))) < len(active):
        return bn_mixed_sum_ref(xs, weights, norms)
    fused = [normalizes_batch(norm, x) for x, norm in zip(run, active, strict=True)]
    if all(fused):
        return _bn_mixed_sum(run, chosen, active)
    alone = [None if fits else norm(x) for x, norm, fits in zip(run, active, fused, strict=True)]
    total = mixed_sum(alone, chosen)
    if any(fused):
        these = [k for k, fits in enumerate(fused) if fits]
        parts = torch.stack([chosen[k] for k in these])
        total = total + _bn_mixed_sum([run[k] for k in these], parts, [active[k] for k in these])
    return total


def _bn_mixed_sum(
    xs: list[Tensor], weights: Tensor, norms: Sequence[nn.modules.batchnorm._BatchNorm]
) -> Tensor:
    """The fused sum of candidates whose norms `normalizes_batch` has found fit."""
    x = xs[0]
    affine = [affine_parameters(norm, x) for norm in norms]
    gammas, betas = [gamma for gamma, _ in affine], [beta for _, beta in affine]
    eps = [norm.eps for norm in norms]
    y, mean, var = compiled.bn_mixed_sum(xs, _beside(weights, x), gammas, betas, eps)
    track(norms, mean, var, x.numel() // x.shape[1])
    return y


def bn_swish_ref(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    return F.silu(norm(x))


def bn_swish(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """`F.silu(norm(x))`, x of shape (B, C, ...); saves x alone and normalizes again in the backward.

    Running statistics are kept as `norm`'s own forward would. In eval mode, with hooks, where `norm` is of
    another class or would refuse x, it runs itself.
    """
    if not _compiled(x) or not normalizes_batch(norm, x):
        return bn_swish_ref(x, norm)
    gamma, beta = affine_parameters(norm, x)
    y, mean, var = compiled.bn_swish(x, gamma, beta, norm.eps)
    track((norm,), mean, var, x.numel() // x.shape[1])
    return y


def scale_gate_ref(x: Tensor, s: Tensor) -> Tensor:
    gate = torch.sigmoid(s)
    dimensions, own = x.dim(), s.dim()
    if own != dimensions:
        gate = gate.reshape(*(gate.shape if own == 2 else x.shape[:2]), *[1] * (dimensions - 2))
    return x * (gate if gate.dtype == x.dtype else gate.to(x.dtype))


def scale_gate(x: Tensor, s: Tensor) -> Tensor:
    """`x * sigmoid(s)`, the gate of squeeze-and-excitation: x (N, C, ...), s (N, C) or (N, C, 1, ...).

    Saves x and s, and computes the gate again in the backward.
    """
    if _tracing() is not None or _compiler._is_exporting_flag:
        return scale_gate_ref(x, s)
    sizes, gates = x.shape, s.shape
    fits = len(sizes) > 1 and len(gates) > 1 and gates[0] == sizes[0] and gates[1] == sizes[1]
    if not fits or s.numel() != sizes[0] * sizes[1]:
        raise ValueError(
            f"scale_gate: x of shape {tuple(sizes)} needs s of shape (N, C) or (N, C, 1, ...), not {tuple(gates)}"
        )
    # on the CPU the forward is one product, bound by memory however it is written; the backward is not
    if x.numel() < SMALL_GATE or (x.is_cpu and not torch.is_grad_enabled()):
        return scale_gate_ref(x, s)
    if s.device != x.device or not (_compiled(x) and _compiled(s)):
        return scale_gate_ref(x, s)
    return compiled.scale_gate(x, s)
