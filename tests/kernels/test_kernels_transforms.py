"""An op is the expression that it stands for to whoever transforms, traces, exports or looks at what is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from archloom import ops
from archloom.kernels.bench import saved_bytes

D = torch.float64


def _norms() -> list[nn.Module]:
    torch.manual_seed(3)
    found = [nn.BatchNorm2d(2).to(D), nn.BatchNorm2d(2).to(D)]
    for norm in found:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return found


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


X, Y = (
    torch.randn(3, 2, 2, 2, dtype=D, generator=_generator()),
    torch.linspace(-1, 1, 24, dtype=D).reshape(3, 2, 2, 2),
)
W, S = torch.tensor([0.25, 0.75], dtype=D), torch.linspace(-2, 2, 6, dtype=D).reshape(3, 2)
NORMS = _norms()

Op = Callable[..., Tensor]
CASES: dict[str, tuple[Op, Op, Sequence[Tensor]]] = {
    "swish": (ops.swish, ops.swish_ref, (X,)),
    "drop_connect": (
        lambda x: ops.drop_connect(x, 0.5, True, _generator()),
        lambda x: ops.drop_connect_ref(x, 0.5, True, _generator()),
        (X,),
    ),
    "drop_connect_add": (
        lambda x, y: ops.drop_connect_add(x, y, 0.5, True, _generator()),
        lambda x, y: ops.drop_connect_add_ref(x, y, 0.5, True, _generator()),
        (X, Y),
    ),
    "mixed_sum": (
        lambda x, y, w: ops.mixed_sum([x, None, y], torch.cat([w[:1], w])),
        lambda x, y, w: ops.mixed_sum_ref([x, None, y], torch.cat([w[:1], w])),
        (X, Y, W),
    ),
    "mixed_sum of one tensor": (
        lambda x, w: ops.mixed_sum([x, x], w),
        lambda x, w: ops.mixed_sum_ref([x, x], w),
        (X, W),
    ),
    "bn_mixed_sum": (
        lambda x, y, w: ops.bn_mixed_sum([x, y], w, NORMS),
        lambda x, y, w: ops.bn_mixed_sum_ref([x, y], w, NORMS),
        (X, Y, W),
    ),
    "bn_swish": (lambda x: ops.bn_swish(x, NORMS[0]), lambda x: ops.bn_swish_ref(x, NORMS[0]), (X,)),
    "scale_gate": (ops.scale_gate, ops.scale_gate_ref, (X, S)),
}
each_op = pytest.mark.parametrize(("op", "reference", "args"), CASES.values(), ids=CASES)


def leaves(args: Sequence[Tensor]) -> list[Tensor]:
    return [arg.clone().requires_grad_() for arg in args]


def assert_all_close(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("compiled")
@each_op
def test_a_jacobian_of_batched_gradients_is_that_of_the_loop(
    op: Op, reference: Op, args: Sequence[Tensor]
) -> None:
    together = torch.autograd.functional.jacobian(op, tuple(args), vectorize=True)
    assert_all_close(together, torch.autograd.functional.jacobian(reference, tuple(args)))


@pytest.mark.usefixtures("compiled")
@each_op
def test_a_recorded_graph_takes_gradients_under_vmap(op: Op, reference: Op, args: Sequence[Tensor]) -> None:
    values = []
    for call in (op, reference):
        inputs = leaves(args)
        y = call(*inputs)
        grads = torch.linspace(-1, 1, 3 * y.numel(), dtype=D).reshape(3, *y.shape)
        values.append(
            torch.vmap(lambda g, y=y, inputs=inputs: torch.autograd.grad(y, inputs, g, retain_graph=True))(
                grads
            )
        )
    assert_all_close(*values)


@pytest.mark.usefixtures("compiled")
@each_op
def test_a_hessian_vector_product_is_that_of_the_reference(
    op: Op, reference: Op, args: Sequence[Tensor]
) -> None:
    values = []
    for call in (op, reference):
        inputs = leaves(args)
        first = torch.autograd.grad(call(*inputs).pow(3).sum(), inputs, create_graph=True)
        values.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    assert_all_close(*values)


own_noise = pytest.mark.filterwarnings(
    "ignore:.torch.jit.[a-z_]*. is deprecated"
)  # torch's, from its own code


@own_noise
@pytest.mark.usefixtures("compiled")
@each_op
def test_forward_mode_gives_the_value_and_the_tangent(op: Op, reference: Op, args: Sequence[Tensor]) -> None:
    values = []
    for call in (op, reference):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(arg, torch.cos(arg)) for arg in args]
            values.append(forward_ad.unpack_dual(call(*duals)))
    assert_all_close(*values)


@own_noise
@pytest.mark.usefixtures("compiled")
@each_op
def test_the_tangent_of_a_gradient_reaches_a_graph_recorded_before(
    op: Op, reference: Op, args: Sequence[Tensor]
) -> None:
    values: list[Any] = []
    for call in (op, reference):
        inputs = leaves(args)
        y = call(*inputs)
        with forward_ad.dual_level():
            grad = forward_ad.make_dual(torch.ones_like(y), torch.cos(y.detach()))
            try:
                found = torch.autograd.grad(y, inputs, grad)
            except NotImplementedError as error:  # PyTorch has none of silu's gradient
                values.append(str(error))
            else:
                values.append([part for g in found for part in forward_ad.unpack_dual(g)])
    if "silu_backward" in values[1]:
        assert values[0] == values[1]
    else:
        assert_all_close(*values)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap_draws_masks_for_each_sample_or_one_for_all(randomness: str) -> None:
    torch.manual_seed(0)
    x = torch.ones(6, 16, 2)
    for call in (
        lambda x: ops.drop_connect(x, 0.5, True),
        lambda x: ops.drop_connect_add(x, x, 0.5, True) - x,
    ):
        masks = torch.vmap(call, randomness=randomness)(x)[..., 0]
        assert set(masks.unique().tolist()) == {0.0, 2.0}
        assert len(masks.unique(dim=0)) == (1 if randomness == "same" else 6)


def test_vmap_that_was_not_asked_for_randomness_refuses_as_pytorch_does() -> None:
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda x: ops.drop_connect(x, 0.5, True))(torch.ones(2, 3, 2))


@pytest.mark.parametrize("fill", [1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("grad", [1.0, float("inf")])
def test_what_is_dropped_with_certainty_stays_in_the_graph_with_gradient_zero(
    fill: float, grad: float
) -> None:
    x, skip = torch.full((2, 3), fill, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    y = ops.drop_connect(x, 1.0, True)
    assert torch.equal(y, torch.zeros(2, 3))
    assert torch.equal(torch.autograd.grad(y, x, torch.full((2, 3), grad))[0], torch.zeros(2, 3))
    y = ops.drop_connect_add(x, skip, 1.0, True)
    assert torch.equal(y, skip)
    dx, dskip = torch.autograd.grad(y, [x, skip], torch.full((2, 3), grad))
    assert torch.equal(dx, torch.zeros(2, 3))
    assert torch.equal(dskip, torch.full((2, 3), grad))


class _Call(nn.Module):
    """One op as a module with the parts that it needs, for exporters."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op, self.norms = op, nn.ModuleList(_norms())

    def forward(self, *args: Tensor) -> Tensor:
        return self.op(self.norms, *args)


