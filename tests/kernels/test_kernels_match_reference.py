"""Every operator's value and gradients against plain PyTorch in float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from examples import DTYPES, LAYOUTS, SHAPES, TOLERANCE, Example, examples


def _close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, what: str) -> None:
    assert actual.shape == expected.shape, what
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= TOLERANCE[dtype] * max(1.0, expected.abs().max().item()), f"{what}: off by {error}"


def _check(example: Example, dtype: torch.dtype) -> None:
    wide = example.in_float64()
    actual, expected = example.op(*example.args), example.reference(*wide.args)
    _close(actual, expected, dtype, example.name)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(
        dtype
    )
    found = torch.autograd.grad(actual, example.leaves(), grad)
    wanted = torch.autograd.grad(expected, wide.leaves(), grad.double())
    for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.dtype == example.leaves()[k].dtype
        _close(one, other, dtype, f"{example.name}, gradient {k}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradients_agree_for_odd_shapes(
    isa: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    for layout in ("contiguous", "channels_last"):
        for example in examples(shape, dtype, layout):
            _check(example, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_value_and_gradients_agree_for_every_layout(isa: str, dtype: torch.dtype, layout: str) -> None:
    for example in examples((3, 6, 11, 13), dtype, layout):
        _check(example, dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_expanded_gradient_is_understood(isa: str, layout: str) -> None:
    for example in examples((2, 6, 5, 5), torch.float32, layout):
        wide = example.in_float64()
        found = torch.autograd.grad(example.op(*example.args).sum(), example.leaves())
        wanted = torch.autograd.grad(example.reference(*wide.args).sum(), wide.leaves())
        for one, other in zip(found, wanted, strict=True):
            _close(one, other, torch.float32, example.name)


def test_more_candidates_than_registers(isa: str) -> None:
    for n in (1, 2, 4, 9, 20):
        xs = [torch.randn(3, 4, 5, 6) for _ in range(n)]
        w = torch.rand(n)
        expected = sum(a.double() * b for a, b in zip(w, xs, strict=True))
        _close(torch.ops.archloom.mixed_sum(xs, w), expected, torch.float32, f"N = {n}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_too_large_for_the_caches_are_written_past_them_and_right(
    isa: str, dtype: torch.dtype
) -> None:
    """Above 32 MB of results other stores are used; an odd count leaves a rest to the ordinary ones."""
    count = (33 << 20) // dtype.itemsize + 5
    x = torch.linspace(-8, 8, count).to(dtype)
    step = 997  # every position within a vector is looked at
    few = x[::step].double()
    _close(torch.ops.archloom.swish(x)[::step], torch.nn.functional.silu(few), dtype, "swish")
    both = torch.ops.archloom.drop_connect_add(x.reshape(1, -1), x.reshape(1, -1), torch.tensor([1.25]))
    _close(both[0, ::step], 2.25 * few, dtype, "drop_connect_add")
    w = torch.tensor([0.25, 0.5], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    _close(torch.ops.archloom.mixed_sum([x, x], w)[::step], 0.75 * few, dtype, "mixed_sum")
    (dx, dy), dw = torch.ops.archloom.mixed_sum_backward(x, [x, x], w, True, True)
    _close(dx[::step], 0.25 * few, dtype, "dx")
    _close(dy[::step], 0.5 * few, dtype, "dy")
    exact = x.double().square().sum()
    assert torch.allclose(dw.double(), exact.expand(2), rtol=1e-5)


def test_an_image_of_one_pixel_is_as_good_as_a_row_of_channels(isa: str) -> None:
    for example in examples((70, 33, 1, 1), torch.float32, "contiguous"):
        _check(example, torch.float32)
    for example in examples((64, 64, 3, 3), torch.float32, "channels_last"):
        _check(example, torch.float32)
