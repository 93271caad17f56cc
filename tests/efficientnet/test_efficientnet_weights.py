"""Files: all that fits or nothing at all, and every choice said aloud."""

import logging
import sys
import types

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import archloom
from archloom.errors import ConfigError, UnknownName, WeightsError
from archloom.model import ModelParts
from archloom.weights import header_of
from archloom_efficientnet import EfficientNet, EfficientNetSpace, export_state, save
from archloom_efficientnet.formats import FORMATS, behaviour

SMALL = {"width_coefficient": 0.25, "depth_coefficient": 0.3}
IMAGE = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def small(seed=0, **overrides):
    torch.manual_seed(seed)
    model = EfficientNet.from_name("efficientnet-b0", **{**SMALL, "num_classes": 7, **overrides})
    with torch.no_grad():
        for key, value in model.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5 * key.endswith("var"))
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(IMAGE)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model, before, config):
    return model.config == config and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_written_file_gives_the_same_network_back(weight_format, suffix, tmp_path):
    b = behaviour(weight_format, small().config)
    model = small(padding=b.padding, batch_norm_epsilon=b.epsilon, batch_norm_momentum=b.momentum)
    path = save(model, tmp_path / f"w.{suffix}", weight_format)
    again = EfficientNet.from_pretrained("efficientnet-b0", path, weight_format=weight_format, **SMALL)
    assert torch.equal(logits(again), logits(model))
    assert again.config == model.config
    assert list(tmp_path.iterdir()) == [path]


def test_a_safetensors_header_carries_padding_and_epsilon_into_any_format(tmp_path, caplog):
    model = small(padding="symmetric", batch_norm_epsilon=0.02, batch_norm_momentum=0.9)
    path = save(model, tmp_path / "w.safetensors", "timm_tf")
    assert "other logits there" in caplog.text
    with safe_open(path, "pt") as file:
        assert file.metadata()["archloom.padding"] == "symmetric"
    again = EfficientNet.from_pretrained(
        "efficientnet-b0", path, **SMALL
    )  # no format given: the header says it
    assert again.config == model.config
    assert torch.equal(logits(again), logits(model))
    as_timm = EfficientNet.from_pretrained("efficientnet-b0", path, weight_format="timm", **SMALL)
    assert (as_timm.config.padding, as_timm.config.batch_norm_epsilon) == ("symmetric", 1e-5)


def test_overrides_win_over_what_the_weights_say(tmp_path):
    path = save(small(), tmp_path / "w.pth", "lukemelas")
    model = EfficientNet.from_pretrained("efficientnet-b0", path, batch_norm_epsilon=0.5, **SMALL)
    assert model.features.stem.bn.eps == 0.5
    assert model.config.padding == "same"


