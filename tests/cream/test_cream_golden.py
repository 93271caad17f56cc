"""The published networks and the supernet compute what the reference computes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cream_golden import built, checkpoint, close, det_input, fill, filled, golden, host, noise
from torch.nn import functional as F

import archloom
from archloom import zoo
from archloom.cost import count
from archloom.errors import SpaceError, WeightsError
from archloom.model import GlobalAverage, Model
from archloom.shared import Supernet
from archloom.space import check, input_shape
from archloom_cream import CreamHead, CreamSpace
from archloom_cream.costs import block_macs, reference_count
from archloom_cream.named import NETWORKS, SIX
from archloom_cream.sizing import reference_table

TOTALS = {
    # params at 1000 classes; millions of multiply-adds, without and with two operations per BatchNorm element
    "cream_14": (2_673_096, 13.189, 13.762),
    "cream_43": (4_398_600, 40.655, 42.170),
    "cream_114": (4_410_120, 109.624, 113.832),
    "cream_287": (6_044_368, 276.262, 285.651),
    "cream_481": (7_713_360, 460.398, 478.248),
    "cream_604": (9_695_624, 578.698, 600.161),
}
NETS = list(golden()["nets"])


def batch_norm_elements(model, side):
    """How many numbers the BatchNorms of a model put out for one image."""
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    return sum(seen)


def test_the_fill_is_the_recorded_one():
    recorded = golden()["fill"]
    shapes = {"conv_stem.weight": (16, 3, 3, 3), "bn1.running_var": (16,), "classifier.bias": (1000,)}
    for key, shape in shapes.items():
        close(filled(key, torch.empty(shape)).flatten()[:4], recorded["check"][key], 1e-7)
    assert noise("input", 4) * 3**0.5 == pytest.approx(recorded["input_check"])


@pytest.mark.parametrize("name", TOTALS)
def test_params_and_macs_of_a_published_network_are_the_reference_s(name):
    network, model = NETWORKS[name], built(name)
    cost = count(model, network.resolution)
    params, macs, with_norms = TOTALS[name]
    assert cost.params == params
    assert round(cost.macs / 1e6, 3) == macs
    assert round((cost.macs + 2 * batch_norm_elements(model, network.resolution)) / 1e6, 3) == with_norms
    assert network.published["macs"] == pytest.approx(with_norms * 1e6, rel=0.02)


@pytest.mark.parametrize("net", NETS)
def test_a_recorded_network_has_the_reference_s_blocks_params_and_macs(net):
    expected, model = golden()["nets"][net], built(f"cream_{net}")
    cost = count(model, expected["resolution"])
    assert (cost.params, cost.macs) == (expected["params"], expected["macs_conv_linear"])
    recorded = [(f"k{b['kernel']}_e{b['expansion']:g}", b["stage"]) for b in expected["blocks"][1:-1]]
    stages = NETWORKS[f"cream_{net}"].stages
    assert recorded == [(name, s) for s, stage in enumerate(stages, 1) for name in stage]


@pytest.mark.parametrize("net", NETS)
def test_a_recorded_network_has_the_reference_s_keys_in_order_and_with_their_shapes(net):
    model = built(f"cream_{net}")
    (form,) = model.weight_formats
    ours = [
        [form.theirs(key), list(value.shape), str(value.dtype)] for key, value in model.state_dict().items()
    ]
    assert ours == [list(entry) for entry in golden()["nets"][net]["state_dict"]]


@pytest.mark.parametrize("net", NETS)
def test_a_recorded_network_gives_the_reference_s_logits_when_evaluated(net):
    expected, model = golden()["nets"][net], built(f"cream_{net}").eval()
    assert archloom.load_weights(model, checkpoint(net)) == "cream-reference"
    with torch.no_grad():
        pooled = model.neck(model.backbone(det_input(2, expected["resolution"])))
        features, logits = model.head.forward_features(pooled), model.head(pooled)
    close(logits[0, :16], expected["out"]["logits16"], 1e-5)
    close(logits[1, :16], expected["out"]["logits16_row1"], 1e-5)
    assert logits.argmax(1).tolist() == expected["out"]["argmax"]
    assert logits.double().abs().sum().item() == pytest.approx(expected["out"]["abs_sum"], abs=2e-2)
    assert features.shape == (2, 1280)


@pytest.mark.parametrize("net", NETS)
def test_a_recorded_network_gives_the_reference_s_logits_when_trained(net):
    expected, model = golden()["nets"][net], built(f"cream_{net}", dropout=0.0).train()
    archloom.load_weights(model, checkpoint(net))
    with torch.no_grad():
        logits = model(det_input(4, expected["resolution"]))
    close(logits[0, :16], expected["out_train"]["logits16"], 1e-4)
    assert logits.double().sum().item() == pytest.approx(expected["out_train"]["sum"], abs=2e-2)


@pytest.mark.parametrize("net", NETS)
def test_a_training_step_has_the_reference_s_loss_gradients_and_statistics(net):
    expected, model = golden()["nets"][net], built(f"cream_{net}", dropout=0.0).train()
    archloom.load_weights(model, checkpoint(net))
    loss = F.cross_entropy(model(det_input(2, expected["resolution"])), torch.tensor([3, 7]))
    loss.backward()
    step, bn = expected["train_step"], model.backbone.stem.conv.bn
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert loss.item() == pytest.approx(step["loss"], abs=1e-4)
    assert norm.item() == pytest.approx(step["grad_norm"], rel=1e-3)
    stem = model.backbone.stem.conv.conv.weight.grad.norm().item()
    assert stem == pytest.approx(step["grad_norm_conv_stem"], rel=1e-3)
    assert bn.running_mean.sum().item() == pytest.approx(step["bn1_running_mean_after_sum"], rel=1e-5)
    assert bn.running_var.sum().item() == pytest.approx(step["bn1_running_var_after_sum"], rel=1e-5)


def wrapped(state):
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {
            "state_dict": wrapped({k: v + 1 for k, v in state.items()}),
            "state_dict_ema": wrapped(state),
        },
    ],
    ids=["state_dict", "state_dict_ema"],
)
def test_checkpoints_are_read_in_either_layout_and_the_average_is_preferred(wrap):
    state, model = checkpoint("14"), built("cream_14")
    assert archloom.load_weights(model, wrap(state)) == "cream-reference"
    assert torch.equal(model.head.conv.weight, state["conv_head.weight"])


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="cream-reference"):
        archloom.load_weights(built("cream_43"), checkpoint("14"))


def test_a_network_of_a_name_is_the_same_in_a_space_of_just_its_depths():
    space = CreamSpace(depths=[1, 2, 2, 1, 1])
    assert list(space.named) == ["cream_14"]
    architecture = check(space, space.named["cream_14"].architecture)
    model = Model(space.build(architecture), GlobalAverage(), CreamHead(320, 1000), torch.nn.Identity())
    model.weight_formats = space.weight_formats(architecture)
    archloom.load_weights(model, checkpoint("14"))
    with torch.no_grad():
        logits = model.eval()(det_input(2, 64))
    close(logits[0, :16], golden()["nets"]["14"]["out"]["logits16"], 1e-5)


def test_a_network_s_name_says_its_resolution_to_the_framework():
    found = zoo.find("cream_43", host())
    assert found.shape == (3, 96, 96)
    assert input_shape(found.space, found.architecture, SimpleNamespace(shape=(3, 32, 32))) == (3, 96, 96)
    assert found.published["accuracy"] == 66.3
    assert "BatchNorm" in found.published["macs_definition"]


def test_only_networks_of_the_reference_s_blocks_take_its_weights():
    space = CreamSpace(depths=[1, 2, 2, 1, 1], candidates=[*SIX, "k3_d2_e4"])
    network = space.named["cream_14"].architecture
    assert len(space.weight_formats(network)) == 1
    assert space.weight_formats(network.replace(stage1_block0="k3_d2_e4")) == ()
    with pytest.raises(SpaceError, match="the reference's supernet has"):
        _ = space.supernet_format


# -- supernet -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supernet():
    """The reference's supernet with its fill, as a whole model."""
    space = CreamSpace()
    model = Model(Supernet(space, 0), GlobalAverage(), CreamHead(320, 1000), torch.nn.Identity())
    model.weight_formats = (space.supernet_format,)
    model.keys = fill(model, space.supernet_format.theirs)
    return model