EXPORTED: dict[str, tuple[Op, Sequence[Tensor]]] = {
    "swish": (lambda n, x: ops.swish(x), (X,)),
    "drop_connect": (lambda n, x: ops.drop_connect(x, 0.5, True), (X,)),
    "drop_connect_add": (lambda n, x, y: ops.drop_connect_add(x, y, 0.5, True), (X, Y)),
    "drop_connect_add in eval mode": (lambda n, x, y: ops.drop_connect_add(x, y, 0.5, False), (X, Y)),
    "mixed_sum": (lambda n, x, y: ops.mixed_sum([x, None, y], torch.ones(3, dtype=D)), (X, Y)),
    "bn_mixed_sum": (lambda n, x, y: ops.bn_mixed_sum([x, y], torch.ones(2, dtype=D), n), (X, Y)),
    "bn_swish": (lambda n, x: ops.bn_swish(x, n[0]), (X,)),
    "scale_gate": (lambda n, x, s: ops.scale_gate(x, s), (X, S)),
    "scale_gate of four dimensions": (lambda n, x, s: ops.scale_gate(x, s[..., None, None]), (X, S)),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("op", "args"), EXPORTED.values(), ids=EXPORTED)
def test_an_exported_graph_runs_at_every_batch(op: Op, args: Sequence[Tensor], strict: bool) -> None:
    module = _Call(op).eval()
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(
        module, tuple(args), dynamic_shapes=(tuple({0: batch} for _ in args),), strict=strict
    ).module()
    for n in (2, 7, 32):
        wide = [arg[:1].expand(n, *arg.shape[1:]).clone() for arg in args]
        torch.manual_seed(n)  # what drops, drops as often: the graph draws as the op does
        found = exported(*wide)
        torch.manual_seed(n)
        torch.testing.assert_close(found, module(*wide))


