from __future__ import annotations

import time

import pytest
import torch
from fbnet_golden import close, det_input, fill, golden
from torch import nn

from archloom.architecture import Architecture
from archloom.cost import count
from archloom.errors import SpaceError
from archloom.model import Model, ModelParts
from archloom.shared import Supernet
from archloom.space import check
from archloom_fbnet.named import NETWORKS
from archloom_fbnet.primitives import CANDIDATES
from archloom_fbnet.space import FBNetSpace
from archloom_fbnet.weights import read_thetas

TOTALS = {
    # params at 1000 classes, MACs at 224; params at 10 classes, MACs at 32
    "fbnet_a": (4_250_232, 238_989_752, 2_760_282, 4_861_688),
    "fbnet_b": (4_148_888, 287_855_688, 2_658_938, 5_858_952),
    "fbnet_c": (4_902_600, 376_201_120, 3_412_650, 7_661_920),
    "fbnet_96_035_1": (3_452_040, 222_036_928, 1_962_090, 4_515_712),
    "fbnet_samsung_s8": (4_452_168, 292_922_680, 2_962_218, 5_962_360),
    "fbnet_iphonex": (4_493_880, 321_798_968, 3_003_930, 6_551_672),
    "fbnet_cpu_sample1": (2_722_824, 356_375_328, 1_232_874, 7_257_312),
    "fbnet_cpu_sample2": (2_548_200, 312_063_648, 1_058_250, 6_352_992),
}


def whole(space: FBNetSpace, architecture: Architecture, num_classes: int = 1000, side: int = 224) -> Model:
    shape = (space.in_channels, side, side)
    return ModelParts().assemble(space.build(architecture), shape=shape, num_classes=num_classes)


def cost_of(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """(params, MACs) of a layer, which may be the identity."""
    cost = count(nn.Sequential(nn.Conv2d(shape[0], shape[0], 1, bias=False), layer), shape)
    return cost.params - shape[0] ** 2, cost.macs - shape[0] ** 2 * shape[1] * shape[2]


def published(name: str, num_classes: int = 1000) -> Model:
    named = FBNetSpace().named[name]
    return whole(FBNetSpace(**named.options), named.architecture, num_classes, named.resolution)


@pytest.mark.parametrize("name", TOTALS)
def test_params_and_macs_of_the_named_networks_are_those_of_the_reference(name):
    space = FBNetSpace(reference=True)
    architecture = check(space, space.named[name].architecture)
    thousand, ten = whole(space, architecture, 1000), whole(space, architecture, 10)
    params, macs, params_10, macs_10 = TOTALS[name]
    assert (count(thousand, 224).params, count(thousand, 224).macs) == (params, macs)
    assert (count(ten, 32).params, count(ten, 32).macs) == (params_10, macs_10)


@pytest.mark.parametrize("name", golden()["archs"])
def test_the_layers_of_a_named_network_are_those_of_the_reference(name):
    expected = golden()["archs"][name]
    space = FBNetSpace(reference=True)
    architecture = space.named[name].architecture
    assert list(architecture.values()) == expected["ops"]
    body, shape = space.build(architecture).body, (16, 112, 112)
    for layer, recorded in zip(body.children(), expected["per_layer_224"], strict=True):
        assert cost_of(layer, shape) == (recorded["params"], recorded["macs"])
        shape = tuple(layer(torch.zeros(1, *shape)).shape[1:])


@pytest.mark.parametrize("name", golden()["archs"])
@pytest.mark.parametrize(
    ("case", "classes", "side"), [("c1000_r224", 1000, 224), ("c10_r224", 10, 224), ("c10_r32", 10, 32)]
)
def test_the_logits_of_a_named_network_are_those_of_the_reference(name, case, classes, side):
    space = FBNetSpace(reference=True)
    expected = golden()["archs"][name]
    model = whole(space, space.named[name].architecture, classes, side)
    keys = fill(model, space.weight_formats[0].theirs)
    if classes == 1000:
        shapes = [list(t.shape) for t in model.state_dict().values()]
        assert list(map(list, zip(keys, shapes, strict=True))) == expected["state_dict"]
    with torch.no_grad():
        logits = model(det_input(2, 3, side, side))
    close(logits[0, :10], expected[case]["logits_first10"])
    close(logits[1, :10], expected[case]["logits_img1_first10"])
    assert logits.abs().sum(dtype=torch.float64).item() == pytest.approx(expected[case]["abs_sum"], rel=1e-5)
    assert logits.argmax(1).tolist() == expected[case]["argmax"]


def test_every_candidate_of_every_layer_costs_what_it_costs_in_the_reference_supernet():
    space, expected = FBNetSpace(reference=True), golden()["supernet_per_op"]
    assert list(space.choices[0].options) == expected["candidates"] == list(CANDIDATES)
    for index, choice in enumerate(space.choices):
        size, width = expected["layers"]["hw"][index], expected["layers"]["cin"][index]
        for option in choice.options:
            recorded = expected["table"][index][option]
            block = space.candidate(choice, option)
            assert cost_of(block, (width, size, size)) == (recorded["params"], recorded["macs"])


def test_the_reference_supernet_has_the_reference_s_tensors():
    space = FBNetSpace(reference=True)
    supernet = Supernet(space, seed=0)
    path = space.named["fbnet_a"].architecture
    model = ModelParts().assemble(supernet, shape=(3, 32, 32), num_classes=10, selection=(path,))
    theirs = [space.weight_formats[0].theirs(key) for key in model.state_dict()]
    expected = golden()["supernet"]
    assert None not in theirs
    assert len(theirs) == expected["state_dict_keys"] - 22  # without one theta for each layer
    assert {key for key, _ in expected["state_dict_sample"] if not key.endswith("thetas")} <= set(theirs)
    assert sum(p.numel() for p in model.parameters()) == expected["params_total_10cls"] - expected["thetas"]
    assert len(list(model.parameters())) == expected["w_optimizer_tensors"]


def test_a_checkpoint_of_the_reference_is_unwrapped_and_its_thetas_are_read_apart():
    state = {"module.first.conv.weight": torch.ones(1)}
    state |= {f"module.stages_to_search.{i}.thetas": torch.full((9,), float(i)) for i in (10, 2)}
    unwrap = FBNetSpace().weight_formats[0].unwrap
    assert list(unwrap(state)) == ["first.conv.weight"]
    thetas = read_thetas(state)
    assert list(thetas) == ["layer2", "layer10"]
    assert thetas["layer10"][0] == 10


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("fbnet_a", 4.3e6, 249e6), ("fbnet_b", 4.8e6, 295e6), ("fbnet_c", 5.5e6, 375e6)],
)
def test_the_paper_s_form_has_the_size_that_the_authors_print_for_it(name, params, macs):
    """Params of the authors' own definition, MACs of the paper; neither says what exactly was counted."""
    cost = count(published(name), 224)
    assert cost.params == pytest.approx(params, rel=0.015)
    assert cost.macs == pytest.approx(macs, rel=0.045)