def path(name):
    stages = golden()["supernet"]["paths"][name][1:-1]
    return CreamSpace().architecture([[SIX[op] for op in stage] for stage in stages])


def test_a_path_of_the_supernet_gives_the_reference_s_logits(supernet):
    expected = golden()["supernet"]["fwd_eval_64"]
    for name in expected:
        with torch.no_grad():
            logits = supernet.eval()(det_input(2, 64), path(name))
        close(logits[0, :16], expected[name]["logits16"], 1e-5)
        assert logits.double().abs().sum().item() == pytest.approx(expected[name]["abs_sum"], abs=2e-2)


def test_the_supernet_has_the_reference_s_params_but_for_what_never_runs(supernet):
    recorded = golden()["supernet"]["gen_0_600"]
    fifth_block = sum(
        p.numel()
        for option in supernet.backbone.network.body.stage3_block3.options
        for p in option.parameters()
    )
    meta = 4 * 1000 + 1
    assert sum(p.numel() for p in supernet.parameters()) + fifth_block + meta == recorded["params"]
    assert supernet.keys[:12] == recorded["first_keys"]
    assert supernet.keys[-10:] == recorded["last_keys"][:-2]


def test_a_checkpoint_of_the_reference_s_supernet_loads_without_what_never_runs(supernet):
    theirs = dict(zip(supernet.keys, supernet.state_dict().values(), strict=True))
    theirs |= {key.replace("blocks.3.3.", "blocks.3.4."): value for key, value in theirs.items()}
    theirs |= {"meta_layer.weight": torch.zeros(1, 4000), "meta_layer.bias": torch.zeros(1)}
    assert len(theirs) == golden()["supernet"]["gen_0_600"]["n_state_keys"]
    assert archloom.load_weights(supernet, {"state_dict": theirs}) == "cream-reference"


