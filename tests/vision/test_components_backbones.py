"""Backbones."""

from __future__ import annotations

import pytest
import torch
import torchvision.models
from torch import nn

import archloom
from archloom.assembly import build_model
from archloom.errors import ConfigError, UnknownName
from archloom.model import output_shape
from archloom.plugins import Host
from archloom_vision.backbones import TimmBackbone, TorchvisionBackbone
from archloom_vision.layers import StandardizedConv2d
from archloom_vision.resnet import ResNet, ResNetCIFAR


def images(side=64, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def hooked(network, part, x):
    """What `part` of a network is given."""
    seen = []
    handle = part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    with torch.no_grad():
        network.eval()(x)
    handle.remove()
    return seen[0]


# -- ResNet, against torchvision's and timm's ---------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_computes_what_torchvisions_does(depth):
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    ours = ResNet(depth=depth)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images()), hooked(theirs, theirs.avgpool, images()), atol=1e-5)


def test_all_depths_have_torchvisions_parameters():
    for depth in (34, 101, 152):
        with torch.device("meta"):
            ours, theirs = ResNet(depth=depth), torchvision.models.get_model(f"resnet{depth}")
        mine = {k: v.shape for k, v in ours.state_dict().items()}
        assert mine == {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith("fc.")}


def test_weights_of_torchvision_are_read_from_a_file(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pt")
    ours = ResNet(depth=18, num_stages=3, weights=str(tmp_path / "resnet18.pt"))
    assert torch.equal(ours.layer3[1].conv2.weight, theirs.layer3[1].conv2.weight)
    assert not hasattr(ours, "layer4")


def test_the_deep_stem_is_that_of_timms_resnet50c():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet50c", num_classes=0)
    ours = ResNet(depth=50, deep_stem=True)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images()), theirs.eval().forward_features(images()), atol=1e-5)


def test_the_caffe_style_has_its_strides_in_the_first_pointwise_convolution():
    def strides(style):
        block = ResNet(depth=50, style=style).layer2[0]
        return [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)]

    assert strides("pytorch") == [1, 2, 1]
    assert strides("caffe") == [2, 1, 1]
    assert output_shape(ResNet(depth=50, style="caffe"), (3, 64, 64)) == (1, 2048, 2, 2)


def test_out_indices_choose_the_stages_maps():
    every = ResNet(depth=18, out_indices=[0, 1, 2, 3]).eval()
    maps = every(images())
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    some, one = ResNet(depth=18, out_indices=[2, 0]).eval(), ResNet(depth=18, out_indices=1).eval()
    for backbone in (some, one):
        backbone.load_state_dict(every.state_dict())
    found = some(images())
    assert [torch.equal(found[0], maps[2]), torch.equal(found[1], maps[0])] == [True, True]
    assert torch.equal(one(images()), maps[1])
    assert output_shape(ResNet(depth=18, num_stages=2), (3, 64, 64)) == (1, 128, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 42}, "ResNet has no depth 42; it has 18, 34, 50, 101, 152"),
        ({"num_stages": 5}, r"num_stages must lie in 1..4, not 5"),
        ({"num_stages": 2, "out_indices": [0, 3]}, r"out_indices has 3, but there are 2 maps, 0..1"),
        ({"out_indices": []}, "out_indices is empty"),
        ({"num_stages": 2, "frozen_stages": 3}, r"frozen_stages must lie in -1..2, not 3"),
        ({"norm_cfg": {"type": "BNN"}}, "unknown norm_cfg 'BNN'; did you mean 'BN'"),
        ({"norm_cfg": {"type": "GN", "num_groups": 7}}, "norm_cfg GN cannot be made for"),
        ({"conv_cfg": {"type": "Conv3d"}}, "unknown conv_cfg 'Conv3d'; did you mean 'Conv2d'"),
        ({"conv_cfg": {"type": "Conv2d", "dilatoin": 2}}, "conv_cfg Conv2d cannot be made .*dilatoin"),
    ],
)
def test_a_resnet_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**({"depth": 18} | options))


# -- torchvision and timm -----------------------------------------------------------------------------

