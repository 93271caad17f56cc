from __future__ import annotations

import pytest
import torch
from fbnet_golden import close, det_input, fill, golden, noise

from archloom.errors import SpaceError
from archloom_fbnet.primitives import PRIMITIVES, BlockOptions, divisible, primitive


def test_the_fill_is_the_one_under_which_the_goldens_were_recorded():
    assert noise("input", 3).tolist() == [0.36175543162971735, 0.03334789630025625, -0.6354179051704705]
    assert noise("_fc.bias", 2).tolist() == [-0.05240235012024641, -0.9256084952503443]


def test_there_are_39_primitives():
    assert len(PRIMITIVES) == len(set(PRIMITIVES)) == 39


@pytest.mark.parametrize("form", sorted(golden()["primitive_goldens"]))
def test_a_primitive_computes_what_the_reference_computes(form):
    name, c_in, c_out, stride = form.split("|")
    expected = golden()["primitive_goldens"][form]
    block = primitive(name, int(c_in), int(c_out), 3, int(stride[1:]))
    keys = fill(block)
    assert keys == [key for key, _ in expected["keys"]]
    assert [list(t.shape) for t in block.state_dict().values()] == [shape for _, shape in expected["keys"]]
    with torch.no_grad():
        y = block(det_input(1, int(c_in), 14, 14))
    assert list(y.shape) == expected["shape"]
    assert sum(p.numel() for p in block.parameters()) == expected["params"]
    close(y.flatten()[:8], expected["first8"])
    assert y.abs().sum(dtype=torch.float64).item() == pytest.approx(expected["abs_sum"], rel=1e-5)


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_primitive_gives_the_width_and_the_size_that_it_is_asked_for(name, stride):
    y = primitive(name, 16, 24, 3, stride).eval()(torch.randn(2, 16, 10, 6))
    pointwise = name == "ir_k1"  # nothing in it could carry a stride
    assert y.shape == (2, 24, *((10, 6) if stride == 1 or pointwise else (5, 3)))


@pytest.mark.parametrize("name", [n for n in PRIMITIVES if n not in ("basic_block", "shift_5x5")])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_negative_stride_enlarges(name, factor):
    assert primitive(name, 8, 8, 3, -factor).eval()(torch.randn(1, 8, 5, 3)).shape == (
        1,
        8,
        5 * factor,
        3 * factor,
    )


def test_up_sampling_repeats_the_nearest_pixel():
    block = primitive("skip", 2, 2, 1, -2)
    x = torch.arange(8.0).view(1, 2, 2, 2)
    up = block.upsample(x)
    assert torch.equal(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_shuffle_interleaves_groups_in_both_memory_formats():
    shuffle = primitive("ir_k3_s4", 8, 8, 1, 1).shuffle
    x = torch.randn(2, 32, 3, 5)
    expected = x.view(2, 4, 8, 3, 5).transpose(1, 2).reshape(2, 32, 3, 5)
    assert torch.equal(shuffle(x), expected)
    fast = shuffle(x.to(memory_format=torch.channels_last))
    assert torch.equal(fast, expected)
    assert fast.is_contiguous(memory_format=torch.channels_last)


def test_norm_and_relu_after_the_depthwise_convolution_can_be_dropped():
    options = BlockOptions(dw_norm=False, dw_relu=False)
    assert [name for name, _ in primitive("ir_k3_e6", 16, 16, 1, 1, options).dw.named_children()] == ["conv"]
    twice = primitive("ir_k33_e6", 16, 16, 1, 1, options).dw
    assert [name for name, _ in twice.dw1.named_children()] == ["conv", "bn", "relu"]
    assert [name for name, _ in twice.dw2.named_children()] == ["conv"]


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_takes_every_norm(name):
    wanted = {"bn": torch.nn.BatchNorm2d, "gn": torch.nn.GroupNorm}
    for norm in ("bn", "gn", "frozen_bn"):
        block = primitive(name, 16, 24, 4, 1, BlockOptions(norm=norm, norm_groups=4))
        norms = [
            m
            for m in block.modules()
            if "Norm" in type(m).__name__ and m.__module__ != type(block).__module__
        ]
        assert norms
        assert all(isinstance(m, wanted[norm]) for m in norms if norm in wanted)
        assert block(torch.randn(2, 16, 4, 4)).isfinite().all()
        if norm == "frozen_bn":
            assert not any(".bn." in key for key, _ in block.named_parameters())


@pytest.mark.parametrize(
    ("width", "divisor", "up", "expected"),
    [(5.6, 8, False, 8), (11.2, 8, False, 8), (12, 8, False, 16), (11.2, 8, True, 16), (16, 8, True, 16),
     (1, 8, False, 8), (7.9, 1, False, 7)],
)  # fmt: skip
def test_widths_are_rounded_to_multiples(width, divisor, up, expected):
    assert divisible(width, divisor, up=up) == expected


def test_what_a_block_cannot_be_is_said():
    with pytest.raises(SpaceError, match="did you mean 'ir_k3_e6'"):
        primitive("ir_k3_e66", 16, 16, 1, 1)
    with pytest.raises(SpaceError, match="cannot have stride 3"):
        primitive("ir_k3_e6", 16, 16, 1, 3)
    with pytest.raises(SpaceError, match="4 groups do not divide"):
        primitive("ir_k3_s4", 18, 18, 1, 1)
    with pytest.raises(SpaceError, match="GroupNorm with 8 groups"):
        primitive("ir_k3_e6", 12, 12, 1, 1, BlockOptions(norm="gn"))