# -- counts -------------------------------------------------------------------------------------------


def every_block():
    """(stage, block, candidate, spec, input channels, side) of the supernet at 224 pixels."""
    space, side = CreamSpace(), 112
    for name, layer in space.layers.items():
        for option, candidate in enumerate(SIX):
            yield layer.stage, layer.position, option, space.spec(name, candidate), layer.c_in, side
        side //= layer.stride


def test_the_reference_s_table_of_estimates_is_our_count_and_the_small_things_that_it_adds():
    table = golden()["supernet"]["flops_est_ptflops_0_7_5"]["table"]
    for stage, position, option, spec, c_in, side in every_block():
        inner, squeezed = spec.inner(c_in), spec.squeezed(c_in)
        before, after = side**2, (side // spec.stride) ** 2
        norms = 2 * (inner * before + (inner + spec.channels) * after)
        squeeze = 2 * inner * after + 2 * (squeezed + inner) + squeezed  # pooled, biases, activations
        theirs = round(table[f"{stage}.{position}"][option] * 1e6)
        assert block_macs(spec, c_in, side) + norms + squeeze == theirs


def test_the_table_that_the_reference_sizes_by_follows_from_the_blocks():
    recorded = golden()["supernet"]["flops_op_dict"]
    space = CreamSpace()
    stages = [(24, 2), (40, 2), (80, 2), (96, 1), (192, 2)]
    table = reference_table(stages, 16, [space.spec("stage1_block0", name) for name in SIX])
    for stage, rows in enumerate(table):
        for option, row in enumerate(rows):
            assert row == pytest.approx(recorded[str(stage)][str(option)], abs=1e-9)
    first = next(iter(every_block()))
    assert reference_count(*first[3:]) == recorded["0"]["0"][0] * 1e6


@pytest.mark.parametrize("row", golden()["supernet"]["search_for_layer"]["rows"], ids=str)
def test_a_range_is_sized_as_the_reference_sizes_it(row):
    low, high, depths, resolution = row
    options = {"macs": [low * 1e6, high * 1e6], "reference": True}
    if depths is None:
        with pytest.raises(SpaceError, match="finds no supernet"):
            CreamSpace(**options)
        return
    space = CreamSpace(**options)
    assert (list(space.depths), space.resolution) == (depths, resolution)


def test_the_macs_in_closed_form_are_those_of_the_counter():
    assert count(built_path("B"), 224).macs == CreamSpace().macs(path("B"), 224)


def built_path(name):
    return Model(CreamSpace().build(path(name)), GlobalAverage(), CreamHead(320, 1000), torch.nn.Identity())