POOLED = {
    "alexnet": "avgpool",
    "densenet121": None,
    "efficientnet_b0": "avgpool",
    "googlenet": "avgpool",
    "mobilenet_v3_small": "avgpool",
    "regnet_y_400mf": "avgpool",
    "shufflenet_v2_x0_5": None,
    "squeezenet1_1": "classifier",
    "swin_t": "avgpool",
}
"""Which part of torchvision's network is given the feature map; None: it pools without a module."""


@pytest.mark.parametrize("name", POOLED)
def test_a_network_of_torchvision_ends_at_the_map_that_it_pools(name):
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, **more)
    torch.manual_seed(0)
    ours = TorchvisionBackbone(name=name, options={"init_weights": False} if more else None)
    with torch.no_grad():
        found = ours.eval()(images(96))
    if POOLED[name] is None:
        last = next(m for m in reversed(list(theirs.modules())) if isinstance(m, nn.Linear))
        assert torch.allclose(found.mean((2, 3)), hooked(theirs, last, images(96)), atol=1e-5)
    else:
        assert torch.allclose(found, hooked(theirs, getattr(theirs, POOLED[name]), images(96)), atol=1e-5)


def test_out_indices_of_torchvision_count_resolutions_as_timm_does():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", features_only=True)
    ours = TorchvisionBackbone(name="resnet18", out_indices=[0, 1, 2, 3, 4])
    ours.load_state_dict({f"steps.{k}": v for k, v in theirs.state_dict().items()})
    with torch.no_grad():
        for mine, other in zip(ours.eval()(images()), theirs.eval()(images()), strict=True):
            assert torch.allclose(mine, other, atol=1e-5)
    with pytest.raises(ConfigError, match=r"out_indices has 5, but there are 5 maps, 0..4"):
        TorchvisionBackbone(name="resnet18", out_indices=5)


def test_maps_are_channels_first_even_of_networks_that_are_not():
    maps = TorchvisionBackbone(name="swin_t", out_indices=[0, 3]).eval()(images(64))
    assert [tuple(m.shape) for m in maps] == [(2, 96, 16, 16), (2, 768, 2, 2)]


def test_a_vision_transformer_gives_its_tokens_as_a_map():
    size = {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 32,
    }
    theirs = torchvision.models.VisionTransformer(**size)
    ours = TorchvisionBackbone(name="vit_b_16", options={"image_size": 32})
    assert output_shape(ours, (3, 32, 32)) == (1, 768, 2, 2)
    from archloom_vision.backbones import _steps

    steps, _ = _steps(theirs)
    tokens = []
    theirs.encoder.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    with torch.no_grad():
        theirs.eval()(images(32))
        found = steps["tokens"].eval()(images(32))
    assert torch.allclose(found[:, :, 1, 2], tokens[0][:, 1 + 1 * 4 + 2], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 5])
def test_torchvisions_networks_take_images_of_other_channels(channels):
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(channels, name="resnet18")
    conv = backbone.steps["conv1"]
    assert conv.weight.shape == (64, channels, 7, 7)
    expected = (2 / (64 * 49)) ** 0.5 * (3 / channels) ** 0.5
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
    assert backbone.eval()(images(32, channels)).shape == (2, 512, 1, 1)


