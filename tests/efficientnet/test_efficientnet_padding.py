"""SAME padding against its definition, at every size and stride."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from archloom.errors import ConfigError
from archloom_efficientnet import EfficientNet, SameConv2d, SameMaxPool2d, freeze_padding, unfreeze_padding

sizes = st.integers(1, 12)


def padded_by_definition(x, kernel, stride, value):
    """TensorFlow's rule, one direction after the other, with an explicit copy."""
    amounts = []
    for size, k, s in zip(x.shape[-2:], kernel, stride, strict=True):
        outputs = (size + s - 1) // s
        total = max((outputs - 1) * s + k - size, 0)
        amounts = [total // 2, total - total // 2, *amounts]
    return F.pad(x, amounts, value=value)


@settings(deadline=None, max_examples=150)
@given(
    sizes,
    sizes,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_convolution_is_same_at_every_size_kernel_and_stride(h, w, kernel, stride):
    x = torch.randn(1, 2, h, w, generator=torch.Generator().manual_seed(h * 13 + w)).double()
    conv = SameConv2d(2, 2, kernel, stride, groups=2).double()
    wanted = F.conv2d(padded_by_definition(x, kernel, stride, 0.0), conv.weight, None, stride, groups=2)
    got = conv(x)
    assert got.shape[-2:] == (-(-h // stride[0]), -(-w // stride[1]))
    torch.testing.assert_close(got, wanted)


@settings(deadline=None, max_examples=150)
@given(
    sizes,
    sizes,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_max_pooling_is_same_and_never_takes_a_padded_value(h, w, kernel, stride):
    x = -1 - torch.rand(1, 2, h, w, generator=torch.Generator().manual_seed(h * 13 + w))
    wanted = F.max_pool2d(padded_by_definition(x, kernel, stride, float("-inf")), kernel, stride)
    assert torch.equal(SameMaxPool2d(kernel, stride)(x), wanted)


def test_no_copy_is_made_where_the_padding_is_symmetric(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("padded by a copy")

    monkeypatch.setattr(F, "pad", refuse)
    SameConv2d(1, 1, 3, 1)(torch.zeros(1, 1, 6, 6))
    SameConv2d(1, 1, 3, 2)(torch.zeros(1, 1, 7, 7))
    SameConv2d(1, 1, 5, 2)(torch.zeros(1, 1, 9, 9))
    with pytest.raises(AssertionError, match="copy"):
        SameConv2d(1, 1, 3, 2)(torch.zeros(1, 1, 6, 6))


def test_frozen_padding_gives_the_same_at_its_size_and_refuses_another():
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.3).eval()
    image = torch.randn(1, 3, 50, 41)
    with torch.no_grad():
        dynamic = model(image)
        model.set_static_padding((50, 41))
        assert torch.equal(model(image), dynamic)
        with pytest.raises(ConfigError, match="frozen for an input of 50 x 41, and 64 x 64 came"):
            model(torch.randn(1, 3, 64, 64))
        model.set_static_padding(None)
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_any_module_with_same_layers_can_be_frozen():
    net = torch.nn.Sequential(SameMaxPool2d(3, 2), SameConv2d(1, 1, 3, 2))
    freeze_padding(net, (1, 8, 8))
    assert [layer.static_size for layer in net] == [(8, 8), (4, 4)]
    unfreeze_padding(net)
    assert [layer.static_size for layer in net] == [None, None]


@pytest.mark.parametrize("size", [40, 33])
def test_a_traced_network_with_frozen_padding_computes_the_same(size):
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.3).eval()
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(image)
        model.set_swish(memory_efficient=False)
        model.set_static_padding(size)
        exported = torch.export.export(model, (image,)).module()
        torch.testing.assert_close(exported(image), wanted, atol=1e-4, rtol=1e-4)
