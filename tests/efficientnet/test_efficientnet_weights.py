"""Files: all that fits or nothing at all, and every choice said aloud."""

import logging
import sys
import types

import pytest
import torch
from safetensors import safe_open

from archloom.errors import ConfigError, UnknownName, WeightsError
from archloom_efficientnet import EfficientNet, export_state, load, save
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
    with pytest.raises(
        WeightsError, match=r"classifier.weight is \(7, 320\).*\(5, 320\).*classifier='reset'"
    ):
        EfficientNet.from_pretrained("efficientnet-b0", path, num_classes=5, **SMALL)
    again = EfficientNet.from_pretrained("efficientnet-b0", path, num_classes=5, classifier="reset", **SMALL)
    assert "a fresh one" in caplog.text
    assert logits(again).shape == (2, 5)
    with torch.no_grad():
        assert torch.equal(again.extract_features(IMAGE), model.extract_features(IMAGE))
    with pytest.raises(ConfigError, match=r"'load' or 'reset'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, classifier="random", **SMALL)


def test_without_a_top_a_full_file_loads_all_but_the_classifier_and_says_so(tmp_path, caplog):
    model = small()
    path = save(model, tmp_path / "w.pth", "lukemelas")
    again = EfficientNet.from_pretrained("efficientnet-b0", path, include_top=False, **SMALL)
    assert "classifier.weight, classifier.bias" in caplog.text
    with torch.no_grad():
        assert torch.equal(again.eval().extract_features(IMAGE), model.extract_features(IMAGE))
    loaded = load(small(1, include_top=False), model.state_dict())
    assert loaded.left_out == ("classifier.weight", "classifier.bias")


def test_a_file_without_a_classifier_is_refused_unless_a_fresh_one_is_asked_for(tmp_path):
    path = save(small(include_top=False), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lacks classifier.weight, classifier.bias.*classifier='reset'"):
        EfficientNet.from_pretrained("efficientnet-b0", path, **SMALL)
    model = EfficientNet.from_pretrained("efficientnet-b0", path, classifier="reset", num_classes=3, **SMALL)
    assert logits(model).shape == (2, 3)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s: s.pop("_blocks.1._bn1.running_var"), "lacks features.stages.1.0.depthwise.bn.running_var"),
        (lambda s: s.update({"_blocks.99._bn1.bias": torch.zeros(1)}), "unknown _blocks.99._bn1.bias"),
        (
            lambda s: s.update({"_conv_head.weight": torch.zeros(3, 3, 1, 1)}),
            r"head.conv.weight is \(3, 3, 1, 1\)",
        ),
        (lambda s: s.update({"_fc.bias": "no tensor"}), "something other than tensors: _fc.bias"),
    ],
)
def test_a_wrong_file_changes_nothing_and_names_the_keys(spoil, named):
    state = export_state(small(), "lukemelas")
    spoil(state)
    model = small(1, padding="symmetric")
    before, config = snapshot(model), model.config
    with pytest.raises(WeightsError, match=f"{named}.*Nothing was loaded"):
        load(model, state)
    assert unchanged(model, before, config)


def test_files_that_are_no_weights_are_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    model = small()
    with pytest.raises(WeightsError, match=r"there is no weights file"):
        load(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"x": Code()}, tmp_path / "code.pth")
    torch.save([1], tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors", "code.pth"):
        with pytest.raises(WeightsError, match=r"cannot be read as weights"):
            load(model, tmp_path / name)
    with pytest.raises(WeightsError, match=r"holds a list"):
        load(model, tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"in none of the formats.*a, b"):
        load(model, {"a": torch.zeros(1), "b": torch.zeros(1)})
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
    load(again, {"state_dict": state, "epoch": 3})
    assert torch.equal(logits(again), logits(model))


def test_a_stem_that_is_neither_three_channels_nor_the_models_is_refused():
    state = small(in_channels=5).state_dict()
    load(small(1, in_channels=5), state)
    with pytest.raises(WeightsError, match=r"Only a stem of 3 input channels"):
        load(small(1, in_channels=4), state)


def test_an_adapted_stem_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        load(small(1, in_channels=1), small().state_dict())
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
