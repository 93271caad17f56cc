from __future__ import annotations

import pytest
import torch
from torch import nn

from archloom.architecture import Architecture
from archloom.errors import ConfigError
from archloom.model import (
    GlobalAverage,
    LinearHead,
    Model,
    ModelParts,
    assemble,
    evaluating,
    output_shape,
    places,
    ranked,
    topk_accuracy,
)
from toys import Blocks, state_of


class Pictures:
    name, shape, classes = "pictures", (1, 8, 8), ("a", "b", "c")


PATH = Architecture({"layer0": "k1", "layer1": "k3"})
images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_model_is_backbone_neck_head_in_sequence():
    model = assemble(Blocks(), PATH, Pictures(), ModelParts(), seed=0).eval()
    by_hand = model.backbone(images).mean((2, 3)) @ model.head.fc.weight.T + model.head.fc.bias
    assert torch.allclose(model(images), by_hand, atol=1e-6)
    assert model(images).shape == (4, 3)
    targets = torch.tensor([0, 1, 2, 0])
    assert torch.equal(
        model.loss(model(images), targets), nn.functional.cross_entropy(model(images), targets)
    )


def test_weights_are_a_function_of_the_seed_and_nothing_global_moves():
    before = torch.random.get_rng_state()
    first, second, other = (
        state_of(assemble(Blocks(), PATH, Pictures(), ModelParts(), seed=s)) for s in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])
    assert not torch.equal(first["backbone.stem.weight"], other["backbone.stem.weight"])


def test_further_arguments_of_the_forward_reach_the_backbone_alone():
    class Selecting(nn.Module):
        def forward(self, x, *selection):
            return x + sum(selection)

    model = Model(Selecting(), GlobalAverage(), nn.Identity(), nn.MSELoss())
    assert torch.allclose(model(images, 2, 3), images.mean((2, 3)) + 5, atol=1e-6)


def test_the_head_is_made_for_what_backbone_and_neck_give():
    made = []

    def head(in_channels, num_classes):
        made.append((in_channels, num_classes))
        return LinearHead(in_channels, num_classes)

    backbone = nn.Conv2d(1, 7, 3)
    ModelParts(neck=nn.Flatten, head=head).assemble(backbone, shape=(1, 8, 8), num_classes=5)
    assert made == [(7 * 6 * 6, 5)]


def test_a_neck_that_gives_no_vectors_and_a_head_for_no_class_are_refused():
    with pytest.raises(
        ConfigError, match=r"neck Identity gives a tensor of shape \(1, 7, 6, 6\); a head takes"
    ):
        ModelParts(neck=nn.Identity).assemble(nn.Conv2d(1, 7, 3), shape=(1, 8, 8), num_classes=5)
    with pytest.raises(ConfigError, match="num_classes must be at least 1, not 0"):
        ModelParts().assemble(nn.Conv2d(1, 7, 3), shape=(1, 8, 8), num_classes=0)


def test_a_trace_of_shapes_changes_neither_modes_nor_statistics():
    module = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    module[2].eval()
    before = state_of(module)
    assert output_shape(module, (1, 9, 9)) == (1, 4, 4, 4)
    assert [m.training for m in module] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_evaluating_gives_every_module_its_own_mode_back_even_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    module[1].eval()
    with evaluating(module):
        assert not any(m.training for m in module.modules())
    assert [m.training for m in module.modules()] == [True, True, False, False]
    with pytest.raises(RuntimeError), evaluating(module):
        raise RuntimeError
    assert [m.training for m in module.modules()] == [True, True, False, False]


def test_a_label_has_one_place_among_its_logits_whatever_the_ties():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, float("nan"), 1.0, 5.0]])
    assert places(logits.repeat(4, 1), torch.arange(4).repeat_interleave(3)).view(4, 3).T.tolist() == [
        [2, 0, 1, 3],
        [0, 1, 2, 3],
        [4, 4, 4, 4],  # an image of which the network gives no number is never right
    ]
    assert ranked(logits[:2]).tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]
    assert topk_accuracy(logits, torch.tensor([2, 1, 3]), (1, 2, 4)) == {
        "top1": 0.0,
        "top2": pytest.approx(200 / 3),
        "top4": pytest.approx(200 / 3),
    }
    with pytest.raises(ConfigError, match="no top 5 of 4 classes"):
        topk_accuracy(logits, torch.tensor([2, 1, 3]), (5,))
