"""A fused BatchNorm is the module itself: value, gradients, statistics, refusals, and the hooks that it calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import module as hooking
from torch.nn.utils import parametrize

from archloom import kernels, ops

# what one rounding of the running statistics, kept in the parameters' type, may make of them
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}


@st.composite
def norms(draw: st.DrawFn) -> nn.Module:
    """Every BatchNorm that PyTorch's constructor makes, and what users make of one afterwards."""
    kind = draw(st.sampled_from([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm3d]))
    options: dict[str, Any] = {
        "eps": draw(st.sampled_from([1e-5, 0.1])),
        "momentum": draw(st.sampled_from([0.1, None, 0.0, 1.0])),
        "affine": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "track_running_stats": draw(st.booleans()),
    }
    norm: nn.Module = kind(draw(st.sampled_from([3, 3, 3, 2])), **options)
    for k, parameter in enumerate(norm.parameters()):
        parameter.data = torch.linspace(-1, 2, parameter.numel()) + k
    norm.to(draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])))
    norm.train(draw(st.sampled_from([True, True, True, False])))
    if draw(st.integers(0, 3)) == 0:
        missing = [
            "num_batches_tracked",
            "num_batches_tracked",
            "running_mean",
            "running_var",
            "weight",
            "bias",
        ]
        setattr(norm, draw(st.sampled_from(missing)), None)
    if draw(st.integers(0, 3)) == 0 and norm.weight is not None:
        norm.weight.requires_grad_(False)
    if draw(st.integers(0, 9)) == 0:
        norm.track_running_stats = not norm.track_running_stats
    return norm


@st.composite
def inputs(draw: st.DrawFn) -> Tensor:
    """Every input that a BatchNorm of three channels takes or refuses, and some that it has to look at twice."""
    images = draw(st.sampled_from([0, 1, 2, 4]))
    shape = [images, draw(st.sampled_from([3, 3, 3, 2])), 2, 3, 2][: draw(st.integers(1, 5))]
    if draw(st.integers(0, 4)) == 0:
        shape[2:] = [1] * len(shape[2:])
    dtype = draw(
        st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    )
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))).to(dtype)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "sliced"]))
    if layout == "channels_last" and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        x = x.repeat_interleave(2, -1)[..., ::2]
    return x.requires_grad_(draw(st.booleans()))


def outcome(call: Callable[[Tensor, nn.Module], Tensor], x: Tensor, norm: nn.Module) -> dict[str, Any]:
    """All that a caller can find out about one step."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
    found: dict[str, Any] = {}
    try:
        y = call(x, norm)
        found["value"] = y.detach()
        if y.requires_grad:
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype))
            found["gradients"] = [x.grad, *(parameter.grad for parameter in norm.parameters())]
    except Exception as error:  # of whatever kind: the same is asked of both
        found["refused"] = type(error), str(error)
    found["statistics"] = list(norm.state_dict().values())
    return found


def agree(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    assert ours.get("refused") == theirs.get("refused")
    for name in ("gradients", "statistics"):
        for one, other in zip(ours.get(name, ()), theirs.get(name, ()), strict=True):
            assert (one is None) == (other is None), name
            if other is not None:
                torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    if "value" in theirs:
        value = theirs["value"]
        torch.testing.assert_close(ours["value"], value, rtol=tolerance, atol=tolerance, equal_nan=True)


def coarsest(x: Tensor, norm: nn.Module) -> float:
    kept = {tensor.dtype for tensor in norm.state_dict().values() if tensor.is_floating_point()}
    return max(TOLERANCE[dtype] for dtype in {x.dtype, *kept} & TOLERANCE.keys())


few = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


@few
@given(norm=norms(), x=inputs())
def test_bn_swish_is_silu_of_the_module_for_every_batchnorm_and_every_input(
    norm: nn.Module, x: Tensor
) -> None:
    ours, theirs = copy.deepcopy(norm), copy.deepcopy(norm)
    for _ in range(2):
        found = outcome(ops.bn_swish, x, ours), outcome(ops.bn_swish_ref, x, theirs)
        agree(*found, coarsest(x, theirs))


@few
@given(first=norms(), second=norms(), x=inputs())
def test_bn_mixed_sum_is_the_sum_of_the_modules(first: nn.Module, second: nn.Module, x: Tensor) -> None:
    weights = torch.tensor([0.25, 0.75])
    ours = nn.ModuleList([first, second])
    theirs = copy.deepcopy(ours)
    results = []
    for call, pair in ((ops.bn_mixed_sum, ours), (ops.bn_mixed_sum_ref, theirs)):
        results.append(outcome(lambda x, pair, call=call: call([x, x.flip(0)], weights, pair), x, pair))
    if "refused" in results[0] and "refused" in results[1]:
        return  # which of two is refused first, and what the other has counted by then, is the order's
    agree(*results, 2 * coarsest(x, theirs))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_batchnorm_finds_its_channels_first() -> None:
    norm = nn.LazyBatchNorm2d()
    x = torch.randn(4, 3, 5, 5)
    other = nn.BatchNorm2d(3)
    for _ in range(2):
        torch.testing.assert_close(ops.bn_swish(x, norm), ops.bn_swish_ref(x, other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, other.running_var)
    assert norm.num_batches_tracked == 2


def _forward_pre(norm: nn.Module, calls: list[str]) -> Any:
    return norm.register_forward_pre_hook(lambda *_: calls.append("forward_pre"))


def _forward(norm: nn.Module, calls: list[str]) -> Any:
    return norm.register_forward_hook(lambda *_: calls.append("forward"))


def _backward_pre(norm: nn.Module, calls: list[str]) -> Any:
    return norm.register_full_backward_pre_hook(lambda *_: calls.append("backward_pre"))


def _backward(norm: nn.Module, calls: list[str]) -> Any:
    return norm.register_full_backward_hook(lambda *_: calls.append("backward"))


def _on_all(register: Callable[..., Any]) -> Callable[..., Any]:
    def attach(norm: nn.Module, calls: list[str]) -> Any:
        return register(lambda module, *_: calls.append(register.__name__) if module is norm else None)

    return attach


class _Own:
    """A forward put over the class's own, as accelerators and quantizers do."""

    def __init__(self, norm: nn.Module, calls: list[str]) -> None:
        self.norm, inner = norm, norm.forward

        def forward(x: Tensor) -> Tensor:
            calls.append("own forward")
            return 2 * inner(x)

        norm.forward = forward

    def remove(self) -> None:
        del self.norm.forward