def test_torchvisions_own_files_are_read(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = TorchvisionBackbone(name="resnet18", weights=str(tmp_path / "w.pt"))
    assert torch.equal(ours.steps["layer4"][0].conv1.weight, theirs.layer4[0].conv1.weight)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_a_network_of_timm_ends_at_the_map_that_it_pools(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0).eval()
    torch.manual_seed(0)
    ours = TimmBackbone(name=name).eval()
    ours.network.load_state_dict(theirs.state_dict())
    side = 224 if name.startswith("vit") else 64
    with torch.no_grad():
        expected = theirs.forward_features(images(side))
        found = ours(images(side))
    if expected.ndim == 3:  # tokens, the class token first
        expected = expected[:, 1:].transpose(1, 2).reshape(2, -1, 14, 14)
    assert torch.allclose(found, expected, atol=1e-5)


def test_out_indices_of_timm_are_its_features_only():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv3_small_050", features_only=True, out_indices=[1, 3], in_chans=1)
    ours = TimmBackbone(1, name="mobilenetv3_small_050", out_indices=[1, 3])
    ours.network.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        pairs = zip(ours.eval()(images(64, 1)), theirs.eval()(images(64, 1)), strict=True)
        assert all(torch.equal(mine, other) for mine, other in pairs)
    with pytest.raises(ConfigError, match=r"backbone timm 'resnet18' gives no maps \[9\]"):
        TimmBackbone(name="resnet18", out_indices=[9])
    with pytest.raises(ConfigError, match="leave out_indices out"):
        TimmBackbone(name="resnet18", out_indices=1, weights="w.pt")


@pytest.mark.parametrize("make", [TorchvisionBackbone, TimmBackbone])
def test_an_unknown_network_is_refused_with_the_nearest(make):
    if make is TimmBackbone:
        pytest.importorskip("timm")
    with pytest.raises(UnknownName, match=r"unknown network of \w+ 'resnett50'; did you mean 'resnet50'"):
        make(name="resnett50")


# -- the worked example -------------------------------------------------------------------------------


class Thumbnails:
    name, shape, classes = "thumbnails", (3, 32, 32), ("a", "b")


def test_resnet_cifar_keeps_the_size_of_small_images_in_its_stem():
    model = build_model({"backbone": {"type": "ResNet_CIFAR", "depth": 18}}, Thumbnails(), Host())
    stem = model.backbone.stem(images(32))
    assert stem.shape == (2, 64, 32, 32)
    assert model.backbone.conv1.kernel_size == (3, 3)
    assert model.backbone.eval()(images(32)).shape == (2, 512, 4, 4)
    assert ResNet(depth=18).stem(images(32)).shape == (2, 64, 8, 8)


def test_resnet_cifar_refuses_a_deep_stem():
    with pytest.raises(ConfigError, match="ResNet_CIFAR has a stem of its own; leave deep_stem out"):
        ResNetCIFAR(depth=18, deep_stem=True)


# -- initial weights, layers by name, frozen stages and norms -----------------------------------------


def test_convolutions_start_from_the_distribution_of_their_paper():
    torch.manual_seed(0)
    conv = ResNet(depth=18).layer3[1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


def test_a_block_may_start_as_the_identity():
    block = ResNet(depth=18, zero_init_residual=True).layer1[0]
    x = images(8, 64).relu()
    assert torch.equal(block(x), x)


def test_norm_cfg_and_conv_cfg_choose_the_layers():
    def kinds(backbone):
        return {
            type(m).__name__ for m in backbone.modules() if not list(m.children()) and list(m.parameters())
        }

    assert kinds(ResNet(depth=18)) == {"Conv2d", "BatchNorm2d"}
    chosen = ResNet(depth=18, norm_cfg={"type": "GN", "num_groups": 8}, conv_cfg={"type": "ConvWS"})
    assert kinds(chosen) == {"StandardizedConv2d", "GroupNorm"}
    assert chosen.bn1.num_groups == 8
    for norm in ("SyncBN", "LN", "IN", "none"):
        assert output_shape(ResNet(depth=18, norm_cfg={"type": norm}), (3, 64, 64)) == (1, 512, 2, 2)
    still = ResNet(depth=18, norm_cfg={"type": "BN", "momentum": 0.3, "requires_grad": False})
    assert (still.bn1.momentum, still.bn1.weight.requires_grad) == (0.3, False)
    assert still.conv1.weight.requires_grad


def test_a_standardized_convolution_does_not_see_shift_and_scale_of_its_weight():
    conv = StandardizedConv2d(4, 6, 3, bias=False)
    x = images(8, 4)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(5).add_(2)
    assert torch.allclose(conv(x), before, rtol=2e-3, atol=1e-3)  # but for the eps under its root


def moved(backbone, side=32):
    """The entries of the state that one training step changes."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    backbone.train()(images(side)).square().mean().backward()
    optimizer.step()
    return {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}


def test_frozen_stages_neither_learn_nor_move_their_statistics():
    names = moved(ResNet(depth=18, frozen_stages=2))
    assert {name.split(".")[0] for name in names} == {"layer3", "layer4"}
    assert {name.split(".")[0] for name in moved(ResNet(depth=18, frozen_stages=0))} == {
        f"layer{n}" for n in (1, 2, 3, 4)
    }


def test_norm_eval_keeps_the_statistics_and_lets_the_weights_learn():
    names = moved(ResNet(depth=18, norm_eval=True))
    assert not any("running" in name for name in names)
    assert "bn1.weight" in names
    assert any("running" in name for name in moved(ResNet(depth=18)))


def test_any_submodule_of_torchvision_and_timm_can_be_frozen():
    backbone = TorchvisionBackbone(name="resnet18", frozen=["steps.conv1", "steps.bn1", "steps.layer1.0"])
    names = moved(backbone)
    assert "steps.layer1.1.conv1.weight" in names
    assert not any(name.startswith(("steps.conv1", "steps.bn1", "steps.layer1.0")) for name in names)
    with pytest.raises(
        ConfigError, match=r"has no submodule 'steps.layer9' to freeze; did you mean 'steps.layer"
    ):
        TorchvisionBackbone(name="resnet18", frozen=["steps.layer9"])
    pytest.importorskip("timm")
    names = moved(TimmBackbone(name="resnet18", frozen=["network.layer4"], norm_eval=True))
    assert not any(name.startswith("network.layer4") or "running" in name for name in names)


# -- weights for colour, images in grey -------------------------------------------------------------------


class Colour:
    name, shape, classes = "colour", (3, 64, 64), ("a", "b")


class Grey:
    name, shape, classes = "grey", (1, 64, 64), ("a", "b")


class Spectral:
    name, shape, classes = "spectral", (6, 64, 64), ("a", "b")


def saved(network, path):
    torch.save(network.state_dict(), path)
    return str(path)


COLOURED = {
    "ResNet": ({"type": "ResNet", "depth": 18}, lambda: torchvision.models.resnet18(weights=None)),
    "torchvision": (
        {"type": "torchvision", "name": "mobilenet_v3_small", "out_indices": [0, -1]},
        lambda: torchvision.models.mobilenet_v3_small(weights=None),
    ),
    "timm": (
        {"type": "timm", "name": "resnet18d"},
        lambda: pytest.importorskip("timm").create_model("resnet18d"),
    ),
    "architecture": (
        {"type": "architecture", "name": "fbnet_96_035_1"},
        lambda: archloom.build("fbnet_96_035_1"),
    ),
}


@pytest.mark.parametrize("task", [Grey, Spectral])
@pytest.mark.parametrize("kind", COLOURED)
def test_weights_for_colour_give_grey_images_what_the_same_images_in_colour_get(kind, task, tmp_path, caplog):
    section, network = COLOURED[kind]
    section = section | {"weights": saved(network(), tmp_path / "weights.pt")}
    host, x = Host(), torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for each in (Colour, task):
        backbone = build_model({"backbone": section, "head": "LinearClsHead"}, each(), host).backbone.eval()
        with torch.no_grad():
            maps = backbone(x.expand(-1, each.shape[0], -1, -1))
        found.append(maps if isinstance(maps, torch.Tensor) else maps[-1])
    assert torch.allclose(*found, rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))
    assert "the stem's three input channels were" in caplog.text


@pytest.mark.parametrize(
    ("make", "name", "option"),
    [
        (TimmBackbone, "test_resnet", {"pretrained": True}),
        (TimmBackbone, "test_resnet", {"checkpoint_path": "w.pth"}),
        (TorchvisionBackbone, "resnet18", {"weights": "DEFAULT"}),
        (TorchvisionBackbone, "resnet18", {"pretrained": True}),
    ],
)
def test_options_of_a_builder_that_would_fetch_weights_are_refused(make, name, option, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    (key,) = option
    for more in ({}, {"out_indices": [1]}):
        with pytest.raises(ConfigError, match=rf"'{key}' .*nothing is ever downloaded.*under 'weights'"):
            make(name=name, options=option, **more)
    assert make(name=name, options={key: None}) is not None