@own_noise
@pytest.mark.parametrize(("op", "args"), EXPORTED.values(), ids=EXPORTED)
def test_a_traced_graph_looks_at_no_size(op: Op, args: Sequence[Tensor]) -> None:
    module = _Call(op).eval()
    traced = torch.jit.trace(module, tuple(args), check_trace=False)
    wide = [torch.cat([arg, arg]) for arg in args]
    assert traced(*wide).shape == module(*wide).shape


def test_a_tensor_of_another_class_sees_every_operation() -> None:
    class Watched(Tensor):
        seen: list[str] = []  # noqa: RUF012

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            cls.seen.append(getattr(func, "__name__", str(func)))
            return super().__torch_function__(func, types, args, kwargs or {})

    x = X.clone().as_subclass(Watched)
    for call in (ops.bn_swish, ops.bn_swish_ref):
        Watched.seen.clear()
        y = call(x, copy.deepcopy(NORMS[0]))
        assert isinstance(y, Watched)
        assert {"batch_norm", "silu"} <= set(Watched.seen)


@pytest.mark.usefixtures("compiled")
@each_op
def test_a_mode_sees_the_functions_of_the_reference(op: Op, reference: Op, args: Sequence[Tensor]) -> None:
    class Watching(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    found = []
    for call in (op, reference):
        seen: list[Any] = []
        with Watching():
            call(*args)
        found.append(
            {func for func in seen if "Tensor.shape" not in str(func) and func.__name__ != "__get__"}
        )
    assert found[1] <= found[0]
    assert not any("archloom" in str(func) for func in found[0])


@pytest.mark.usefixtures("compiled")
def test_a_default_device_is_nobody_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    inner = ops.compiled.swish
    monkeypatch.setattr(ops.compiled, "swish", lambda x: (ran.append("swish"), inner(x))[1])
    with torch.device("cpu"):
        ops.swish(X)
    assert ran == ["swish"]


@pytest.mark.usefixtures("compiled")
def test_candidates_are_kept_for_the_gradient_of_their_weights_alone() -> None:
    xs = [torch.randn(4, 5, 6, dtype=D, requires_grad=True) for _ in range(9)]
    w, size = torch.rand(9, dtype=D), xs[0].nbytes
    learned = w.clone().requires_grad_()
    for call in (ops.mixed_sum, torch.ops.archloom.mixed_sum):
        assert saved_bytes(lambda call=call: call(xs, w)) / size < 0.5
        assert 9 <= saved_bytes(lambda call=call: call(xs, learned)) / size < 9.5
    found = torch.autograd.grad(ops.mixed_sum(xs, w).square().sum(), xs)
    assert_all_close(found, torch.autograd.grad(ops.mixed_sum_ref(xs, w).square().sum(), xs))


@pytest.mark.usefixtures("compiled")
def test_the_gate_keeps_x_for_the_gradient_of_its_own_input_alone() -> None:
    x, s = torch.randn(4, 5, 6, 6, requires_grad=True), torch.randn(4, 5)
    for call in (ops.scale_gate, torch.ops.archloom.scale_gate):
        assert saved_bytes(lambda call=call: call(x, s)) / x.nbytes < 0.5
    (dx,) = torch.autograd.grad(ops.scale_gate(x, s).square().sum(), x)
    torch.testing.assert_close(dx, torch.autograd.grad(ops.scale_gate_ref(x, s).square().sum(), x)[0])
