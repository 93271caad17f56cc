"""The operations that keep less or work in place, against the expressions that they equal."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archloom import kernels
from archloom.kernels import Status
from archloom_efficientnet import EfficientNet, layers

SHAPES = [(4, 6, 5, 7), (2, 3, 1, 1), (1, 4, 3, 2)]


def without_kernels(monkeypatch):
    """The layers' own operations, whether or not anything was compiled."""
    monkeypatch.setattr(kernels, "status", lambda: Status("python", frozenset(), {}))


def norm_for(channels, dtype=torch.float64):
    bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01).to(dtype)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        bn.weight.copy_(1 + 0.3 * torch.randn(channels, generator=generator))
        bn.bias.copy_(torch.randn(channels, generator=generator))
    return bn


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("margin", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tiny", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("compiled", [False, True], ids=["by PyTorch", "as it comes"])
def test_bn_swish_in_training_equals_the_plain_expression(shape, margin, layout, tiny, compiled, monkeypatch):
    if not compiled:
        without_kernels(monkeypatch)
    if tiny:
        monkeypatch.setattr(layers, "SLICE_BYTES", 1)
    ours, plain = norm_for(shape[1]), norm_for(shape[1])
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    y = layers.bn_swish(x, ours, margin)
    if not compiled or margin != (0, 0):
        assert "_BatchNormSwish" in type(y.grad_fn).__name__
    wanted = F.pad(F.silu(plain(x)), (0, margin[1], 0, margin[0]))
    torch.testing.assert_close(y, wanted)
    upstream = torch.randn_like(wanted)
    got = torch.autograd.grad(y, (x, ours.weight, ours.bias), upstream)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, (x, plain.weight, plain.bias), upstream))
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


def test_bn_swish_passes_gradcheck_and_takes_expanded_gradients():
    bn = norm_for(3)
    x = torch.randn(3, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: _function(x, w, b, bn), (x, bn.weight, bn.bias))
    layers.bn_swish(x, bn).sum().backward()
    assert torch.isfinite(x.grad).all()


def _function(x, weight, bias, bn):
    return layers._BatchNormSwish.apply(
        x, weight, bias, torch.zeros(3).double(), torch.ones(3).double(), 0.1, bn.eps, (1, 0)
    )


def test_bn_swish_leaves_other_norms_low_precision_and_eval_to_the_plain_expression():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    frozen = norm_for(3, torch.float32).eval()
    torch.testing.assert_close(layers.bn_swish(x, frozen), F.silu(frozen(x)))
    group = nn.GroupNorm(1, 3)
    torch.testing.assert_close(layers.bn_swish(x, group), F.silu(group(x)))
    half = layers.bn_swish(x.bfloat16(), norm_for(3, torch.float32))
    assert half.dtype == torch.bfloat16


def test_a_single_value_per_channel_is_refused_in_training():
    with pytest.raises(ValueError, match="more than one value per channel"):
        layers.bn_swish(torch.zeros(1, 3, 1, 1, requires_grad=True), norm_for(3, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_pooling_is_the_mean_with_its_gradient_also_where_a_half_precision_sum_would_overflow(dtype):
    x = (60 + torch.randn(2, 3, 48, 48)).to(dtype).requires_grad_()
    y, wanted = layers.pooled(x), x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(y, wanted)
    upstream = torch.randn_like(wanted)
    torch.testing.assert_close(torch.autograd.grad(y, x, upstream), torch.autograd.grad(wanted, x, upstream))


def test_folding_equals_convolution_and_batch_norm():
    conv, bn = nn.Conv2d(3, 4, 3, bias=False).double(), norm_for(4).eval()
    with torch.no_grad():
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
        x = torch.randn(2, 3, 5, 5).double()
        torch.testing.assert_close(F.conv2d(x, *layers.folded(conv, bn)), bn(conv(x)))


def test_drop_connect_drops_whole_images_at_its_rate_and_keeps_the_mean():
    x, skip = torch.ones(4000, 2, 1, 1), torch.full((4000, 2, 1, 1), 5.0)
    torch.manual_seed(0)
    y = layers.drop_connect_add(x, skip, 0.25, training=True) - 5
    assert sorted(set(y.flatten().tolist())) == [0.0, pytest.approx(4 / 3, rel=1e-6)]
    assert torch.equal(y[:, 0], y[:, 1])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    with torch.enable_grad():
        assert torch.equal(layers.drop_connect_add(x, skip, 0.25, training=False), x + skip)
        assert torch.equal(layers.drop_connect_add(x, skip, 1.0, training=True), skip)


def test_inference_in_slices_equals_inference_at_once_and_changes_nothing(monkeypatch):
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.5).eval()
    image = torch.randn(5, 3, 38, 38)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = image.clone()
    with torch.no_grad():
        at_once = model(image)
        monkeypatch.setattr(layers, "SLICE_BYTES", 1)
        torch.testing.assert_close(model(image), at_once, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(image), at_once, atol=1e-6, rtol=1e-5)  # nothing folded under autograd
    assert torch.equal(image, copy)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hooks_on_convolutions_and_norms_are_called_in_inference_too():
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.3).eval()
    block = model.features.stages[2][0]
    seen = []
    block.depthwise.bn.register_forward_hook(lambda *_: seen.append("bn"))
    block.expand.conv.register_forward_pre_hook(lambda *_: seen.append("conv"))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert seen == ["conv", "bn"]


def test_an_empty_batch_gives_empty_logits():
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.3).eval()
    with torch.no_grad():
        assert model(torch.randn(0, 3, 32, 32)).shape == (0, 1000)


@pytest.mark.skipif("cpu" not in kernels.status().devices, reason="no kernel is compiled here")
def test_a_training_step_is_the_same_with_the_compiled_kernels_and_without(monkeypatch):
    images, target = torch.randn(4, 3, 48, 48), torch.tensor([1, 2, 3, 4])
    found = []
    for compiled in (True, False):
        torch.manual_seed(0)
        model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.5, dropout_rate=0.0).train()
        if not compiled:
            without_kernels(monkeypatch)
            model.set_swish(memory_efficient=False)
        torch.manual_seed(1)  # drop-connect draws the same
        loss = F.cross_entropy(model(images), target)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters()], list(model.buffers())))
    torch.testing.assert_close(found[0], found[1], atol=2e-4, rtol=2e-3)


def test_without_the_forms_that_save_memory_a_network_can_be_differentiated_twice():
    model = EfficientNet.from_name("efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.3).train()
    model.set_swish(memory_efficient=False)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    (first,) = torch.autograd.grad(model(images).square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images)
    assert second.isfinite().all()
    assert second.abs().max() > 0
