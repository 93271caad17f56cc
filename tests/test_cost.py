from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import archloom
from archloom.cost import count
from archloom.errors import ConfigError
from archloom.steps import steps
from toys import state_of


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("mobilenet_v2", 3_504_872, 300_774_272), ("resnet18", 11_689_512, 1_814_073_344)],
)
def test_params_and_macs_of_known_networks(name, params, macs):
    """Parameters as torchvision documents them; MACs as the sum over layers gives, by hooks, below."""
    model = getattr(torchvision.models, name)(weights=None)
    cost = count(model, 224)
    assert (cost.params, cost.macs) == (params, macs)


def macs_by_hooks(model: nn.Module, x: torch.Tensor) -> int:
    """kernel elements times outputs, layer by layer, from a real forward."""
    counted = []

    def hook(module, _, output):
        if isinstance(module, nn.Conv2d):
            counted.append(output[0].numel() * module.weight[0].numel())
        else:
            counted.append(module.weight.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(x)
    return sum(counted)


@pytest.mark.parametrize("seed", range(6))
def test_macs_are_the_sum_over_layers_for_any_convolution(seed):
    rng, channels, layers = random.Random(seed), 4, []
    for _ in range(4):
        groups = rng.choice([1, 2, 4])
        width = rng.choice([4, 8, 12])
        layers += [
            nn.Conv2d(
                channels, width, rng.choice([1, 3, 5]), stride=rng.choice([1, 2]), padding=2, groups=groups
            ),
            nn.BatchNorm2d(width),
            nn.SiLU(),
        ]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))
    x = torch.randn(1, 4, 17, 13)
    assert count(model, (4, 17, 13)).macs == macs_by_hooks(model, x)


def test_counting_changes_nothing_and_counts_trainable_parameters_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    model[0].weight.requires_grad_(False)
    before = state_of(model)
    assert count(model, 8).params == 4 + 8
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


# -- layers and products of every kind, of an image (6, 4, 3) ----------------------------------------


class Called(nn.Module):
    """A network that is one function of (its parts, the image)."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(torch.ones(part)) if isinstance(part, tuple) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C), a view."""
    return x.flatten(2).transpose(1, 2)


LINEAR = {
    "as it lies": (nn.Linear(3, 5), 6 * 4 * 5 * 3),
    "tokens": (Called(lambda m, x: m.layer(tokens(x)), layer=nn.Linear(6, 5)), 12 * 5 * 6),
    "channels last": (Called(lambda m, x: m.layer(x.permute(0, 2, 3, 1)), layer=nn.Linear(6, 5)), 360),
    "contiguous": (Called(lambda m, x: m.layer(tokens(x).contiguous()), layer=nn.Linear(6, 5)), 360),
    "no bias": (Called(lambda m, x: m.layer(x.mT), layer=nn.Linear(4, 5, bias=False)), 360),
    "a slice": (Called(lambda m, x: m.layer(x[..., 1:]), layer=nn.Linear(2, 5)), 240),
    "expanded": (Called(lambda m, x: m.layer(x[:, :1].expand(-1, 7, -1, -1)), layer=nn.Linear(3, 5)), 420),
    "one vector": (Called(lambda m, x: m.layer(x.flatten()), layer=nn.Linear(72, 5)), 360),
    "functional": (Called(lambda m, x: F.linear(x.transpose(1, 3), m.w), w=(5, 6)), 360),
    "weights made of the image": (
        Called(lambda m, x: F.linear(x.mean((2, 3)), x.mean((2, 3)).T.expand(-1, 6)[:5])),
        5 * 6,
    ),
    "weights of low rank": (Called(lambda m, x: F.linear(x.mean((2, 3)), m.a @ m.b), a=(5, 2), b=(2, 6)), 90),
    "spectral norm": (torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 5)), 360),
    "bilinear": (
        Called(lambda m, x: m.layer(x[..., :2], x[..., 2:]), layer=nn.Bilinear(2, 1, 5)),
        6 * 4 * 5 * 2 * 1,
    ),
}
"""Of linear layers the right value is outputs times inputs of one, whatever the layout."""

PRODUCTS = {
    "matmul": (Called(lambda m, x: x.transpose(1, 3) @ m.w, w=(6, 5)), 360),
    "matmul from the left": (Called(lambda m, x: m.w @ x, w=(5, 4)), 6 * 5 * 3 * 4),
    "bmm": (Called(lambda m, x: torch.bmm(tokens(x), m.w), w=(1, 6, 5)), 360),
    "baddbmm": (Called(lambda m, x: torch.baddbmm(m.b, tokens(x), m.w), b=(1, 1, 5), w=(1, 6, 5)), 360),
    "addmm": (Called(lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w), b=(5,), w=(6, 5)), 30),
    "einsum": (Called(lambda m, x: torch.einsum("bchw,oc->bohw", x, m.w), w=(5, 6)), 360),
    "tensordot": (Called(lambda m, x: torch.tensordot(x, m.w, dims=([1], [0])), w=(6, 5)), 360),
    "of activations": (Called(lambda m, x: tokens(x) @ x.flatten(2)), 0),
    "of activations, two-dimensional": (Called(lambda m, x: x[0].flatten(1) @ x[0].flatten(1).T), 0),
    "scaled dot product attention": (Called(lambda m, x: F.scaled_dot_product_attention(x, x, x)), 0),
}

