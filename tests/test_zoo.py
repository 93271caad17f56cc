from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import archloom
from archloom.errors import ConfigError, SpaceError, UnknownName, WeightsError
from archloom.zoo import architecture_document
from toys import config, host, state_of

BLOCKS = {"type": "blocks", "width": 6}
DECISIONS = {"layer0": "k1", "layer1": "k3"}


def document(**changes):
    made = architecture_document(
        BLOCKS,
        archloom.Architecture(DECISIONS),
        shape=(1, 8, 8),
        classes=("a", "b", "c"),
        model={"head": {"type": "LinearHead", "dropout": 0.1}},
    )
    return {**made, **changes}


@pytest.fixture
def model():
    return archloom.build(document(), host=host())


# -- build ------------------------------------------------------------------------------------------------


def test_a_network_is_built_by_name_with_as_many_classes_as_asked():
    model = archloom.build("fbnet_a", num_classes=7)
    assert model.head.fc.out_features == 7
    assert archloom.build("fbnet_a").head.fc.out_features == 1000


def test_a_network_is_built_from_a_document_a_file_or_a_run_folder(tmp_path, model):
    (tmp_path / "architecture.json").write_text(json.dumps(document()))
    for source in (tmp_path / "architecture.json", tmp_path, str(tmp_path)):
        built = archloom.build(source, host=host())
        assert all(torch.equal(v, built.state_dict()[k]) for k, v in model.state_dict().items())
    assert model.head.fc.out_features == 3
    assert model.head.dropout.p == 0.1
    assert model.backbone.stem.out_channels == 6


def test_a_found_network_can_be_built_from_its_run(tmp_path):
    given = config(space="blocks", estimators=["params", "macs"], objectives=["macs"], budget={"trials": 2})
    result = archloom.search(given, tmp_path, host=host())
    model = archloom.build(tmp_path, host=host())
    best = max(result.trials, key=lambda trial: trial.score)
    assert archloom.count(model, (1, 8, 8)).macs == best.metrics["macs"]


def test_weights_are_drawn_from_the_seed():
    first, second, other = (archloom.build(document(), seed=s, host=host()).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, ConfigError, "is no architecture file of archloom"),
        ({"space": {"type": "blokcs"}}, UnknownName, r"unknown space 'blokcs'; did you mean 'blocks'\?"),
        (
            {"space": {"type": "blocks", "wdith": 1}},
            ConfigError,
            "has no option 'wdith'; did you mean 'width'",
        ),
        ({"space": {}}, ConfigError, "lacks 'type'"),
        ({"space": 5}, ConfigError, "is damaged"),
        ({"architecture": {"layer0": "k1"}}, SpaceError, r"lacks \['layer1'\]"),
        (
            {"architecture": {"layer0": "k1", "layer1": "k33"}},
            SpaceError,
            r"no option 'k33'; did you mean 'k3'\?",
        ),
        ({"architecture": [1]}, SpaceError, "is a dictionary"),
        ({"model": {"hed": 1}}, ConfigError, "is damaged: .*hed"),
        ({"shape": None}, ConfigError, "is damaged"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_what_is_wrong(tmp_path, change, error, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document(**change)))
    with pytest.raises(error, match=message):
        archloom.build(path, host=host())


@pytest.mark.parametrize("missing", ["space", "architecture", "shape", "classes", "model"])
def test_a_file_that_lacks_something_names_it(missing):
    cut = {key: value for key, value in document().items() if key != missing}
    with pytest.raises(ConfigError, match=f"lacks '{missing}'"):
        archloom.build(cut, host=host())


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(
        UnknownName,
        match=r"unknown architecture 'fbnet_aa'; did you mean 'fbnet_a'\?.*no file or folder of that name",
    ):
        archloom.build("fbnet_aa")
    with pytest.raises(ConfigError, match="there is no architecture file"):
        archloom.build(tmp_path / "gone.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot read the architecture .*text\.json"):
        archloom.build(tmp_path / "text.json")
    with pytest.raises(ConfigError, match="bogus"):
        archloom.build("fbnet_a", bogus=1)


# -- weights ------------------------------------------------------------------------------------------------


def moved(model):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state_of(model).items()}


