"""What PyTorch asks of an operator: schema, fake kernels, autograd, tracing, vmap, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import needs_kernels
from examples import examples
from torch import Tensor, nn

from archloom import ops

pytestmark = needs_kernels


def _operators(layout: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Every operator of the dispatcher with arguments for it."""
    shape = (3, 6, 5, 5)
    found = {e.name: e.args for e in examples(shape, torch.float32, layout)}
    x, g = found["swish"][0], torch.randn(shape)
    xs, w, gammas, betas = found["bn_mixed_sum"]
    eps = [1e-5, 1e-3, 1e-2]
    _, mean, var = torch.ops.archloom.bn_mixed_sum(xs, w, gammas, betas, eps)
    _, mean1, var1 = torch.ops.archloom.bn_swish(x, gammas[0], betas[0], 1e-3)
    plain = [t.detach() for t in xs]
    gates = found["scale_gate"]
    return [
        ("swish", (x,)),
        ("swish_backward", (g.requires_grad_(), x)),
        ("drop_connect", found["drop_connect"]),
        ("drop_connect_add", found["drop_connect_add"]),
        ("mixed_sum", (xs, w)),
        ("mixed_sum_backward", (g.detach(), plain, w.detach(), True, True)),
        ("mixed_sum_backward", (g.detach(), plain, w.detach(), False, True)),
        (
            "bn_mixed_sum_backward",
            (
                g.detach(),
                plain,
                w.detach(),
                [t.detach() for t in gammas],
                [t.detach() for t in betas],
                mean.detach(),
                var.detach(),
                eps,
            ),
        ),
        (
            "bn_swish_backward",
            (
                g.detach(),
                x.detach(),
                gammas[0].detach(),
                betas[0].detach(),
                mean1.detach(),
                var1.detach(),
                1e-3,
            ),
        ),
        ("scale_gate", gates),
        ("scale_gate_backward", (g.detach(), gates[0].detach(), gates[1].detach())),
    ]


# the check itself looks at .grad of its copies, which are no leaves
OWN_NOISE = "ignore:The .grad attribute of a Tensor that is not a leaf"


