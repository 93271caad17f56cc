"""Costs, shapes and logits against the reference's own numbers."""

import pytest
import torch
from efficientnet_golden import GOLDEN, NETWORKS, det_input, fill, first, noise

from archloom import load_weights as load
from archloom.cost import count
from archloom_efficientnet import EfficientNet, export_state
from archloom_efficientnet.formats import key_map


def on_meta(name, **overrides):
    with torch.device("meta"):
        return EfficientNet.from_name(name, **overrides)


@pytest.mark.parametrize("name", NETWORKS)
def test_params_and_macs_of_every_network_are_the_references(name):
    golden = GOLDEN["models"][name]
    model = on_meta(name)
    cost = count(model, golden["resolution"])
    assert (cost.params, cost.macs) == (golden["params"], golden["macs_native"])
    assert count(model, 224).macs == golden["macs_224"]
    assert EfficientNet.get_image_size(name) == golden["resolution"]
    assert model.config.dropout_rate == golden["dropout"]


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_and_endpoints_of_every_network_have_the_references_shapes(name):
    golden = GOLDEN["models"][name]
    model = on_meta(name).eval()
    stages = [
        {
            "repeats": len(stage),
            "k": stage[0].args.kernel_size,
            "s": stage[0].args.stride[0],
            "e": stage[0].args.expand_ratio,
            "in": stage[0].args.input_filters,
            "out": stage[0].args.output_filters,
            "se": stage[0].args.se_ratio,
        }
        for stage in model.features.stages
    ]
    assert stages == golden["stages"]
    assert len(list(model.features.blocks())) == golden["n_blocks"]
    image = torch.empty(1, 3, golden["resolution"], golden["resolution"], device="meta")
    with torch.no_grad():
        endpoints = model.extract_endpoints(image)
    assert {key: list(value.shape) for key, value in endpoints.items()} == golden["endpoints_native"]


def test_the_drop_connect_schedule_and_the_batch_norm_constants_are_the_references():
    model = on_meta("efficientnet-b0")
    rates = [block.drop_connect_rate for block in model.features.blocks()]
    assert rates == pytest.approx(GOLDEN["drop_connect_schedule_b0"], abs=0, rel=1e-15)
    norms = {(m.momentum, m.eps) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {tuple(GOLDEN["bn"]["lukemelas"])}


def test_the_fill_is_the_golden_files():
    probe = GOLDEN["fill_probe"]
    assert noise("input", 6).tolist() == probe["base_values_input_first6"]
    assert noise("_fc.bias", 4).tolist() == probe["base_values__fc.bias_first4"]


@pytest.mark.parametrize(("position", "name"), [(0, "lukemelas"), (1, "timm_tf"), (2, "torchvision")])
def test_our_keys_map_to_every_formats_names_and_shapes(position, name):
    model = on_meta("efficientnet-b0")
    lukemelas, theirs = key_map("lukemelas", model.config), key_map(name, model.config)
    triples = {triple[0]: triple[position] for triple in GOLDEN["key_map_b0"]}
    assert {lukemelas[key]: theirs[key] for key in lukemelas} == triples
    shapes = {key: list(value.shape) for key, value in export_state(model, name).items()}
    assert shapes == dict(map(tuple, GOLDEN["state_dict_b0"][name]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [224, 64])
def test_logits_and_endpoints_are_the_references(size, layout):
    golden = GOLDEN["numeric"][f"efficientnet-b0@{size}"]
    model = fill(EfficientNet.from_name("efficientnet-b0")).eval().to(memory_format=layout)
    image = det_input(2, 3, size, size).contiguous(memory_format=layout)
    with torch.no_grad():
        logits = model(image)
        endpoints = model.extract_endpoints(image)
    assert first(logits[0], golden["logits_first16"]) <= 1
    assert first(logits[1], golden["logits_img1_first16"]) <= 1
    assert logits.argmax(1).tolist() == golden["argmax"]
    assert logits.double().abs().sum().item() == pytest.approx(golden["abs_sum"], rel=1e-5)
    for level, wanted in golden["endpoints"].items():
        assert list(endpoints[level].shape) == wanted["shape"]
        assert endpoints[level].abs().mean().item() == pytest.approx(wanted["abs_mean"], rel=1e-5)
        assert first(endpoints[level].contiguous(), wanted["first4"]) <= 1
    with_gradients = model(image)  # nothing is folded here
    assert (with_gradients - logits).abs().max() < 1e-5


@pytest.mark.parametrize("weight_format", ["lukemelas", "timm_tf", "torchvision"])
@pytest.mark.parametrize("size", [224, 64])
def test_weights_in_each_format_give_that_implementations_logits(size, weight_format):
    golden = GOLDEN["numeric"][f"efficientnet-b0@{size}"]
    state = export_state(fill(EfficientNet.from_name("efficientnet-b0")), weight_format)
    model = EfficientNet.from_name("efficientnet-b0")
    load(model, state, weight_format)
    with torch.no_grad():
        logits = model.eval()(det_input(2, 3, size, size))
    key = {"lukemelas": "logits_first16"}.get(weight_format, f"{weight_format}_logits_first8")
    assert first(logits[0], golden[key]) <= 1
