"""archloom's networks through timm's own interface."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from archloom.errors import ConfigError
from archloom.exporting.checking import logits_of

timm = pytest.importorskip("timm")
timm_models = pytest.importorskip("archloom.timm_models")


@pytest.fixture(scope="module")
def name(folder, host):
    return timm_models.register_timm(folder, "tiny-digits", host=host)


@pytest.fixture
def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_source_has_a_name_in_timm_and_its_weights(name, trained, images):
    assert name == "archloom_tiny_digits"
    assert name in timm.list_models("archloom*")
    model = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits_of(trained.model, images), atol=1e-5, rtol=0)
    other = timm.create_model(name).eval()
    assert not torch.allclose(other(images), model(images), atol=1e-3)


def test_a_checkpoint_of_timm_is_loaded_into_it(name, images, tmp_path):
    model = timm.create_model(name, pretrained=True).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    again = timm.create_model(name, checkpoint_path=str(tmp_path / "checkpoint.pth")).eval()
    assert torch.equal(again(images), model(images))


def test_features_and_head_together_are_the_forward(name, images):
    model = timm.create_model(name, pretrained=True).eval()
    features = model.forward_features(images)
    assert features.shape[:2] == (4, model.num_features)
    assert torch.equal(model.forward_head(features), model(images))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (4, model.head_hidden_size)
    assert torch.allclose(model.get_classifier()(before), model(images), atol=1e-6)


def test_the_classifier_is_taken_off_and_put_on(name, images):
    model = timm.create_model(name, pretrained=True).eval()
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Module)
    assert torch.equal(model(images), pooled)
    model.reset_classifier(7)
    assert (model(images).shape, model.num_classes) == ((4, 7), 7)
    assert timm.create_model(name, num_classes=0, global_pool="")(images).ndim == 4
    with pytest.raises(ConfigError, match="needs pooled features"):
        model.reset_classifier(3, "")


def test_other_classes_and_channels_keep_what_fits_of_the_weights(name, images):
    model = timm.create_model(name, pretrained=True)
    fewer = timm.create_model(name, pretrained=True, num_classes=3).eval()
    assert fewer(images).shape == (4, 3)
    for key, value in fewer.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[key])
    colour = timm.create_model(name, pretrained=True, in_chans=3)
    assert colour(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("source", ["fbnet_a", "efficientnet-b0"])
def test_features_only_gives_a_map_for_each_resolution(source, host):
    name = timm_models.register_timm(source, f"test {source}", host=host)
    model = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 64))
    assert model.feature_info.channels() == [each.shape[1] for each in maps]
    assert model.feature_info.reduction() == [64 // each.shape[2] for each in maps] == [2, 4, 8, 16, 32]
    chosen = timm.create_model(name, features_only=True, out_indices=(1, -1)).eval()
    assert [each.shape[1] for each in chosen(torch.randn(1, 3, 64, 64))] == [
        model.feature_info.channels()[i] for i in (1, -1)
    ]


def test_intermediate_maps_are_what_the_steps_behind_are_given(name, images):
    model = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        features, maps = model.forward_intermediates(images)
        assert torch.equal(features, model.forward_features(images))
    assert torch.equal(maps[-1], features)
    assert [each.shape[1] for each in maps] == [info["num_chs"] for info in model.feature_info]


def test_a_head_without_a_linear_layer_cannot_be_replaced(host):
    plugin = nn.Conv2d(4, 2, 1)
    model = timm_models.TimmNetwork.__new__(timm_models.TimmNetwork)
    nn.Module.__init__(model)
    model.head = plugin
    with pytest.raises(ConfigError, match="no linear layer"):
        model.reset_classifier(3)


def test_a_weights_file_that_is_not_there_is_told_at_once(folder, host, tmp_path):
    with pytest.raises(ConfigError, match="there is no weights file"):
        timm_models.register_timm(folder, "x", weights=tmp_path / "gone.pt", host=host)


def test_every_listed_model_of_ours_can_be_made_and_the_entry_that_needs_a_document_is_in_no_list(name):
    assert "archloom" not in timm.list_models()
    assert timm.is_model("archloom")
    for listed in timm.list_models("archloom_*"):
        assert timm.create_model(listed).num_classes > 0


def test_the_default_configuration_says_what_timms_own_say(host):
    name = timm_models.register_timm("efficientnet-b0", "config test", host=host)
    model = timm.create_model(name, device="meta", dtype=torch.float64)
    cfg = model.default_cfg
    assert cfg["input_size"] == [3, 224, 224]
    assert cfg["pool_size"] == [7, 7]
    assert cfg["num_classes"] == 1000
    assert f"{cfg['first_conv']}.weight" in model.state_dict()
    assert f"{cfg['classifier']}.weight" in model.state_dict()
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    with pytest.raises(TypeError):
        timm.create_model(name, not_an_argument=1)


def test_parts_that_are_put_in_later_have_the_networks_mode_device_and_type(name):
    model = timm.create_model(name).eval().to("meta", torch.float64)
    model.reset_classifier(0, "")
    model.reset_classifier(3, "avg")
    assert not any(module.training for module in model.modules())
    assert {(p.device.type, p.dtype) for p in model.get_classifier().parameters()} == {
        ("meta", torch.float64)
    }


@pytest.mark.parametrize("source", ["efficientnet-b0"])
def test_a_model_is_scripted_and_traced_by_torch_fx(source, host):
    name = timm_models.register_timm(source, f"graph {source}", host=host)
    model = timm.create_model(name, num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and timm's users still ask for it
        wanted = model(images)
        made = [torch.jit.script(model), torch.fx.symbolic_trace(model)]
        made.append(torch.jit.script(made[1]))
        for graph in made:
            torch.testing.assert_close(graph(images), wanted, atol=1e-5, rtol=1e-4)
        names = get_graph_node_names(model)[1]
        extracted = create_feature_extractor(model, return_nodes={names[-1]: "logits"})
        torch.testing.assert_close(extracted(images)["logits"], wanted, atol=1e-5, rtol=1e-4)