HOOKS: list[Callable[[nn.Module, list[str]], Any]] = [
    _forward_pre,
    _forward,
    _backward_pre,
    _backward,
    _Own,
    *map(
        _on_all,
        (
            hooking.register_module_forward_pre_hook,
            hooking.register_module_forward_hook,
            hooking.register_module_full_backward_pre_hook,
            hooking.register_module_full_backward_hook,
        ),
    ),
]


@contextmanager
def hooked(attach: Callable[..., Any], norm: nn.Module) -> Iterator[list[str]]:
    calls: list[str] = []
    handle = attach(norm, calls)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("attach", HOOKS)
def test_a_hook_of_every_kind_is_called_as_by_the_module(attach: Callable[..., Any]) -> None:
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    seen = []
    for call in (ops.bn_swish, ops.bn_swish_ref):
        norm = nn.BatchNorm2d(3)
        with hooked(attach, norm) as calls:
            (dx,) = torch.autograd.grad(call(x, norm).square().sum(), x)
        seen.append((calls, dx))
    assert seen[0][0] == seen[1][0] != []
    torch.testing.assert_close(seen[0][1], seen[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_a_hooked_module_runs_itself_and_the_others_stay_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fused: list[int] = []
    inner = ops.compiled.bn_mixed_sum
    monkeypatch.setattr(
        ops.compiled, "bn_mixed_sum", lambda xs, *a: (fused.append(len(xs)), inner(xs, *a))[1]
    )
    xs, w = [torch.randn(4, 3, 5, 5, requires_grad=True) for _ in range(4)], torch.rand(4, requires_grad=True)
    ours = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
    theirs = copy.deepcopy(ours)
    calls: list[int] = []
    ours[1].register_full_backward_hook(lambda *_: calls.append(1))
    ours[3].eval(), theirs[3].eval()
    results = []
    for call, modules in ((ops.bn_mixed_sum, ours), (ops.bn_mixed_sum_ref, theirs)):
        y = call(xs, w, modules)
        results.append([y, *torch.autograd.grad(y.square().sum(), [w, *xs, *modules.parameters()])])
    assert (fused, calls) == ([2], [1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_parametrized_or_derived_module_is_called() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Positive(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.abs() + 3

    x = torch.randn(4, 3, 5, 5)
    bounded = parametrize.register_parametrization(nn.BatchNorm2d(3), "weight", Positive())
    moved = nn.BatchNorm2d(3)  # its weight no parameter any more, as pruning and reparametrizing leave it
    moved._extra = moved._parameters.pop("weight")
    moved.weight = 2 * moved._extra.detach()
    for norm in (Doubled(3), bounded, moved):
        assert torch.equal(ops.bn_swish(x, norm), ops.bn_swish_ref(x, copy.deepcopy(norm)))
        both = nn.ModuleList([norm, nn.BatchNorm2d(3)])
        torch.testing.assert_close(
            ops.bn_mixed_sum([x, x], torch.ones(2), both),
            ops.bn_mixed_sum_ref([x, x], torch.ones(2), copy.deepcopy(both)),
            rtol=1e-4,
            atol=1e-5,
        )


def test_one_norm_of_several_candidates_counts_every_one() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    other, xs = copy.deepcopy(norm), [torch.randn(4, 3, 5, 5) + k for k in range(2)]
    ops.bn_mixed_sum(xs, torch.ones(2), [norm, norm])
    ops.bn_mixed_sum_ref(xs, torch.ones(2), [other, other])
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, other.running_mean)


@pytest.mark.skipif("meta" not in kernels.status().devices, reason="the references have PyTorch's own error")
def test_a_module_on_another_device_is_pytorchs_to_refuse() -> None:
    x = torch.randn(4, 3, 5, 5)
    norm = nn.BatchNorm2d(3, device="meta")
    with pytest.raises(RuntimeError):
        norm(x)
    with pytest.raises(RuntimeError):
        ops.bn_swish(x, norm)
