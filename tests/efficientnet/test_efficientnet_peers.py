"""Weights and behaviour against timm and torchvision themselves, and one training step."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archloom import load_weights as load
from archloom_efficientnet import EfficientNet, export_state
from archloom_efficientnet.formats import behaviour

PEERS = ["timm_tf", "timm", "torchvision"]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
GAIN = 1.3  # logits of b0 to b7 have a deviation of 0.1 to 0.2, differences by rounding stay below 1e-6
SIZES = [pytest.param(f"b{i}", marks=[pytest.mark.slow] if i > 2 else []) for i in range(8)]


def peer(weight_format, short, **options):
    """Their network, with weights and statistics under which signals neither die out nor explode."""
    torch.manual_seed(0)
    if weight_format == "torchvision":
        tv = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        net = getattr(tv, f"efficientnet_{short}")(**options)
    else:
        timm = pytest.importorskip("timm", reason="timm is not installed; it is an optional extra")
        prefix = "tf_" if weight_format == "timm_tf" else ""
        net = timm.create_model(f"{prefix}efficientnet_{short}", **options)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = GAIN * math.sqrt(3 / module.weight[0].numel())
                module.weight.uniform_(-bound, bound)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.75, 1.25)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.uniform_(-0.1, 0.1)
    return net.eval()


def logits_of(net):
    with torch.no_grad():
        return net(IMAGES)


def differ(a, b):
    """The largest difference between logits that are neither constant nor huge."""
    assert 0.05 < b.std() < 1
    return (a - b).abs().max().item()


@pytest.mark.parametrize("short", SIZES)
@pytest.mark.parametrize("weight_format", PEERS)
def test_their_weights_give_their_logits_and_come_back_unchanged(weight_format, short):
    theirs = peer(weight_format, short)
    ours = EfficientNet.from_name(f"efficientnet-{short}").eval()
    loaded = load(ours, theirs.state_dict(), weight_format)
    assert loaded.left_out == ()
    norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
    mine = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(m.eps, pytest.approx(m.momentum)) for m in mine] == [(m.eps, m.momentum) for m in norms]
    wanted = logits_of(theirs)
    assert differ(logits_of(ours), wanted) < 1e-5
    state = export_state(ours, weight_format)
    original = theirs.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in original)
    theirs.load_state_dict(state)


@pytest.mark.parametrize("weight_format", PEERS)
def test_the_wrong_padding_or_epsilon_would_be_seen(weight_format):
    theirs = peer(weight_format, "b0")
    ours = EfficientNet.from_name("efficientnet-b0").eval()
    load(ours, theirs.state_dict(), weight_format)
    b = behaviour(weight_format, ours.config)
    wanted = logits_of(theirs)
    other = "symmetric" if b.padding == "same" else "same"
    ours.set_behaviour(padding=other, epsilon=b.epsilon, momentum=b.momentum)
    assert differ(logits_of(ours), wanted) > 1e-3
    ours.set_behaviour(padding=b.padding, epsilon=1e-3 if b.epsilon == 1e-5 else 1e-5, momentum=b.momentum)
    assert differ(logits_of(ours), wanted) > 2e-4


STEPS = [
    *((weight_format, "b0", torch.channels_last) for weight_format in PEERS),
    *(("timm_tf", short, torch.contiguous_format) for short in ("b0", "b1", "b2")),
]


@pytest.mark.parametrize(("weight_format", "short", "layout"), STEPS)
def test_a_training_step_gives_their_loss_gradients_and_running_statistics(weight_format, short, layout):
    options = {"dropout": 0.0, "stochastic_depth_prob": 0.0} if weight_format == "torchvision" else {}
    theirs = peer(weight_format, short, **options)
    ours = EfficientNet.from_name(f"efficientnet-{short}", dropout_rate=0.0, drop_connect_rate=0.0)
    load(ours, theirs.state_dict(), weight_format)
    ours, theirs = ours.double().train().to(memory_format=layout), theirs.double().train()
    torch.manual_seed(2)
    image, target = torch.randn(3, 3, 64, 64).double(), torch.tensor([1, 500, 999])
    losses = []
    for net in (theirs, ours):
        loss = F.cross_entropy(net(image.contiguous(memory_format=layout)), target)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    names = dict(zip(ours.state_dict(), export_state(ours, weight_format), strict=True))
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[names[name]], atol=1e-9, rtol=1e-6)
    state = theirs.state_dict()
    for key, value in ours.named_buffers():
        torch.testing.assert_close(value, state[names[key]], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("in_channels", [1, 2, 4, 7])
def test_other_input_channels_are_made_as_timm_makes_them(in_channels, tmp_path):
    timm_models = pytest.importorskip("timm.models", reason="timm is not installed; it is an optional extra")
    theirs = peer("timm_tf", "b0")
    torch.save(theirs.state_dict(), tmp_path / "b0.pth")
    ours = EfficientNet.from_pretrained(
        "efficientnet-b0", tmp_path / "b0.pth", in_channels=in_channels, weight_format="timm_tf"
    )
    wanted = timm_models.adapt_input_conv(in_channels, theirs.conv_stem.weight.detach())
    torch.testing.assert_close(ours.features.stem.conv.weight.detach(), wanted)


def test_every_release_that_we_name_is_one_that_timm_knows():
    timm = pytest.importorskip("timm", reason="timm is not installed; it is an optional extra")
    from archloom_efficientnet.hub import releases

    for short in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2"):
        ours = releases(f"efficientnet-{short}")
        published = {name.split(".")[1] for name in timm.list_pretrained(f"tf_efficientnet_{short}.*")}
        assert set(ours) == published
        for tag, release in ours.items():
            theirs = timm.get_pretrained_cfg(f"tf_efficientnet_{short}.{tag}")
            assert (release.repository, release.mean, release.std) == (
                theirs.hf_hub_id,
                theirs.mean,
                theirs.std,
            )