MODULES = {
    "grouped": (nn.Conv2d(6, 8, 3, stride=2, groups=2, padding=1), 2 * 2 * 8 * 3 * 9),
    "transposed and grouped": (nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), 12 * 6 * 4 * 9),
    "functional convolution": (Called(lambda m, x: F.conv2d(x, m.w), w=(5, 6, 1, 1)), 360),
    "one-dimensional": (Called(lambda m, x: m.layer(x.flatten(2)), layer=nn.Conv1d(6, 4, 3)), 10 * 4 * 6 * 3),
    "weights made of the image": (
        Called(lambda m, x: F.conv2d(x, x.mean((2, 3)).view(6, 1, 1, 1), groups=6)),
        12 * 6,
    ),
    "weight norm": (torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 1)), 360),
    "called twice": (
        Called(lambda m, x: m.layer(m.layer(x)), layer=nn.Conv2d(6, 6, 3, padding=1)),
        2 * 12 * 6 * 6 * 9,
    ),
    "attention": (  # three projections of its inputs and one of its output
        Called(
            lambda m, x: m.layer(*[tokens(x)] * 3)[0], layer=nn.MultiheadAttention(6, 2, batch_first=True)
        ),
        4 * 12 * 6 * 6,
    ),
    "attention, tokens first": (
        Called(
            lambda m, x: m.layer(*[x.flatten(2).permute(2, 0, 1)] * 3, need_weights=False)[0],
            layer=nn.MultiheadAttention(6, 2),
        ),
        4 * 12 * 6 * 6,
    ),
    "attention of unequal inputs": (
        Called(
            lambda m, x: m.layer(tokens(x), tokens(x)[..., :3], tokens(x)[..., :2])[0],
            layer=nn.MultiheadAttention(6, 2, kdim=3, vdim=2, batch_first=True),
        ),
        12 * 6 * (6 + 3 + 2 + 6),
    ),
    "transformer layer": (
        Called(lambda m, x: m.layer(tokens(x)), layer=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)),
        4 * 12 * 6 * 6 + 2 * 12 * 6 * 12,
    ),
    "recurrent": (
        Called(lambda m, x: m.layer(tokens(x))[0], layer=nn.LSTM(6, 5, batch_first=True)),
        12 * 4 * (6 * 5 + 5 * 5),
    ),
}


@pytest.mark.parametrize("kind", [*LINEAR, *PRODUCTS, *MODULES])
def test_a_layer_counts_the_same_in_every_layout_and_by_every_call(kind):
    """The right values are by hand. fvcore 0.1.5 gives the same in its columns conv, linear, matmul, bmm and einsum,
    but for products of activations, which it counts where they are no fused attention, and for what it does not know.
    """
    network, macs = {**LINEAR, **PRODUCTS, **MODULES}[kind]
    assert count(network, (6, 4, 3)).macs == macs


OF_TIMM = {
    "regnety_002": 199_514_080,
    "repghostnet_050": 43_314_720,
    "mobilevitv2_050": 464_594_944,
    "levit_128s": 280_291_328,
    "pvt_v2_b0": 527_956_992,
    "mixer_s32_224": 1_002_426_368,
    "twins_svt_small": 2_809_339_392,  # its linear layers take transposed tokens
}
"""Of networks at their own image size, what fvcore 0.1.5 counts as conv and linear."""


@pytest.mark.parametrize("name", OF_TIMM)
def test_networks_of_timm_have_fvcores_convolutions_and_linear_layers(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model(name)
    assert count(network, network.default_cfg["input_size"]).macs == OF_TIMM[name]


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (4, 12), (3, 16), (16, 9)])
def test_the_side_of_an_image_is_enough_whatever_its_channels(channels, side):
    network = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, channels, side, side))
    assert archloom.count(network, side) == archloom.count(network, (channels, side, side))
    assert archloom.count(network, np.int64(side)) == archloom.count(network, [channels, side, side])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 7))
    assert count(flat, side).macs == 7 * channels * side**2


def test_the_first_convolution_need_not_be_the_one_that_takes_the_image():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Conv2d(5, 2, 1), nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    assert count(Backwards(), 4).macs == 16 * (5 * 3 + 2 * 5)


@pytest.mark.parametrize("wrong", [0, -8, True, (8,), (8, 8), (3, 8, 8, 8), (3, 0, 8), (3, 8.0, 8), "8"])
def test_a_resolution_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="a side in pixels, or for"):
        count(nn.Conv2d(3, 4, 1), wrong)


def test_a_network_that_takes_no_square_image_asks_for_the_whole_shape():
    with pytest.raises(ConfigError, match=r"Count it with its \(C, H, W\)"):
        count(nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), 7)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_weights_changes_no_count(precision):
    network = torchvision.models.mobilenet_v3_small(weights=None)
    expected = count(network, 64)
    assert count(network.to(precision), 64) == expected
    assert {p.dtype for p in network.parameters()} == {precision}


def test_settings_of_the_caller_change_no_count():
    network = Called(lambda m, x: m.layer(tokens(x)), layer=nn.Linear(6, 5))
    with torch.inference_mode():
        assert count(network, (6, 4, 3)).macs == 360
    with torch.enable_grad():
        assert count(network, (6, 4, 3)).macs == 360
    torch.set_default_dtype(torch.float64)
    try:
        assert count(network, (6, 4, 3)).macs == 360
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_macs_of_steps_add_up_to_those_of_the_network_where_a_layer_is_called_twice():
    layer = nn.Conv2d(6, 6, 3, padding=1)
    network = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(3, 2))
    found = steps(network, (6, 4, 3))
    assert [step.macs for step in found] == [3888, 0, 3888, 144]
    assert sum(step.macs for step in found) == count(network, (6, 4, 3)).macs
    with torch.inference_mode():
        assert [step.macs for step in steps(network, (6, 4, 3))] == [3888, 0, 3888, 144]
