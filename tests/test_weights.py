"""One reader of weights for every door: what stands around a state dict, and files that are none."""

from __future__ import annotations

import argparse
import gzip
import json
import types
import warnings
import zipfile
from collections import OrderedDict

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import archloom
from archloom.errors import ConfigError, UnknownName, WeightsError
from archloom.run import save_checkpoint
from archloom.space import WeightFormat
from archloom.training.optimization import Averaged


class Net(nn.Module):
    """A network whose classifier is its last linear layer."""

    def __init__(self, in_channels=3, classes=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(in_channels, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.inner = nn.Linear(4, 4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.inner(self.bn(self.stem(x)).mean((2, 3))))


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def other():
    """Weights that differ from those of `Net()`."""
    return Net(seed=1).state_dict()


def prefixed(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


PREFIXES = [
    "module.",
    "module.module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model.",
    "net.encoder.",
    "module.model.",
    "fc.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_stands_before_every_key_is_taken_off(prefix, suffix, tmp_path):
    model, path = Net(), tmp_path / f"w.{suffix}"
    state = prefixed(prefix)(other())
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    assert archloom.load_weights(model, path) == "archloom"
    assert same(model, other())


def test_a_prefix_before_some_keys_alone_is_not_guessed_at():
    state = {**prefixed("model.")(other()), "criterion.weight": torch.ones(3)}
    with pytest.raises(WeightsError, match=r"first keys: model\.stem\.weight"):
        archloom.load_weights(Net(), state)
    mixed = {
        ("model." if number % 2 else "") + key: value for number, (key, value) in enumerate(other().items())
    }
    with pytest.raises(WeightsError, match=r"missing: .*unexpected: model\."):
        archloom.load_weights(Net(), mixed)


AVERAGES = ["state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"]


@pytest.mark.parametrize("key", AVERAGES)
@pytest.mark.parametrize("beside", ["state_dict", "model", "params"])
def test_the_averaged_weights_of_a_checkpoint_are_meant(key, beside):
    model = Net()
    archloom.load_weights(model, {beside: Net(seed=2).state_dict(), key: other(), "epoch": 3})
    assert same(model, other())


def test_averages_that_are_none_are_no_weights():
    model = Net()
    archloom.load_weights(model, {"state_dict": other(), "state_dict_ema": None, "ema": {"decay": 0.9}})
    assert same(model, other())


def test_what_pytorch_and_the_trainer_write_of_averages_is_read():
    torch.manual_seed(1)
    averaged = AveragedModel(Net(seed=1))
    model = Net()
    archloom.load_weights(model, averaged.state_dict())
    assert same(model, other())
    ours = Averaged(Net(seed=1), 0.9)
    model = Net()
    archloom.load_weights(model, {"model": Net(seed=2).state_dict(), "averaged": ours.state_dict()})
    assert same(model, other())


def test_our_own_checkpoints_are_read_and_damaged_ones_named(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": other(), "epoch": 3})
    model = Net()
    archloom.load_weights(model, path)
    assert same(model, other())
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"best\.pt.*checksum"):
        archloom.load_weights(model, path)


def test_a_wrapped_network_takes_plain_weights():
    for wrap in (torch.compile, nn.DataParallel):
        model = Net()
        archloom.load_weights(wrap(model), other())
        assert same(model, other())


def test_options_and_numbers_beside_the_weights_are_data(tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, data="x"),
        "best": numpy.float64(0.5),
        "epoch": numpy.int64(3),
        "opt": OrderedDict(a=1),
    }
    torch.save({"state_dict": other(), **beside}, tmp_path / "w.pth")
    torch.save({"state_dict": other(), **beside}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.pth", "old.pth"):
        model = Net()
        archloom.load_weights(model, tmp_path / name)
        assert same(model, other())
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_the_content_decides_and_not_the_name(tmp_path):
    save_file(other(), tmp_path / "w.bin")
    torch.save(other(), tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        model = Net()
        archloom.load_weights(model, tmp_path / name)
        assert same(model, other())


class Code:
    def __reduce__(self):
        return print, ("executed",)


def scripted(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")


WRONG = {
    "web page": (
        lambda p: p.write_text("\n<!DOCTYPE html><html>not found</html>"),
        "web page.*fetch the file",
    ),
    "pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "json": (lambda p: p.write_text(json.dumps({"error": "gone"})), "is JSON"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"weights" * 9)), "gzip: unpack"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 9), "Known are .safetensors"),
    "short": (
        lambda p: (torch.save(other(), p), p.write_bytes(p.read_bytes()[:900])),
        "cut short or damaged",
    ),
    "folder": (lambda p: p.mkdir(), "is a folder; name the file"),
    "script": (scripted, "TorchScript module, which is code"),
    "zip": (archive, "zip archive without a state dict"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "HDF5"),
    "numpy": (lambda p: numpy.save(p.open("wb"), numpy.ones(3)), "NumPy array"),
    "code": (
        lambda p: torch.save({"state_dict": other(), "x": Code()}, p),
        r"run code .*print.*write its tensors",
    ),
    "list": (lambda p: torch.save([1, 2], p), "holds a list, not a state dict"),
    "module": (lambda p: torch.save(nn.Linear(2, 2), p), r"run code .*Linear.*model\.state_dict\(\)"),
    "safetensors": (
        lambda p: (save_file(other(), p), p.write_bytes(p.read_bytes()[:-9])),
        "damaged|cut short",
    ),
}


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_holds_no_weights_gets_one_sentence_with_the_way_out(what, tmp_path, capsys):
    make, told = WRONG[what]
    path, model = tmp_path / "file.pth", Net()
    make(path)
    with pytest.raises(WeightsError, match=told) as caught:
        archloom.load_weights(model, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message
    assert len(message) < 600
    assert same(model, Net().state_dict())
    assert "executed" not in capsys.readouterr().out


def test_tensors_that_are_none_and_names_that_are_none_are_refused():
    for odd in ({0: torch.ones(1)}, {("a",): torch.ones(1)}):
        with pytest.raises(WeightsError, match="is no name of a tensor"):
            archloom.load_weights(Net(), {**other(), **odd})
    with pytest.raises(WeightsError, match="first keys: none"):
        archloom.load_weights(Net(), {})


# -- all but the classifier -----------------------------------------------------------------------------


def test_all_but_the_classifier_is_loaded_on_request_and_what_was_left_out_is_listed(caplog):
    model = Net(classes=9)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"fc\.weight is 4x4, not 9x4.*classifier='reset'"):
        archloom.load_weights(model, other())
    assert same(model, kept)
    loaded = archloom.load_weights(model, other(), classifier="reset")
    assert loaded == "archloom"
    assert loaded.left_out == ("fc.weight", "fc.bias")
    assert "fc.weight, fc.bias kept as they are" in caplog.text
    expected = {**other(), "fc.weight": kept["fc.weight"], "fc.bias": kept["fc.bias"]}
    assert same(model, expected)
    without = {key: value for key, value in other().items() if not key.startswith("fc.")}
    archloom.load_weights(Net(), without, classifier="reset")
    with pytest.raises(ConfigError, match="'load' or 'reset'"):
        archloom.load_weights(model, other(), classifier="drop")


def test_a_network_of_the_framework_has_its_classifier_in_its_head():
    model, more = archloom.build("cream_14", num_classes=3), archloom.build("cream_14", num_classes=5, seed=1)
    before = model.head.fc.weight.clone()
    loaded = archloom.load_weights(model, more.state_dict(), classifier="reset")
    assert loaded.left_out == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(model.head.fc.weight, before)
    assert torch.equal(model.head.conv.weight, more.head.conv.weight)


# -- images of other channels, counts ---------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_first_convolution_for_colour_is_fitted_to_other_images_and_said(channels, caplog):
    model = Net(in_channels=channels)
    loaded = archloom.load_weights(model, other())
    weight, theirs = model.stem.weight.detach(), other()["stem.weight"]
    assert "the stem's three input channels" in loaded.notes[0]
    assert "the stem's three input channels" in caplog.text
    if channels == 1:
        wanted = theirs.sum(1, keepdim=True)
    else:
        wanted = torch.stack([theirs[:, number % 3] * 3 / channels for number in range(channels)], dim=1)
    torch.testing.assert_close(weight, wanted)


def test_batches_that_were_not_counted_start_at_zero():
    model = Net()
    model.train()(torch.randn(2, 3, 5, 5))
    state = {key: value for key, value in other().items() if not key.endswith("num_batches_tracked")}
    archloom.load_weights(model, state)
    assert model.bn.num_batches_tracked == 0


# -- formats ---------------------------------------------------------------------------------------------------


def with_formats():
    model, adopted = Net(), []

    def entry(name):
        def adopt(network, header):
            adopted.append((name, dict(header)))
            return {"kind": name}

        return WeightFormat(name, lambda key: f"their_{key}", adopt=adopt, about=f"of {name}")

    model.weight_formats = (entry("one"), entry("two"))
    return model, adopted


def test_formats_that_share_their_keys_are_told_apart_by_the_header_or_by_the_user(tmp_path):
    state = prefixed("their_")(other())
    model, adopted = with_formats()
    with pytest.raises(WeightsError, match=r"weight_format='one' \(of one\) or 'two' \(of two\)"):
        archloom.load_weights(model, state)
    assert not adopted
    assert same(model, Net().state_dict())
    assert archloom.load_weights(model, state, "two").options == {"kind": "two"}
    header = {"archloom.weight_format": "one", "archloom.padding": "x"}
    save_file(state, tmp_path / "w.safetensors", header)
    assert archloom.load_weights(model, tmp_path / "w.safetensors") == "one"
    archloom.load_weights(model, tmp_path / "w.safetensors", "two")
    assert adopted == [("two", {}), ("one", header), ("two", {})]
    with pytest.raises(UnknownName, match="did you mean 'two'"):
        archloom.load_weights(model, state, "tow")


def test_a_format_that_refuses_changes_nothing():
    model, _ = with_formats()

    def refuse(network, header):
        raise WeightsError("no")

    model.weight_formats = (WeightFormat("one", lambda key: f"their_{key}", adopt=refuse),)
    with pytest.raises(WeightsError, match="no"):
        archloom.load_weights(model, prefixed("their_")(other()))
    assert same(model, Net().state_dict())


def test_a_module_in_memory_that_looks_like_a_checkpoint_is_read_like_one():
    model = Net()
    archloom.load_weights(model, types.MappingProxyType({"state_dict": OrderedDict(other())}))
    assert same(model, other())


def test_a_file_can_be_named_together_with_its_format(tmp_path):
    torch.save(prefixed("their_")(other()), tmp_path / "w.pt")
    model, adopted = with_formats()
    assert archloom.load_weights(model, f"two:{tmp_path / 'w.pt'}") == "two"
    assert [name for name, _ in adopted] == ["two"]
    with pytest.raises(WeightsError, match="there is no weights file two:gone"):
        archloom.load_weights(model, "two:gone.pt")