def test_timms_keys_alone_are_ambiguous_and_the_message_says_what_to_give(tmp_path):
    path = save(small(), tmp_path / "w.pth", "timm_tf")
    with pytest.raises(WeightsError, match=r"weight_format='timm_tf'.*or 'timm'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, **SMALL)
    with pytest.raises(UnknownName, match=r"did you mean 'timm_tf'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, weight_format="tim_tf", **SMALL)


@pytest.mark.parametrize("num_classes", [7, None])
def test_a_seven_class_file_gives_its_classifier_back(num_classes, tmp_path):
    model = small()
    path = save(model, tmp_path / "w.pth", "lukemelas")
    again = EfficientNet.from_pretrained("efficientnet-b0", path, num_classes=num_classes, **SMALL)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert torch.equal(logits(again), logits(model))


def test_a_classifier_of_another_size_is_an_explicit_choice(tmp_path, caplog):
    model = small()
    path = save(model, tmp_path / "w.pth", "lukemelas")
    with pytest.raises(WeightsError, match=r"_fc.weight is 7x320, not 5x320.*classifier='reset'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, num_classes=5, **SMALL)
    again = EfficientNet.from_pretrained("efficientnet-b0", path, num_classes=5, classifier="reset", **SMALL)
    assert "classifier.weight, classifier.bias kept as they are" in caplog.text
    assert logits(again).shape == (2, 5)
    with torch.no_grad():
        assert torch.equal(again.extract_features(IMAGE), model.extract_features(IMAGE))
    with pytest.raises(ConfigError, match=r"'load' or 'reset'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, classifier="random", **SMALL)


def test_without_a_top_a_full_file_loads_all_but_the_classifier_and_says_so(tmp_path, caplog):
    model = small()
    path = save(model, tmp_path / "w.pth", "lukemelas")
    again = EfficientNet.from_pretrained("efficientnet-b0", path, include_top=False, **SMALL)
    assert "_fc.bias, _fc.weight" in caplog.text
    with torch.no_grad():
        assert torch.equal(again.eval().extract_features(IMAGE), model.extract_features(IMAGE))
    loaded = archloom.load_weights(small(1, include_top=False), model.state_dict())
    assert loaded.left_out == ("classifier.bias", "classifier.weight")


def test_a_file_without_a_classifier_is_refused_unless_a_fresh_one_is_asked_for(tmp_path):
    path = save(small(include_top=False), tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match=r"missing: classifier.weight, classifier.bias.*classifier='reset'"
    ):
        EfficientNet.from_pretrained("efficientnet-b0", path, **SMALL)
    model = EfficientNet.from_pretrained("efficientnet-b0", path, classifier="reset", num_classes=3, **SMALL)
    assert logits(model).shape == (2, 3)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s: s.pop("_blocks.1._bn1.running_var"), "missing: _blocks.1._bn1.running_var"),
        (lambda s: s.update({"_blocks.99._bn1.bias": torch.zeros(1)}), "unexpected: _blocks.99._bn1.bias"),
        (
            lambda s: s.update({"_conv_head.weight": torch.zeros(3, 3, 1, 1)}),
            r"wrongly shaped: _conv_head.weight is 3x3x1x1",
        ),
        (lambda s: s.update({"_fc.bias": "no tensor"}), "wrongly shaped: _fc.bias is str"),
    ],
)
def test_a_wrong_file_changes_nothing_and_names_the_keys(spoil, named):
    state = export_state(small(), "lukemelas")
    spoil(state)
    model = small(1, padding="symmetric")
    before, config = snapshot(model), model.config
    with pytest.raises(WeightsError, match=named):
        archloom.load_weights(model, state)
    assert unchanged(model, before, config)


def test_files_that_are_no_weights_are_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    model = small()
    with pytest.raises(WeightsError, match=r"there is no weights file"):
        archloom.load_weights(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"x": Code()}, tmp_path / "code.pth")
    torch.save([1], tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors", "code.pth"):
        with pytest.raises(WeightsError, match=r"cannot read the weights"):
            archloom.load_weights(model, tmp_path / name)
    with pytest.raises(WeightsError, match=r"holds a list"):
        archloom.load_weights(model, tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"in none of the formats.*lukemelas.*a, b"):
        archloom.load_weights(model, {"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"safetensors, .pt or .pth"):
        save(model, tmp_path / "w.bin")


def test_checkpoints_are_unwrapped_and_uncounted_batches_start_at_zero():
    model = small()
    state = {
        f"module.{key}": value
        for key, value in export_state(model, "lukemelas").items()
        if not key.endswith("num_batches_tracked")
    }
    again = small(1)
    archloom.load_weights(again, {"state_dict": state, "epoch": 3})
    assert torch.equal(logits(again), logits(model))


def test_a_stem_that_is_neither_three_channels_nor_the_models_is_refused():
    state = small(in_channels=5).state_dict()
    archloom.load_weights(small(1, in_channels=5), state)
    with pytest.raises(WeightsError, match=r"Only a stem of 3 input channels"):
        archloom.load_weights(small(1, in_channels=4), state)


def test_an_adapted_stem_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        archloom.load_weights(small(1, in_channels=1), small().state_dict())
    assert "three input channels were summed for 1" in caplog.text


def test_a_replaced_module_cannot_be_written_under_another_name():
    model = small()
    model.classifier = torch.nn.Sequential(model.classifier)
    with pytest.raises(WeightsError, match=r"no name for classifier\.0"):
        export_state(model, "timm")


def hub(monkeypatch, download):
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_without_a_file_the_hub_is_asked_for_the_released_weights(monkeypatch, tmp_path):
    asked = []
    path = save(small(), tmp_path / "w.pth", "timm_tf")

    def download(repository, filename):
        asked.append((repository, filename))
        return str(path)

    hub(monkeypatch, download)
    for options in ({}, {"advprop": True}, {"tag": "ns_jft_in1k"}):
        EfficientNet.from_pretrained("efficientnet-b0", **options, **SMALL)
    assert [repository for repository, _ in asked] == [
        f"timm/tf_efficientnet_b0.{tag}" for tag in ("aa_in1k", "ap_in1k", "ns_jft_in1k")
    ]
    assert {name for _, name in asked} == {"model.safetensors"}
    with pytest.raises(UnknownName, match=r"ns_jft_in1k"):
        EfficientNet.from_pretrained("efficientnet-b0", tag="imagenet")
    with pytest.raises(ConfigError, match=r"leave them out"):
        EfficientNet.from_pretrained("efficientnet-b0", path, advprop=True)


def test_where_the_hub_cannot_be_reached_the_message_says_the_way_out(monkeypatch):
    def download(repository, filename):
        raise OSError("no route to host")

    hub(monkeypatch, download)
    with pytest.raises(
        WeightsError, match=r"no route to host.*huggingface.co/timm/tf_efficientnet_b8.*weights_path"
    ):
        EfficientNet.from_pretrained("efficientnet-b8")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install huggingface_hub"):
        EfficientNet.from_pretrained("efficientnet-b0")


# -- one way into both kinds of networks -------------------------------------------------------------------


def both():
    """A network by class and one by name, alike but for their keys; statistics and weights differ."""
    blocks = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e2_i16_o24_se0.25"]
    options = {"blocks": blocks, "head_filters": 32}
    space = EfficientNetSpace(**options)
    architecture = archloom.Architecture({"network": "efficientnet-b0"})
    model = ModelParts().assemble(space.build(architecture), shape=(3, 40, 40), num_classes=7)
    model.weight_formats = space.weight_formats(architecture)
    alone = EfficientNet.from_block_strings(blocks, head_filters=32, num_classes=7)
    return model, alone


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("kind", ["assembled", "alone"])
def test_weights_in_every_format_give_their_logits_in_both_kinds_of_networks(kind, weight_format, tmp_path):
    theirs = both()[1]
    b = behaviour(weight_format, theirs.config)
    theirs.set_behaviour(padding=b.padding, epsilon=b.epsilon, momentum=b.momentum)
    wanted = logits(theirs)
    path = save(theirs, tmp_path / "w.safetensors", weight_format)
    for source, named in ((path, None), (export_state(theirs, weight_format), weight_format)):
        ours = both()[kind == "alone"]
        assert archloom.load_weights(ours, source, named) == weight_format
        torch.testing.assert_close(logits(ours), wanted)
    other = both()[kind != "alone"]
    archloom.load_weights(other, ours.state_dict())
    if weight_format in ("archloom", "lukemelas", "timm_tf"):  # of the release's own behaviour
        torch.testing.assert_close(logits(other), wanted)


@pytest.mark.parametrize("kind", ["assembled", "alone"])
def test_keys_that_two_networks_share_are_asked_about_and_never_guessed(kind, tmp_path):
    theirs = both()[1]
    theirs.set_behaviour(padding="symmetric", epsilon=1e-5, momentum=0.9)
    ours = both()[kind == "alone"]
    before = snapshot(ours)
    state = export_state(theirs, "timm")
    for source in (state, {"state_dict": {f"model.{key}": value for key, value in state.items()}}):
        with pytest.raises(WeightsError, match=r"'timm_tf' \(.*SAME.*\) or 'timm' \(.*symmetric"):
            archloom.load_weights(ours, source)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    loaded = archloom.load_weights(ours, state, "timm")
    assert loaded.options == {
        "padding": "symmetric",
        "batch_norm_epsilon": 1e-5,
        "batch_norm_momentum": 0.9,
    }
    torch.testing.assert_close(logits(ours), logits(theirs))
    with pytest.raises(WeightsError, match="timm_tf"):  # asked again: nobody has said it since
        archloom.load_weights(ours, state)


def test_a_header_of_ours_speaks_for_the_networks_own_format_too(tmp_path):
    model, theirs = both()
    theirs.set_behaviour(padding="symmetric", epsilon=0.02, momentum=0.8)
    path = save(theirs, tmp_path / "w.safetensors")
    assert archloom.load_weights(model, path) == "archloom"
    torch.testing.assert_close(logits(model), logits(theirs))
    assert model.backbone.stem.bn.momentum == pytest.approx(0.2)
    save_file(model.state_dict(), tmp_path / "m.safetensors", header_of(model))
    again = both()[1]
    archloom.load_weights(again, tmp_path / "m.safetensors")
    assert again.config == theirs.config
    torch.testing.assert_close(logits(again), logits(theirs))
    save_file(
        model.state_dict(), tmp_path / "odd.safetensors", {**header_of(model), "archloom.padding": "odd"}
    )
    before = snapshot(again)
    with pytest.raises(WeightsError, match=r"header that cannot be understood.*'odd'"):
        archloom.load_weights(again, tmp_path / "odd.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in again.state_dict().items())


def test_whoever_asks_for_one_of_the_two_when_building_has_said_which(tmp_path):
    state = export_state(both()[1], "timm")
    symmetric = {"padding": "symmetric", "batch_norm_epsilon": 1e-5}
    ours = EfficientNet(both()[1].config.override(**symmetric))
    assert archloom.load_weights(ours, state) == "timm"


def test_the_features_alone_take_weights_and_leave_the_classifier_out():
    theirs = both()[1]
    features = both()[1].features
    loaded = archloom.load_weights(features, export_state(theirs, "lukemelas"))
    assert loaded.left_out == ("_fc.bias", "_fc.weight")
    with torch.no_grad():
        torch.testing.assert_close(features.eval()(IMAGE), theirs.eval().features(IMAGE))