@pytest.mark.filterwarnings(OWN_NOISE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck_finds_nothing(layout: str) -> None:
    for name, args in _operators(layout):
        torch.library.opcheck(getattr(torch.ops.archloom, name).default, args)


@pytest.mark.filterwarnings(OWN_NOISE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck_finds_nothing_in_batch_normalization(layout: str) -> None:
    """Their statistics carry no gradient, which the check with random gradients cannot know."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    found = {e.name: e.args for e in examples((3, 6, 5, 5), torch.float32, layout)}
    torch.library.opcheck(
        torch.ops.archloom.bn_mixed_sum.default,
        (*found["bn_mixed_sum"], [1e-5, 1e-3, 1e-2]),
        test_utils=tests,
    )
    torch.library.opcheck(torch.ops.archloom.bn_swish.default, (*found["bn_swish"], 1e-3), test_utils=tests)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_agree_with_finite_differences(isa: str, layout: str) -> None:
    for example in examples((2, 3, 3, 2), torch.float64, layout, n=2):
        leaves = example.leaves()

        def call(*values: Tensor, example: Any = example) -> Tensor:
            queue = list(values)

            def filled(arg: Any) -> Any:
                if isinstance(arg, list):
                    return [filled(x) for x in arg]
                return queue.pop(0) if isinstance(arg, Tensor) and arg.requires_grad else arg

            return example.op(*(filled(arg) for arg in example.args))

        if example.name != "bn_mixed_sum":
            assert torch.autograd.gradcheck(call, leaves, atol=1e-6), example.name
        else:  # the eps list has three entries for two candidates in the shared example
            xs, w, g, b = example.args
            assert torch.autograd.gradcheck(
                lambda x, y, w, *p: torch.ops.archloom.bn_mixed_sum([x, y], w, p[:2], p[2:], [1e-5, 1e-3])[0],
                [*xs, w, *g, *b],
                atol=1e-6,
            )


@pytest.mark.usefixtures("compiled")
def test_the_faces_gradients_agree_with_finite_differences() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(2, dtype=torch.float64, requires_grad=True)
    s = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.swish, [x])
    assert torch.autograd.gradcheck(lambda x, y, w: ops.mixed_sum([x, y], w), [x, y, w])
    assert torch.autograd.gradcheck(ops.scale_gate, [x, s])
    for op in (lambda x: ops.drop_connect(x, 0.5, True, torch.Generator().manual_seed(3)),):
        assert torch.autograd.gradcheck(op, [x])
    assert torch.autograd.gradcheck(
        lambda x, y: ops.drop_connect_add(x, y, 0.5, True, torch.Generator().manual_seed(3)), [x, y]
    )
    norms = [nn.BatchNorm1d(3).double() for _ in range(2)]
    parameters = [p for norm in norms for p in norm.parameters()]
    assert torch.autograd.gradcheck(
        lambda x, y, w, *_: ops.bn_mixed_sum([x, y], w, norms), [x, y, w, *parameters]
    )
    assert torch.autograd.gradcheck(lambda x, *_: ops.bn_swish(x, norms[0]), [x, *parameters[:2]])


@pytest.mark.usefixtures("compiled")
def test_swish_and_mixed_sum_can_be_differentiated_twice() -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    w = torch.rand(2, dtype=torch.float64, requires_grad=True)
    for swish in (ops.swish, torch.ops.archloom.swish):
        assert torch.autograd.gradgradcheck(swish, [x])
    for mix in (ops.mixed_sum, torch.ops.archloom.mixed_sum):
        assert torch.autograd.gradgradcheck(lambda x, y, w, mix=mix: mix([x, y], w), [x, y, w])


@pytest.mark.usefixtures("compiled")
def test_batch_normalization_and_the_gate_can_be_differentiated_twice() -> None:
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    s = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    w, norms = (
        torch.rand(2, dtype=torch.float64, requires_grad=True),
        [nn.BatchNorm2d(2).double() for _ in "ab"],
    )
    own = list(norms[0].parameters())
    assert torch.autograd.gradgradcheck(ops.scale_gate, [x, s])
    assert torch.autograd.gradgradcheck(lambda x, *_: ops.bn_swish(x, norms[0]), [x, *own])
    assert torch.autograd.gradgradcheck(
        lambda x, y, w, *_: ops.bn_mixed_sum([x, y], w, norms), [x, y, w, *own]
    )


def test_a_backward_operator_that_has_no_gradient_says_so() -> None:
    x, s = torch.randn(4, 3, 5, 5, requires_grad=True), torch.ones(4, 3)
    dx, _ = torch.ops.archloom.scale_gate_backward(torch.ones_like(x), x, s)
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        dx.sum().backward()


def _everything(x: Tensor, y: Tensor, w: Tensor, s: Tensor, norms: nn.ModuleList) -> Tensor:
    z = ops.swish(x) + ops.mixed_sum([x, None, y], w)
    z = ops.bn_mixed_sum([z, y], w[:2], norms)
    z = ops.scale_gate(ops.bn_swish(z, norms[0]), s)
    return ops.drop_connect_add(z, y, 0.5, True)


def _compare_compiled(backend: str, dynamic: bool | None) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
    args = [torch.randn(6, 4, 5, 5, requires_grad=True), torch.randn(6, 4, 5, 5, requires_grad=True)]
    args += [torch.rand(3, requires_grad=True), torch.randn(6, 4, requires_grad=True)]
    traced = torch.compile(_everything, backend=backend, fullgraph=True, dynamic=dynamic)
    results = []
    for call in (_everything, traced):
        torch.manual_seed(7)
        result = call(*args, norms)
        results.append([result, *torch.autograd.grad(result.square().sum(), args)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_takes_everything_in_one_graph(dynamic: bool) -> None:
    _compare_compiled("aot_eager", dynamic)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_with_inductor() -> None:
    torch._inductor.config.fallback_random = True
    try:
        _compare_compiled("inductor", False)
    finally:
        torch._inductor.config.fallback_random = False


@pytest.mark.usefixtures("compiled")
def test_vmap_batches_every_op() -> None:
    x, y = torch.randn(3, 4, 6, 5, 5), torch.randn(3, 4, 6, 5, 5)
    w, s, scale = torch.rand(3, 2), torch.randn(3, 4, 6), torch.rand(3, 4)
    gamma, beta = torch.rand(3, 6), torch.rand(3, 6)
    o = torch.ops.archloom
    calls: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = [
        (o.swish, (x,)),
        (o.swish_backward, (y, x)),
        (o.drop_connect, (x, scale)),
        (o.drop_connect_add, (x, y, scale)),
        (lambda x, y, w: o.mixed_sum([x, y], w), (x, y, w)),
        (lambda x, y, w, g: o.bn_mixed_sum([x, y], w, [g, g], [g, g], [1e-5, 1e-5])[0], (x, y, w, gamma)),
        (lambda x, g, b: o.bn_swish(x, g, b, 1e-5)[0], (x, gamma, beta)),
        (o.scale_gate, (x, s)),
        (lambda g, x, s: o.scale_gate_backward(g, x, s)[1], (y, x, s)),
    ]
    for call, args in calls:
        expected = torch.stack([call(*(arg[i] for arg in args)) for i in range(3)])
        torch.testing.assert_close(torch.vmap(call)(*args), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_gradients_per_sample_through_torch_func() -> None:
    x, y, w = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.rand(3, 2)

    def loss(mix: Any, act: Any) -> Callable[..., Tensor]:
        return lambda w, x, y: act(mix([x, y], w)).square().sum()

    ours = torch.vmap(torch.func.grad(loss(ops.mixed_sum, ops.swish)))(w, x, y)
    theirs = torch.vmap(torch.func.grad(loss(ops.mixed_sum_ref, ops.swish_ref)))(w, x, y)
    torch.testing.assert_close(ours, theirs)


def test_meta_tensors_go_through() -> None:
    x = torch.empty(2, 3, 4, 4, device="meta")
    assert ops.mixed_sum([x, x], torch.empty(2, device="meta")).shape == x.shape
    assert torch.ops.archloom.swish(x).device.type == "meta"