LAYOUTS = {
    "plain": lambda state: state,
    "under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "under model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "of a data-parallel wrapper": lambda state: {f"module.{k}": v for k, v in state.items()},
    "wrapped and under state_dict": lambda state: {
        "state_dict": {f"module.{k}": v for k, v in state.items()}
    },
    "averaged": lambda state: {
        "state_dict_ema": state,
        "state_dict": {k: torch.zeros_like(v) for k, v in state.items()},
    },
    "averaged and wrapped": lambda state: {"state_dict_ema": {f"module.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_in_whatever_wrapping(tmp_path, model, layout):
    wanted = moved(model)
    torch.save(LAYOUTS[layout](wanted), tmp_path / "w.pt")
    assert archloom.load_weights(model, tmp_path / "w.pt") == "archloom"
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_weights_are_read_from_safetensors(tmp_path, model):
    wanted = moved(model)
    save_file(wanted, tmp_path / "w.safetensors")
    archloom.load_weights(model, str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("head.fc.bias"),
            r"do not fit the model. missing: head\.fc\.bias\. To load all but the classifier, say classifier='reset'$",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra$"),
        (lambda s: s.update({"head.fc.bias": torch.ones(4)}), r"wrongly shaped: head\.fc\.bias is 4, not 3"),
        (lambda s: s.update({"head.fc.bias": "text"}), r"wrongly shaped: head\.fc\.bias is str, not 3"),
        (lambda s: [s.pop(k) for k in list(s) if "body" in k], r"missing: .*, .* and \d+ more"),
        (lambda s: s.update({0: torch.ones(1)}), "no state dict: 0 is no name of a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key_and_nothing_changes(model, change, message):
    before, state = state_of(model), moved(model)
    change(state)
    with pytest.raises(WeightsError, match=message):
        archloom.load_weights(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_file_with_code_is_refused_and_not_executed(tmp_path, model):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(WeightsError, match=r"cannot read the weights .*tensors alone"):
            archloom.load_weights(model, tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["gone.pt", "noise.pt", "noise.safetensors", "list.pt"])
def test_files_that_hold_no_weights_are_refused(tmp_path, model, name):
    (tmp_path / "noise.pt").write_bytes(b"noise" * 9)
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 9)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"there is no weights file|cannot read the weights|holds a list"):
        archloom.load_weights(model, tmp_path / name)


def test_the_references_weights_of_a_published_network_are_known_by_their_format():
    model = archloom.build("fbnet_a", num_classes=3, reference=True)
    (theirs,) = [f for f in model.weight_formats if f.name == "fbnet-reference"]
    wanted = moved(model)
    state = {theirs.theirs(key): value for key, value in wanted.items() if theirs.theirs(key) is not None}
    assert archloom.load_weights(model, {"state_dict": state}) == "fbnet-reference"
    assert torch.equal(model.state_dict()["head.fc.bias"], wanted["head.fc.bias"])


def test_a_searchs_result_its_trials_and_their_architectures_are_built_as_the_folder_is(tmp_path):
    given = config(space="blocks", estimators=["params", "macs"], objectives=["macs"], budget={"trials": 2})
    result = archloom.search(given, tmp_path, host=host())
    wanted = archloom.build(tmp_path, host=host()).state_dict()
    for found in (result, result.architecture, pickle.loads(pickle.dumps(result)).architecture):
        built = archloom.build(found, host=host()).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in built.items())
    for trial in result.trials:
        cost = archloom.count(archloom.build(trial.architecture, host=host()), (1, 8, 8))
        assert cost.macs == trial.metrics["macs"]
        assert archloom.count(archloom.build(trial, host=host()), (1, 8, 8)) == cost
    assert result.architecture == archloom.Architecture(dict(result.architecture))
    with pytest.raises(ConfigError, match="an architecture alone does not say of which space it is"):
        archloom.build(archloom.Architecture(dict(result.architecture)), host=host())
    with pytest.raises(ConfigError, match=r"left a front.*result\.front\[0\]"):
        archloom.build(replace(result, architecture=None), host=host())
    with pytest.raises(ConfigError, match="not int"):
        archloom.build(5, host=host())
