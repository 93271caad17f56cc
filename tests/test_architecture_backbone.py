"""A search space's network as a backbone: inner maps, weights of a file, frozen parts."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from archloom.assembly import build_model
from archloom.errors import ConfigError, WeightsError
from archloom.plugins import Host
from archloom.zoo import architecture_document
from archloom_fbnet import FBNetSpace

HOST = Host()
OPTIONS = {"stages": [[8, 2, 2], [16, 1, 2]], "head_width": 24, "in_channels": 3}
SPACE = FBNetSpace(**OPTIONS)
FOUND = SPACE.architecture(["ir_k3_e3", "ir_k5_e1", "ir_k3_e6"])
DOCUMENT = architecture_document(
    {"type": "fbnet", **OPTIONS}, FOUND, shape=(3, 32, 32), classes=("a",), model={}
)


class Pictures:
    name, shape, classes = "pictures", (3, 32, 32), ("a", "b", "c")


def built(head="LinearClsHead", **options):
    backbone = {"type": "architecture", "document": DOCUMENT, **options}
    return build_model({"backbone": backbone, "head": head}, Pictures(), HOST, seed=3)


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_inner_maps_are_the_last_at_each_resolution():
    plain, several = built().eval(), built(out_indices=[0, 1, -1]).eval()
    assert torch.equal(next(plain.parameters()), next(several.parameters()))  # the same seed
    with torch.no_grad():
        maps = several.backbone(X)
        whole = plain.backbone(X)
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 16), (8, 8), (4, 4)]
    assert torch.equal(maps[-1], whole)
    seen = {}
    for name in ("stem", "body.layer1"):
        part = plain.backbone.get_submodule(name)
        part.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.clone()}))
    with torch.no_grad():
        plain(X)
    assert torch.equal(maps[0], seen["stem"])
    assert torch.equal(maps[1], seen["body.layer1"])
    single = built(out_indices=1).eval()
    with torch.no_grad():
        assert torch.equal(single.backbone(X), maps[1])
    assert not [name for name in single.backbone.steps if name == "tail"]
    assert several.head.in_channels == 24
    assert several(X).shape == (2, 3)


@pytest.mark.parametrize("options", [{}, {"out_indices": [0, -1]}])
def test_frozen_parts_keep_weights_and_statistics_while_the_rest_trains(options):
    model = built(frozen=["stem", "body.layer0"], **options)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.train()
        model.loss(model(X), torch.tensor([0, 1])).backward()
        optimizer.step()
    frozen = [key for key in before if ".stem." in key or ".layer0." in key]
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert frozen
    assert not set(frozen) & set(moved)
    assert {key.split(".")[0] for key in moved} == {"backbone", "head"}
    assert any("layer1" in key and "running_mean" in key for key in moved)
    assert model.training
    assert all(not model.get_submodule(name).training for name in model.frozen)
    copied = copy.deepcopy(model).train()
    assert not copied.get_submodule(model.frozen[0]).training


def other_head(tmp_path):
    """A trained network's file, of other classes and another head, and its backbone's values."""
    model = built({"type": "HiddenClsHead", "hidden": 7})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5)
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    inside = {key.removeprefix("backbone."): v for key, v in model.state_dict().items() if "backbone." in key}
    return tmp_path / "whole.safetensors", inside


def test_weights_of_a_whole_network_or_of_the_backbone_alone_are_loaded(tmp_path):
    file, inside = other_head(tmp_path)
    save_file({f"backbone.{key}": value for key, value in inside.items()}, tmp_path / "own.safetensors")
    for options in ({}, {"out_indices": [0, -1]}):
        for path in (file, tmp_path / "own.safetensors"):
            network = built(weights=str(path), **options).backbone
            network = getattr(network, "network", network)
            assert all(torch.equal(value, inside[key]) for key, value in network.state_dict().items())
    fresh, loaded = built(), built(weights=str(file))
    assert torch.equal(fresh.head.fc.weight, loaded.head.fc.weight)


def test_weights_in_another_implementations_names_are_loaded(tmp_path):
    section = {"backbone": {"type": "architecture", "name": "fbnet_96_035_1"}, "head": "LinearClsHead"}
    model = build_model(section, Pictures(), HOST, seed=1)
    (known,) = model.weight_formats
    assert known.theirs("backbone.stem.conv.weight") == "first.conv.weight"
    named = ((known.theirs(key), value) for key, value in model.state_dict().items() if "backbone." in key)
    state = {key: value for key, value in named if key is not None}
    state["head.weight"] = torch.zeros(1000, 5)
    torch.save(state, tmp_path / "theirs.pt")
    section["backbone"]["weights"] = str(tmp_path / "theirs.pt")
    again = build_model(section, Pictures(), HOST, seed=2)
    assert torch.equal(again.backbone.stem.conv.weight, model.backbone.stem.conv.weight)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"out_indices": [0, 7]}, ConfigError, r"out_indices are of 0\.\.2, or from the end, not \[0, 7\]"),
        ({"out_indices": []}, ConfigError, r"out_indices are of 0\.\.2"),
        ({"out_indices": "all"}, ConfigError, "out_indices is a position or a list of them, not 'all'"),
        ({"out_indices": True}, ConfigError, "out_indices is a position"),
        ({"frozen": ["sten"]}, ConfigError, "has no submodule 'sten' to freeze; did you mean 'stem'"),
        ({"frozen": "stem"}, ConfigError, "frozen is a list of submodules' names, not 'stem'"),
        ({"weights": "nowhere.pt"}, WeightsError, "no weights file nowhere.pt"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        built(**options)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(nn.Conv2d(3, 4, 1).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="do not fit the model"):
        built(weights=str(tmp_path / "other.safetensors"))
