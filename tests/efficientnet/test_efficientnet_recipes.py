"""The recipes, by name and by what they do to weights and rates."""

import pytest
import torch

from archloom import Host
from archloom.config import Part
from archloom.randomness import forked_rng
from archloom.resolve import make
from archloom.training import build_optimizer, learning_rate, train
from archloom_efficientnet import EfficientNetSpace


def recipe(name, **options):
    return make(Host(), "recipe", Part(type=name, options=options))


def test_the_papers_rate_is_0_256_for_4096_images_and_falls_by_3_per_cent_every_2_4_epochs_after_warm_up():
    paper = recipe("efficientnet")
    assert paper.lr * 4096 / paper.batch_size == pytest.approx(0.256)
    assert [learning_rate(paper, epoch) for epoch in (0, 2.5, 5)] == pytest.approx([0, 0.008, 0.016])
    falls = [learning_rate(paper, 5 + 2.4 * n) for n in range(50)]
    assert falls == pytest.approx([0.016 * 0.97**n for n in range(50)])
    assert learning_rate(paper, 350) == pytest.approx(0.016 * 0.97 ** (345 / 2.4))
    assert (paper.ema, paper.label_smoothing, paper.autoaugment) == (0.9999, 0.1, "imagenet")
    assert EfficientNetSpace().overrides["drop_connect_rate"] == pytest.approx(1 - 0.8)


def test_the_papers_optimizer_steps_as_timms_rmsprop_in_tensorflows_form():
    """With a constant rate; where they multiply the rate differs only while it changes."""
    optim = pytest.importorskip("timm.optim", reason="timm is not installed; it is an optional extra")
    with forked_rng(0, "weights"):
        ours, theirs = torch.nn.Linear(4, 3).double(), torch.nn.Linear(4, 3).double()
    theirs.load_state_dict(ours.state_dict())
    paper = recipe("efficientnet", decay_all=True)
    mine = build_optimizer(paper, ours)
    peer = optim.RMSpropTF(
        theirs.parameters(), lr=0.016, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5
    )
    for step in range(20):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).double()
        for net, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_the_plain_recipe_divides_the_rate_by_10_every_30_epochs():
    plain = recipe("efficientnet_plain")
    assert (plain.optimizer, plain.weight_decay, plain.ema) == ("sgd", 1e-4, None)
    rates = [learning_rate(plain, epoch) for epoch in (0, 29.9, 30, 60, 89)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])


def test_a_network_trains_by_the_papers_recipe():
    from archloom.architecture import Architecture
    from archloom.model import ModelParts, assemble

    blocks = ["r1_k3_s11_e1_i16_o16_se0.25", "r1_k3_s22_e4_i16_o24_se0.25"]
    space = EfficientNetSpace(blocks=blocks, head_filters=32, in_channels=3, native_resolution=False)
    host = Host()
    task = make(
        host, "task", Part(type="fake", options={"size": 256, "test_size": 20, "height": 16, "width": 16})
    )
    model = assemble(space, Architecture({"network": "efficientnet-b0"}), task, ModelParts(), seed=0)
    short = recipe(
        "efficientnet", epochs=2, batch_size=32, warmup_epochs=0.5, ema=0.9, autoaugment=None, augment=False
    )
    epochs = list(train(model, task, short, seed=0, watch=None))
    assert len(epochs) == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert epochs[1].metrics["loss"] < epochs[0].metrics["loss"]
