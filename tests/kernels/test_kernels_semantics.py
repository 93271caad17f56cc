"""What the ops promise beyond values: special numbers, emptiness, determinism, statistics, memory, errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import needs_kernels
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import ops
from archloom.kernels.bench import saved_bytes
from archloom.kernels.workloads import Case, variants


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_swish_treats_infinities_nan_and_extremes_as_pytorch_does(isa: str, dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, finfo.max, finfo.min, finfo.tiny, -finfo.tiny]
    special += [87.0, -87.0, 88.5, -88.5, 89.0, -89.0, -103.0, -104.0, 709.0, -709.0, -745.0, 1e-30, -1e-30]
    x = torch.tensor(special, dtype=dtype)
    # eager's own exp loses subnormal results: what is below the least normal number may be zero
    quantum = finfo.tiny * 8
    torch.testing.assert_close(
        torch.ops.archloom.swish(x), F.silu(x), equal_nan=True, rtol=4 * finfo.eps, atol=quantum
    )
    g = torch.ones_like(x)
    expected = torch.ops.aten.silu_backward(g, x)
    torch.testing.assert_close(
        torch.ops.archloom.swish_backward(g, x), expected, equal_nan=True, rtol=8 * finfo.eps, atol=quantum
    )


def test_swish_is_as_accurate_as_pytorch(isa: str) -> None:
    x = torch.linspace(-30, 30, 100001)
    exact = F.silu(x.double())
    ours = ((torch.ops.archloom.swish(x) - exact) / exact).nan_to_num().abs().max()
    theirs = ((F.silu(x) - exact) / exact).nan_to_num().abs().max()
    assert ours <= 2 * theirs + 1e-7


def test_nan_and_infinity_pass_through_sums_as_in_eager(isa: str) -> None:
    x, y = torch.tensor([[math.inf, 1.0], [math.nan, -math.inf]]), torch.ones(2, 2)
    scale = torch.tensor([0.0, 1.25])
    torch.testing.assert_close(
        torch.ops.archloom.drop_connect_add(x, y, scale), y + x * scale[:, None], equal_nan=True
    )
    w = torch.tensor([0.5, 0.0])
    torch.testing.assert_close(torch.ops.archloom.mixed_sum([y, x], w), w[0] * y + w[1] * x, equal_nan=True)


def test_a_nan_stays_in_its_channel(isa: str) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 5, 6, 6).contiguous(memory_format=layout)
        x[1, 3, 2, 2] = math.nan
        y, *_ = torch.ops.archloom.bn_swish(x, torch.ones(5), torch.zeros(5), 1e-5)
        assert y[:, 3].isnan().all()
        assert not y[:, [0, 1, 2, 4]].isnan().any()


@pytest.mark.usefixtures("compiled")
def test_empty_tensors_give_empty_results() -> None:
    x = torch.randn(0, 4, 3, 3, requires_grad=True)
    w = torch.rand(2, requires_grad=True)
    s = torch.randn(0, 4, requires_grad=True)
    for y in (
        ops.swish(x),
        ops.drop_connect(x, 0.5, True),
        ops.drop_connect_add(x, x, 0.5, True),
        ops.mixed_sum([x, x], w),
        ops.scale_gate(x, s),
    ):
        assert y.shape == x.shape
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.shape == x.shape
    (dw,) = torch.autograd.grad(ops.mixed_sum([x, x], w).sum(), w)
    assert dw.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("compiled")
def test_drop_connect_keeps_or_drops_whole_samples() -> None:
    x, skip = torch.randn(64, 3, 5, 5), torch.randn(64, 3, 5, 5)
    y = ops.drop_connect_add(x, skip, 0.25, True, torch.Generator().manual_seed(1)) - skip
    factor = (y * x).flatten(1).sum(1) / (x * x).flatten(1).sum(1)
    assert set((factor * 3).round().int().tolist()) == {0, 4}  # 0 or 1 / (1 - p)
    torch.testing.assert_close(y, x * ((factor * 3).round() / 3)[:, None, None, None], rtol=1e-5, atol=1e-5)
    again = ops.drop_connect_add(x, skip, 0.25, True, torch.Generator().manual_seed(1)) - skip
    assert torch.equal(y, again)


@pytest.mark.usefixtures("compiled")
def test_drop_connect_keeps_the_mean(generator: torch.Generator) -> None:
    kept = ops.drop_connect(torch.ones(20000, 2), 0.3, True, generator)
    assert abs(kept.mean().item() - 1) < 4 * math.sqrt(0.3 / 0.7 / 20000)


@pytest.mark.usefixtures("compiled")
def test_drop_connect_at_its_ends_is_exact() -> None:
    x, skip = torch.randn(4, 3), torch.randn(4, 3)
    x[0, 0] = math.inf
    assert torch.equal(ops.drop_connect_add(x, skip, 0.7, False), x + skip)
    assert torch.equal(ops.drop_connect_add(x, skip, 0.0, True), x + skip)
    assert torch.equal(ops.drop_connect_add(x, skip, 1.0, True), skip)
    assert torch.equal(ops.drop_connect(x, 0.7, False), x)
    assert torch.equal(ops.drop_connect(x, 1.0, True), torch.zeros(4, 3))


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_outside_zero_to_one_is_refused(p: float) -> None:
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        ops.drop_connect_add(x, x, p, True)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        ops.drop_connect(x, p, False)


def test_what_does_not_fit_is_refused_in_words() -> None:
    x = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="weights of shape"):
        ops.mixed_sum([x, x], torch.ones(3))
    with pytest.raises(ValueError, match="not None"):
        ops.mixed_sum([None, None], torch.ones(2))
    with pytest.raises(ValueError, match="they must agree"):
        ops.drop_connect_add(x, x[:1], 0.5, True)
    with pytest.raises(ValueError, match="needs s of shape"):
        ops.scale_gate(x, torch.ones(3))


@needs_kernels
def test_the_operators_refuse_what_does_not_fit() -> None:
    x = torch.ones(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="differs in shape"):
        torch.ops.archloom.mixed_sum([x, x[:1]], torch.ones(2))
    with pytest.raises(RuntimeError, match="takes float32"):
        torch.ops.archloom.swish(torch.ones(3, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="more than one value per channel"):
        torch.ops.archloom.bn_swish(torch.ones(1, 3, 1, 1), torch.ones(3), torch.ones(3), 1e-5)
    sizes = [torch.ones(6), torch.ones(0)]
    with pytest.raises(RuntimeError, match=r"must have shape \(3,\)"):
        torch.ops.archloom.bn_mixed_sum([x, x], torch.ones(2), sizes, sizes, [1e-5, 1e-5])


def _backward(o: Any, grad: Tensor, x: Tensor) -> dict[str, Callable[[], Any]]:
    """Every backward operator on a gradient and x (2, 3, ...)."""
    w, per_channel, gates = torch.rand(2), torch.ones(3), torch.ones(2, 3)
    _, mean, var = o.bn_mixed_sum([x, x], w, [per_channel] * 2, [per_channel] * 2, [1e-5] * 2)
    return {
        "swish": lambda: o.swish_backward(grad, x),
        "mixed_sum": lambda: o.mixed_sum_backward(grad, [x, x], w, True, True),
        "scale_gate": lambda: o.scale_gate_backward(grad, x, gates),
        "bn_swish": lambda: o.bn_swish_backward(grad, x, per_channel, per_channel, mean[:1], var[:1], 1e-5),
        "bn_mixed_sum": lambda: o.bn_mixed_sum_backward(
            grad, [x, x], w, [per_channel] * 2, [per_channel] * 2, mean, var, [1e-5] * 2
        ),
    }


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32], ids=str)
def test_a_gradient_of_another_type_is_refused_and_not_read_as_if_it_were_x(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4)
    for name, call in _backward(torch.ops.archloom, torch.ones_like(x).to(dtype), x).items():
        with pytest.raises(RuntimeError, match=f"archloom::{name}_backward: grad and x differ in dtype"):
            call()
    for name, call in _backward(torch.ops.archloom, torch.ones(2, 3, 4), x).items():
        with pytest.raises(RuntimeError, match=f"archloom::{name}_backward: grad and x differ in shape"):
            call()


@needs_kernels
def test_statistics_of_another_shape_are_refused() -> None:
    o, x, ones = torch.ops.archloom, torch.randn(2, 3, 4, 4), torch.ones(3)
    for mean, var in (
        (torch.ones(1, 2), torch.ones(1, 3)),
        (torch.ones(1, 3), torch.ones(1, 2)),
        (ones, ones),
    ):
        with pytest.raises(RuntimeError, match=r"mean and var must have shape \(1, 3\)"):
            o.bn_swish_backward(x, x, ones, ones, mean, var, 1e-5)


@needs_kernels
def test_a_gradient_that_is_not_wanted_is_zero() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.rand(2)
    assert torch.ops.archloom.mixed_sum_backward(x, [x, x], w, True, False)[1].tolist() == [0.0, 0.0]
    assert torch.ops.archloom.mixed_sum_backward(x, [x, x], w, False, True)[0] == []


@needs_kernels
def test_sums_do_not_depend_on_where_a_tensor_lies(isa: str) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        g, *xs = (torch.randn(40001).to(dtype) for _ in range(4))
        w = torch.rand(3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        found = torch.ops.archloom.mixed_sum_backward(g, xs, w, True, True)[1]
        for by in (1, 2, 3):
            moved = [torch.cat([x[:by], x])[by:] for x in (g, *xs)]
            again = torch.ops.archloom.mixed_sum_backward(moved[0], moved[1:], w, True, True)[1]
            assert torch.equal(found, again)


@pytest.mark.usefixtures("compiled")
def test_a_candidate_that_was_not_run_counts_as_zero() -> None:
    xs: list[Tensor | None] = [
        torch.randn(2, 3, requires_grad=True),
        None,
        torch.randn(2, 3, requires_grad=True),
    ]
    w = torch.rand(3, requires_grad=True)
    y = ops.mixed_sum(xs, w)
    torch.testing.assert_close(y, ops.mixed_sum_ref(xs, w))
    grads = torch.autograd.grad(y.sum(), [w, xs[0], xs[2]])
    wanted = torch.autograd.grad(ops.mixed_sum_ref(xs, w).sum(), [w, xs[0], xs[2]])
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert grads[0][1] == 0


@pytest.mark.usefixtures("compiled")
def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    x, y = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    (dx,) = torch.autograd.grad(ops.mixed_sum([x, y], torch.tensor([0.25, 0.75])).sum(), x)
    assert torch.equal(dx, torch.full((4, 5), 0.25))
    w = torch.tensor([0.25, 0.75], requires_grad=True)
    (dw,) = torch.autograd.grad(ops.mixed_sum([x.detach(), y], w).sum(), w)
    torch.testing.assert_close(dw, torch.stack([x.sum(), y.sum()]))


def test_results_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(8, 24, 30, 30) for _ in range(3)]
    w, gammas, betas = torch.rand(3), [torch.rand(24) for _ in xs], [torch.rand(24) for _ in xs]
    threads = torch.get_num_threads()

    def everything(layout: torch.memory_format) -> list[Tensor]:
        own = [x.contiguous(memory_format=layout) for x in xs]
        g = own[0]
        y, mean, var = torch.ops.archloom.bn_mixed_sum(own, w, gammas, betas, [1e-5] * 3)
        dxs, *rest = torch.ops.archloom.bn_mixed_sum_backward(g, own, w, gammas, betas, mean, var, [1e-5] * 3)
        _, dw = torch.ops.archloom.mixed_sum_backward(g, own, w, True, True)
        return [
            y,
            mean,
            var,
            *dxs,
            *rest,
            dw,
            *torch.ops.archloom.scale_gate_backward(g, own[1], own[2][:, :, 0, 0]),
        ]

    try:
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.set_num_threads(1)
            alone = everything(layout)
            for n in (2, 3):
                torch.set_num_threads(n)
                assert all(torch.equal(a, b) for a, b in zip(alone, everything(layout), strict=True))
    finally:
        torch.set_num_threads(threads)


def _norms(n: int, channels: int, **options: object) -> nn.ModuleList:
    norms = nn.ModuleList(nn.BatchNorm2d(channels, **options) for _ in range(n))
    for norm in norms:
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return norms


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"momentum": 0.7, "eps": 0.1},
        {"affine": False},
        {"track_running_stats": False},
    ],
)
def test_running_statistics_are_kept_as_batchnorm_keeps_them(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    ours = _norms(3, 6, **options)
    theirs = copy.deepcopy(ours)
    w = torch.rand(3)
    for step in range(3):
        xs = [torch.randn(4, 6, 5, 5) * (1 + k) + step for k in range(3)]
        torch.testing.assert_close(
            ops.bn_mixed_sum(xs, w, ours), ops.bn_mixed_sum_ref(xs, w, theirs), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            ops.bn_swish(xs[0], ours[0]), ops.bn_swish_ref(xs[0], theirs[0]), rtol=1e-5, atol=1e-5
        )
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("compiled")
def test_batchnorm_in_eval_mode_or_with_hooks_runs_itself() -> None:
    x, w = torch.randn(4, 6, 5, 5), torch.rand(2)
    norms = _norms(2, 6).eval()
    torch.testing.assert_close(
        ops.bn_mixed_sum([x, x], w, norms), sum(a * n(x) for a, n in zip(w, norms, strict=True))
    )
    assert torch.equal(norms[0].running_mean, torch.zeros(6))
    norms.train()
    seen = []
    norms[1].register_forward_hook(lambda module, inputs, output: seen.append(1))
    ops.bn_mixed_sum([x, x], w, norms)
    ops.bn_swish(x, norms[1])
    assert len(seen) == 2


@pytest.mark.usefixtures("compiled")
def test_batchnorm_refuses_a_single_value_per_channel_as_pytorch_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ops.bn_swish(torch.ones(1, 3, 1, 1), nn.BatchNorm2d(3))


def test_statistics_survive_a_large_mean_and_an_outlier(isa: str) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = (torch.randn(8, 4, 20, 20) + 3000).contiguous(memory_format=layout)
        x[0, :, 0, 0] = 9000
        _, mean, var = torch.ops.archloom.bn_swish(x, torch.ones(4), torch.zeros(4), 1e-5)
        exact = x.double()
        torch.testing.assert_close(mean[0].double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
        torch.testing.assert_close(var[0].double(), exact.var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


@pytest.mark.usefixtures("compiled")
def test_no_more_is_saved_for_the_backward_than_promised() -> None:
    def saved(op: str, n: int = 1) -> float:
        case = Case(op, (8, 16, 16, 16), n=n)
        return saved_bytes(variants(case)["archloom"].call) / case.bytes

    assert saved("swish") == 1
    assert saved("drop_connect") < 0.01
    assert saved("drop_connect_add") < 0.01
    assert 9 <= saved("mixed_sum", 9) < 9.01
    assert 9 <= saved("bn_mixed_sum", 9) < 9.2  # half of eager's, which keeps the normalized candidates too
    case = Case("bn_mixed_sum", (8, 16, 16, 16), n=9)
    assert saved_bytes(variants(case)["eager"].call) / case.bytes >= 18
    assert 1 <= saved("bn_swish") < 1.05
    assert 1 <= saved("scale_gate") < 1.05


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_types_are_eager_s(dtype: torch.dtype) -> None:
    """A convolution's output comes in the lower type, the weights and the norms' parameters stay float32."""
    low = torch.randn(2, 6, 4, 4).to(dtype)
    high = torch.randn(2, 6, 4, 4)
    w = torch.rand(2)
    with torch.autocast("cpu", dtype=dtype):
        assert ops.swish(low).dtype == F.silu(low).dtype == dtype
        norm = nn.BatchNorm2d(6)
        assert ops.bn_swish(low, norm).dtype == ops.bn_swish_ref(low, norm).dtype
        assert ops.mixed_sum([low, low], w).dtype == dtype
        mixed = ops.mixed_sum([low, high], w)
        assert mixed.dtype == ops.mixed_sum_ref([low, high], w).dtype == torch.float32
        assert ops.scale_gate(low, torch.randn(2, 6).to(dtype)).dtype == dtype


@pytest.mark.usefixtures("compiled")
def test_a_fused_and_an_eager_step_of_a_supernet_agree() -> None:
    """Two choices of three candidates, each conv then BatchNorm: weights, statistics and theta agree."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv2d(8, 8, k, padding=k // 2) for _ in range(2) for k in (1, 3, 5)
            )
            self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
            self.theta = nn.Parameter(torch.randn(2, 3) * 0.1)

        def forward(self, x: Tensor, fused: bool) -> Tensor:
            mix = ops.bn_mixed_sum if fused else ops.bn_mixed_sum_ref
            act = ops.swish if fused else ops.swish_ref
            add = ops.drop_connect_add if fused else ops.drop_connect_add_ref
            for layer in range(2):
                part = slice(3 * layer, 3 * layer + 3)
                w = F.softmax(self.theta[layer], 0)
                y = act(mix([conv(x) for conv in self.convs[part]], w, self.norms[part]))
                x = add(y, x, 0.25, True, torch.Generator().manual_seed(layer))
            return x.mean((2, 3))

    torch.manual_seed(0)
    fused = Net()
    eager = copy.deepcopy(fused)
    x, target = torch.randn(16, 8, 12, 12), torch.randint(8, (16,))
    for net, way in ((fused, True), (eager, False)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x, way), target).backward()
            optimizer.step()
    for (name, one), other in zip(fused.state_dict().items(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(
            one, other, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@needs_kernels
@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    n = (1 << 31) + 77
    x = torch.zeros(n, dtype=torch.bfloat16)
    x[-3:] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.bfloat16)
    expected = F.silu(x[-3:])
    y = torch.ops.archloom.swish(x)
    assert torch.equal(y[-3:], expected)
    assert y[: 1 << 20].abs().max() == 0
    del y
    z = torch.ops.archloom.mixed_sum([x], torch.tensor([2.0]))
    assert torch.equal(z[-3:], 2 * x[-3:])
