"""Necks and heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archloom.errors import ConfigError
from archloom.model import GlobalAverage, ModelParts
from archloom.plugins import Host
from archloom_vision.heads import HiddenClsHead, LinearClsHead
from archloom_vision.necks import GeneralizedMean, Identity

FINE, COARSE = torch.rand(2, 3, 5, 4) + 0.1, torch.rand(2, 6, 2, 2) + 0.1


# -- necks --------------------------------------------------------------------------------------------


def test_the_global_average_has_both_its_names():
    host = Host()
    made = [host.get("component", f"neck.{n}").make({}) for n in ("GlobalAverage", "GlobalAveragePooling")]
    assert [type(neck) for neck in made] == [GlobalAverage, GlobalAverage]


def test_the_global_average_is_that_of_each_channel():
    by_hand = torch.stack([torch.stack([FINE[n, c].sum() / 20 for c in range(3)]) for n in range(2)])
    assert torch.allclose(GlobalAverage()(FINE), by_hand)


@pytest.mark.parametrize("neck", [GlobalAverage(), GeneralizedMean(), Identity()])
def test_of_a_tuple_each_map_is_pooled_by_itself(neck):
    pooled = neck((FINE, COARSE))
    assert isinstance(pooled, tuple)
    assert torch.equal(pooled[0], neck(FINE))
    assert torch.equal(pooled[1], neck(COARSE))


def test_identity_leaves_the_features_alone():
    assert Identity()(FINE) is FINE


def test_the_generalized_mean_lies_between_average_and_maximum():
    average, largest = FINE.mean((2, 3)), FINE.amax((2, 3))
    assert torch.allclose(GeneralizedMean(p=1.0)(FINE), average)
    found = [GeneralizedMean(p=p)(FINE) for p in (1.5, 3.0, 10.0)]
    for lower, higher in zip([average, *found], [*found, largest], strict=True):
        assert (lower < higher).all()
    assert torch.allclose(GeneralizedMean(p=3.0)(FINE), (FINE**3).mean((2, 3)) ** (1 / 3))


def test_the_exponent_is_learned_unless_told_otherwise():
    neck = GeneralizedMean()
    neck(FINE).sum().backward()
    assert neck.p.grad.abs() > 0
    assert not GeneralizedMean(learned=False).p.requires_grad
    with pytest.raises(ConfigError, match="p and eps must be positive"):
        GeneralizedMean(p=0.0)


# -- heads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [LinearClsHead, HiddenClsHead])
@pytest.mark.parametrize("classes", [0, -1])
def test_a_head_for_no_class_is_refused(head, classes):
    with pytest.raises(ConfigError, match=f"{head.__name__}: num_classes must be at least 1, not {classes}"):
        head(8, classes)


def test_the_weights_are_normal_with_deviation_0_01_and_the_bias_is_0():
    torch.manual_seed(0)
    head = LinearClsHead(500, 400)
    weight = head.fc.weight.flatten()
    assert abs(weight.mean().item()) < 1e-4
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert (weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, rel=0.05)  # of a normal one
    assert not head.fc.bias.any()
    hidden = HiddenClsHead(300, 400, hidden=200)
    assert hidden.hidden.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not hidden.hidden.bias.any()


@pytest.mark.parametrize("make", [LinearClsHead, HiddenClsHead])
def test_of_a_tuple_a_head_takes_the_deepest(make):
    head = make(6, 4)
    vectors = (torch.randn(2, 3), torch.randn(2, 6))
    assert torch.equal(head(vectors), head(vectors[1]))


@pytest.mark.parametrize("activation", ["relu", "tanh", "hardswish"])
def test_a_hidden_layer_stands_before_the_classifier(activation):
    head, x = HiddenClsHead(6, 4, hidden=5, activation=activation), torch.randn(2, 6)
    between = getattr(nn.functional, activation)(x @ head.hidden.weight.T + head.hidden.bias)
    assert torch.allclose(head(x), between @ head.fc.weight.T + head.fc.bias, atol=1e-7)


def test_a_head_tells_the_accuracies_that_topk_names():
    head = LinearClsHead(6, 4, topk=(1, 3))
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    assert head.accuracies(logits, torch.tensor([2, 3])) == {"top1": 0.0, "top3": 50.0}
    with pytest.raises(ConfigError, match=r"each of topk must lie in 1..4"):
        LinearClsHead(6, 4, topk=(5,))
    with pytest.raises(ConfigError, match="hidden must be at least 1"):
        HiddenClsHead(6, 4, hidden=0)


def test_a_training_step_gives_a_loss_for_which_the_head_has_gradients():
    model = ModelParts(head=LinearClsHead).assemble(nn.Conv2d(3, 8, 3), shape=(3, 8, 8), num_classes=4)
    loss = model.loss(model(torch.randn(2, 3, 8, 8)), torch.tensor([1, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(4.0)).item(), abs=0.05)  # weights near 0
    assert model.head.fc.weight.grad.abs().sum() > 0