def test_the_scaled_network_has_the_authors_widths():
    named = FBNetSpace().named["fbnet_96_035_1"]
    space = FBNetSpace(**named.options)
    widths = [layer.c_out for layer in space.layers.values()]
    assert sorted(set(widths)) == [8, 16, 24, 40, 72, 128]
    assert (named.resolution, space.head_width) == (96, 1416)
    assert count(published("fbnet_96_035_1"), 96).macs < 15e6


def test_the_paper_s_form_has_the_same_blocks_in_the_supernet_and_in_the_network():
    space = FBNetSpace(form="small")
    supernet = Supernet(space, seed=3)
    path = space.architecture([CANDIDATES[i] for i in (0, 1, 8, 3, 5, 8, 7)])
    child = supernet.extract(path).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(supernet.eval()(x, path), child(x))


def test_the_reference_s_networks_drop_what_its_supernet_has():
    space = FBNetSpace(reference=True)
    path = space.named["fbnet_b"].architecture
    assert [n for n, _ in space.build(path).body.layer0.dw.named_children()] == ["conv"]
    assert [n for n, _ in space.candidate(space.choices[0], "ir_k3_e1").dw.named_children()] == [
        "conv",
        "bn",
        "relu",
    ]
    alike = FBNetSpace(reference=True, dw_norm=True, dw_relu=True)
    assert [n for n, _ in alike.build(path).body.layer0.dw.named_children()] == ["conv", "bn", "relu"]


@pytest.mark.parametrize(
    ("form", "side", "last"), [("imagenet", 224, 7), ("cifar", 32, 4), ("small", 32, 8), ("small", 8, 2)]
)
def test_a_form_ends_at_a_feature_map_that_suits_its_images(form, side, last):
    space = FBNetSpace(form=form)
    network = space.build(space.architecture([c.options[0] for c in space.choices])).eval()
    assert network(torch.randn(1, 3, side, side)).shape == (1, space.head_width, last, last)


