"""The space: its choices, its networks, its size for a range of costs."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from cream_golden import built, host
from torch import nn

import archloom
from archloom import testing, zoo
from archloom.config import ModelConfig
from archloom.cost import count
from archloom.errors import SpaceError
from archloom.model import GlobalAverage, ModelParts
from archloom.resolve import model_parts
from archloom.shared import Supernet
from archloom.space import input_shape, sample
from archloom_cream import CreamHead, CreamPool, CreamSpace, published_space
from archloom_cream.blocks import BlockSpec, initialize, make_block
from archloom_cream.costs import block_macs
from archloom_cream.named import NETWORKS, SIX

DIGITS = SimpleNamespace(shape=(1, 8, 8))
EVERYTHING = [*SIX, "k3_d2_e4", "k3.5_e3", "basic", "bottleneck"]


class TestTheSmallSpace(testing.SharedSpaceContract):
    shape = (1, 8, 8)

    factory, options = CreamSpace, {"form": "small", "in_channels": 1, "skip": True, "candidates": EVERYTHING}


class TestASpaceOfResolutions(testing.SharedSpaceContract):
    shape = (3, 32, 32)
    samples = 2
    factory, options = (
        CreamSpace,
        {"candidates": ["k3_e4", "k5_e6"], "depths": [2, 1, 1, 1, 1], "resolution": [64, 96]},
    )


class TestThePublishedSpace(testing.SpaceContract):
    samples = 1
    factory = staticmethod(published_space)


def whole(space, architecture, side, num_classes=1000):
    parts = model_parts(host(), ModelConfig.model_validate(space.recommended_model))
    shape = (space.in_channels, side, side)
    with torch.device("meta"):  # these networks are counted, not run
        return parts.assemble(space.build(architecture), shape=shape, num_classes=num_classes)


# -- choices ------------------------------------------------------------------------------------------


def test_the_space_has_five_stages_of_four_blocks_with_six_options():
    space = CreamSpace()
    assert space.depths == (4, 4, 4, 4, 4)
    assert len(space.choices) == 20
    assert {choice.options for choice in space.choices} == {SIX}


def test_all_blocks_but_a_stage_s_first_can_be_skipped_where_depth_is_searched():
    space = CreamSpace(form="small", skip=True)
    skippable = [choice.name for choice in space.choices if "skip" in choice.options]
    assert skippable == ["stage1_block1", "stage2_block1", "stage3_block1"]


def test_a_skipped_block_costs_nothing_and_computes_nothing():
    space = CreamSpace(form="small", skip=True)
    shallow = space.architecture([["k3_e4"]] * 3)
    alone = CreamSpace(form="small", depths=[1, 1, 1])
    other = alone.architecture([["k3_e4"]] * 3)
    assert count(space.build(shallow), 16) == count(alone.build(other), 16)
    assert space.macs(shallow, 16) == alone.macs(other, 16)


def test_the_resolution_is_the_task_s_the_given_one_or_a_choice():
    space = CreamSpace(form="small")
    first = space.architecture([["k3_e4"] * 2] * 3)
    assert input_shape(space, first, DIGITS) == (1, 8, 8)
    assert input_shape(CreamSpace(form="small", resolution=16), first, DIGITS) == (1, 16, 16)
    chosen = CreamSpace(form="small", resolution=[8, 16])
    second = chosen.architecture([["k3_e4"] * 2] * 3, resolution=16)
    assert input_shape(chosen, second, DIGITS) == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"form": "tiny"}, "no form 'tiny'"),
        ({"candidates": ["k3e4"]}, "names no block"),
        ({"candidates": ["k3_e4", "skip"]}, "skip: true"),
        ({"candidates": ["k4_e4"]}, "kernels are odd"),
        ({"depths": [1, 2]}, "'depths' gives each of the 5 stages"),
        ({"depths": [1, 2, 0, 1, 1]}, "'depths' gives each of the 5 stages"),
        ({"depths": []}, "'depths' gives each of the 5 stages"),
        ({"stages": [[16, 2]]}, "a stage is"),
        ({"stages": [[8, 0, 2], [16, 2, 2]]}, "a stage is"),
        ({"stages": []}, "needs a stage"),
        ({"macs": [1e6]}, "a range"),
        ({"macs": [3e8, 2e8]}, "0 <= low <= high"),
        ({"macs": [0, 6e8], "depths": [1] * 5}, "no 'depths' beside it"),
        ({"macs": [0, 600]}, "not millions"),
        ({"macs": [9e9, 1e10]}, "the dearest network"),
        ({"macs": [0, 6e8], "reference": True, "form": "small"}, "its own five stages"),
        ({"macs": [0, 1e6], "reference": True}, "finds no supernet"),
        ({"resolution": 0}, "positive number of pixels"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_with_the_reason(options, told):
    with pytest.raises(SpaceError, match=told):
        CreamSpace(**options)


def test_an_architecture_of_the_wrong_depth_is_refused():
    space = CreamSpace(form="small")
    with pytest.raises(SpaceError, match="stage 2 of this Cream space has 2 blocks, not 1"):
        space.architecture([["k3_e4"] * 2, ["k3_e4"], ["k3_e4"] * 2])
    with pytest.raises(SpaceError, match="has 3 stages, not 1"):
        space.architecture([["k3_e4"] * 2])


# -- blocks -------------------------------------------------------------------------------------------


def reach(layer):
    """How far, in pixels to one side, an output of `layer` looks."""
    x = torch.zeros(1, 8, 33, 33, requires_grad=True)
    layer.eval()(x)[0, :, 16, 16].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()[:, 0]
    return int(16 - seen.min())


def test_a_dilated_candidate_is_dilated():
    def depthwise(name):
        space = CreamSpace(candidates=[name])
        return make_block(BlockSpec("ir", 8, space.spec("stage1_block1", name).kernels, expansion=4,
                                    dilation=space.spec("stage1_block1", name).dilation), 8)  # fmt: skip

    assert [reach(depthwise(name)) for name in ("k3_e4", "k3_d2_e4", "k5_d3_e4")] == [1, 2, 6]


def test_several_kernels_share_the_channels():
    block = make_block(BlockSpec("ir", 16, (3, 5, 7), expansion=4), 10)
    parts = [(part.weight.shape[0], part.kernel_size[0]) for part in block.depthwise.conv]
    assert parts == [(14, 3), (13, 5), (13, 7)]
    assert reach(make_block(BlockSpec("ds", 8, (3, 7)), 8)) == 3


def test_the_residual_is_there_exactly_where_shapes_allow_it_and_nobody_forbids_it():
    def adds(**changes):
        block = make_block(BlockSpec(**{"type": "ir", "channels": 8, "expansion": 4} | changes), 8).eval()
        nn.init.zeros_(block.project.bn.weight)
        x = torch.randn(1, 8, 6, 6)
        y = block(x)
        return y.shape == x.shape and torch.equal(y, x)

    assert adds()
    assert not adds(stride=2)
    assert not adds(channels=16)
    assert not adds(residual=False)


def test_a_residual_unit_is_torchvision_s():
    resnet = pytest.importorskip("torchvision.models.resnet")
    for ours, theirs in (
        (make_block(BlockSpec("basic", 16), 16), resnet.BasicBlock(16, 16)),
        (make_block(BlockSpec("bottleneck", 64), 64), resnet.Bottleneck(64, 16)),
    ):
        states = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
        ours.load_state_dict({key: value for (key, _), value in states})
        x = torch.randn(2, ours.layers[0].conv.in_channels, 9, 9)
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_macs_of_a_block_in_closed_form_are_the_counter_s(name, stride):
    space = CreamSpace(candidates=[name], stages=[[40, 1, stride]])
    spec = space.spec("stage1_block0", name)
    block = make_block(spec, 16)
    assert block_macs(spec, 16, 13) == count(block, (16, 13, 13)).macs


@pytest.mark.parametrize("options", [{}, {"form": "small", "in_channels": 1, "skip": True}])
def test_the_macs_of_networks_in_closed_form_are_the_counter_s(options):
    space, rng = CreamSpace(candidates=EVERYTHING, **options), random.Random(0)
    for side in (32, 33):
        architecture = sample(space, rng)
        counted = count(whole(space, architecture, side), (space.in_channels, side, side))
        assert space.macs(architecture, side) == counted.macs


def test_weights_start_with_the_variance_of_their_fan_out():
    torch.manual_seed(0)
    block = initialize(make_block(BlockSpec("ir", 96, (5,), expansion=6, se=0.25), 96))
    for layer, fan_out in ((block.expand.conv, 576), (block.depthwise.conv, 25), (block.project.conv, 96)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert not block.se.reduce.bias.any()
    assert not block.se.expand.bias.any()
    head = CreamHead(64, 100, features=256)
    assert head.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert head.fc.weight.abs().max().item() == pytest.approx(0.1, rel=0.01)
    assert head.fc.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)
    assert not head.fc.bias.any()


# -- size ---------------------------------------------------------------------------------------------


def extremes(space):
    """MACs of the cheapest and the dearest network."""
    alike = [space.architecture([[name] * depth for depth in space.depths]) for name in ("k3_e4", "k7_e6")]
    return [space.macs(architecture, space.resolution) for architecture in alike]


@pytest.mark.parametrize("high", [14e6, 43e6, 120e6, 287e6, 600e6, 800e6])
def test_a_range_of_macs_gives_a_supernet_whose_networks_lie_in_it(high):
    space = CreamSpace(macs=[0, high])
    cheapest, dearest = extremes(space)
    assert cheapest <= high
    if space.depths != (1,) * 5:
        assert dearest <= high
    if max(space.depths) < 6:
        for stage in range(5):  # no stage could have had one block more
            deeper = [depth + (i == stage) for i, depth in enumerate(space.depths)]
            assert extremes(CreamSpace(depths=deeper, resolution=space.resolution))[1] > high
    if space.resolution < 224:
        larger = CreamSpace(depths=[1] * 5, resolution=space.resolution + 32)
        assert extremes(larger)[0] > high


def test_small_ranges_lower_the_resolution_and_large_ones_reach_the_published_depth():
    assert [CreamSpace(macs=[0, high]).resolution for high in (14e6, 43e6, 120e6)] == [64, 160, 224]
    assert (
        CreamSpace(macs=[6e8, 9e8]).depths == (6, 6, 6, 6, 6) or max(CreamSpace(macs=[6e8, 9e8]).depths) >= 5
    )


def test_a_range_at_a_given_resolution_keeps_it():
    space = CreamSpace(macs=[0, 6e8], resolution=160)
    assert space.resolution == 160
    assert extremes(space)[1] <= 6e8


def test_a_small_form_can_be_sized_too():
    space = CreamSpace(form="small", in_channels=1, macs=[0, 40e6])
    dearest = space.architecture([["k7_e6"] * depth for depth in space.depths])
    assert (
        count(whole(space, dearest, space.resolution), (1, space.resolution, space.resolution)).macs <= 40e6
    )
    assert max(space.depths) > 1


# -- published networks, head -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_network_is_built_by_its_name_for_any_number_of_classes(name):
    model = built(name, num_classes=7).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_one_block_stages_of_published_networks_are_those_that_were_trained():
    assert [NETWORKS[n].stages[0] for n in ("cream_14", "cream_43", "cream_114", "cream_287")] == [
        ("k3_e4",)
    ] * 4
    assert NETWORKS["cream_14"].stages[3:] == (("k3_e6",), ("k5_e6",))


def test_a_space_names_the_networks_that_it_can_express():
    assert list(published_space().named) == list(NETWORKS)
    assert list(CreamSpace().named) == []
    assert list(CreamSpace(depths=[5, 5, 5, 6, 6]).named) == ["cream_604"]
    assert list(CreamSpace(depths=[5, 5, 5, 6, 6], skip=True, candidates=["k3_e4"]).named) == []
    several = CreamSpace(depths=[5, 5, 5, 6, 6], skip=True, resolution=[64, 96])
    assert {name: found.architecture["resolution"] for name, found in several.named.items()} == {
        "cream_14": 64,
        "cream_43": 96,
    }
    assert several.named["cream_14"].options == {}
    assert list(CreamSpace(form="small", skip=True).named) == []


def test_a_named_network_goes_through_its_file_unchanged():
    found = zoo.find("cream_14", host())
    document = zoo.architecture_document(
        {"type": "cream_published", "resolution": 64},
        found.architecture,
        shape=found.shape,
        classes=("a", "b"),
        model=found.space.recommended_model,
    )
    again = archloom.build(document, host=host())
    assert count(again, 64).macs == count(built("cream_14", num_classes=2), 64).macs


def test_the_stages_features_are_as_the_network_says_and_end_where_it_ends():
    model = built("cream_14").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps, end = model.backbone.stage_features(x), model.backbone.forward_features(x)
        for info, features in zip(model.backbone.feature_info, maps, strict=True):
            assert features.shape == (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"])
            assert isinstance(model.backbone.get_submodule(info["module"]), nn.Module)
        assert torch.equal(model.backbone.tail(maps[-1]), end)
    assert [info["reduction"] for info in model.backbone.feature_info] == [4, 8, 16, 16, 32]


def test_a_supernet_gives_its_stages_features_too():
    space = CreamSpace(form="small", skip=True)
    supernet, architecture = Supernet(space, 0).eval(), sample(space, random.Random(1))
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        with supernet.running(architecture) as network:
            ours = network.stage_features(x)
        theirs = supernet.extract(architecture).eval().stage_features(x)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_classifier_can_be_replaced():
    model = built("cream_14").eval().double()
    model.head.reset_classifier(5)
    assert model.head.get_classifier().out_features == 5
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64, dtype=torch.float64)).shape == (1, 5)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_the_poolings_are_timm_s(pool):
    timm = pytest.importorskip("timm.layers")
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(
        CreamPool(pool=pool)(x), timm.SelectAdaptivePool2d(pool_type=pool, flatten=True)(x)
    )


def test_the_head_takes_what_a_pooling_gives():
    space = CreamSpace(form="small")
    parts = ModelParts(
        neck=lambda: CreamPool(pool="catavgmax"), head=lambda c, n: CreamHead(c, n, features=64)
    )
    model = parts.assemble(
        space.build(space.architecture([["k3_e4"] * 2] * 3)), shape=(3, 16, 16), num_classes=4
    )
    assert model.head.conv.in_channels == 2 * 160
    assert isinstance(ModelParts().neck(), GlobalAverage)