def test_the_cifar_form_has_the_strides_of_the_published_device_tables():
    layers = FBNetSpace(form="cifar").layers.values()
    assert [layer.stride for layer in layers] == [
        1,
        1,
        1,
        1,
        1,
        2,
        1,
        1,
        1,
        2,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        2,
        1,
        1,
        1,
        1,
    ]


def test_the_small_form_takes_grey_images_of_8_by_8():
    space = FBNetSpace(form="small", in_channels=1)
    model = whole(space, space.architecture(["ir_k3_e3"] * 7), 10, 8)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_widths_stages_stem_and_candidates_can_be_one_s_own():
    space = FBNetSpace(
        stages=[[24, 1, 2], [32, 2, -2]],
        stem=[8, 1, 5],
        width_ratio=0.5,
        candidates=["ir_k5", "shuffle", "skip"],
        expansion=4,
        head_width=64,
    )
    assert [(layer.c_in, layer.c_out, layer.stride) for layer in space.layers.values()] == [
        (8, 16, 2),
        (16, 16, -2),
        (16, 16, 1),
    ]
    network = space.build(space.architecture(["ir_k5", "shuffle", "skip"])).eval()
    assert network.stem.conv.kernel_size == (5, 5)
    assert network.body.layer0.pw.conv.out_channels == 32
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 64, 16, 16)
    assert space.named == {}


def test_a_norm_is_applied_everywhere():
    space = FBNetSpace(form="small", norm="gn", norm_groups=4)
    network = space.build(
        space.architecture(["ir_k3_e6", "skip", "ir_k5_s2", "skip", "skip", "skip", "skip"])
    )
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in network.modules()) == 1 + 3 + 3 + 2 - 1 + 1


def test_all_names_are_there_in_every_form_that_can_express_them():
    assert set(FBNetSpace().named) == set(FBNetSpace(form="cifar").named) == set(NETWORKS)
    assert FBNetSpace(form="small").named == {}
    without_groups = [name for name in CANDIDATES if "_s2" not in name]
    assert set(FBNetSpace(candidates=without_groups).named) == set(NETWORKS) - {"fbnet_a"}


def test_making_the_space_builds_no_module():
    started = time.perf_counter()
    for _ in range(20):
        FBNetSpace()
    assert (time.perf_counter() - started) / 20 < 0.01


@pytest.mark.parametrize(
    ("reference", "spread"), [(False, (2 / (24 * 25)) ** 0.5), (True, (2 / (72 * 1)) ** 0.5)]
)
def test_weights_start_from_the_stated_distribution(reference, spread):
    space = FBNetSpace(form="small", reference=reference)
    torch.manual_seed(0)
    block = space.candidate(space.choices[1], "ir_k5_e3")
    pwl = block.pwl.conv.weight  # (24, 72, 1, 1): fan_in 72, fan_out 24
    expected = spread if reference else (2 / 24) ** 0.5
    assert pwl.std().item() == pytest.approx(expected, rel=0.05)
    assert (pwl.abs().max().item() < 3**0.5 * expected * 1.001) == reference  # uniform is bounded


def test_what_the_space_cannot_be_is_said():
    with pytest.raises(SpaceError, match="no form 'mobile'"):
        FBNetSpace(form="mobile")
    with pytest.raises(SpaceError, match="has 22 layers, not 3"):
        FBNetSpace().architecture(["skip"] * 3)
    space = FBNetSpace(candidates=["ir_k1", "skip"])
    with pytest.raises(SpaceError, match="carries a stride"):
        space.build(space.architecture(["ir_k1"] * 22))
    with pytest.raises(SpaceError, match="in_channels must be positive"):
        FBNetSpace(in_channels=0)
    with pytest.raises(SpaceError, match="width_ratio must be positive"):
        FBNetSpace(width_ratio=0)


@pytest.mark.parametrize(
    "stages", [[[16, 2]], [[16, 0, 1]], [[8, 0, 2], [16, 2, 2]], [[16, 2, 0]], [[0, 2, 1]], [[16, True, 1]]]
)
def test_a_stage_without_layers_width_or_stride_is_refused_with_its_place(stages):
    with pytest.raises(SpaceError, match=r"a stage is \[channels, layers, stride\].* stages\[0\]"):
        FBNetSpace(stages=stages)


def test_an_empty_list_is_no_default():
    with pytest.raises(SpaceError, match="needs a stage"):
        FBNetSpace(stages=[])
    for stem in ([], [16], [16, 0], [0, 1], [16, 1, 4]):
        with pytest.raises(SpaceError, match="the stem is"):
            FBNetSpace(stem=stem)
