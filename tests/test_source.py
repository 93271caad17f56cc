"""What a source means: a run, a trained folder, a file of an architecture or a model, a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import archloom
from archloom.errors import ArchloomError, ConfigError
from archloom.plugins import Host
from archloom.retraining import evaluate, retrain
from archloom.source import choose, open_source, plugins_beside

MODEL = {
    "model": {
        "backbone": {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 8},
        "neck": "GlobalAveragePooling",
        "head": "LinearClsHead",
    }
}
QUICK = {"task": {"type": "digits", "train_size": 200}, "recipe": {"type": "default", "epochs": 1}}


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


def written(folder: Path, data: object, name: str = "net.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_name_is_a_network_of_1000_classes_that_any_file_can_hold(host, tmp_path):
    source = open_source("fbnet_a", host)
    again = open_source(source.write(tmp_path), host)
    assert source.classes is None
    assert source.document["space"]["type"] == "fbnet"
    with torch.device("meta"):
        a, b = source.build(), again.build(1000)
    assert [p.shape for p in a.parameters()] == [p.shape for p in b.parameters()]


def test_a_model_section_is_a_network_for_a_task(host, tmp_path):
    path = written(tmp_path, MODEL | QUICK)
    source = open_source(path, host)
    assert source.shape == (1, 8, 8)
    assert source.build()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert choose(path, host, overrides=["recipe.epochs=3"]).recipe.epochs == 3


def test_a_model_section_that_names_no_task_asks_for_one(host, tmp_path):
    with pytest.raises(ConfigError, match=r"which task\?"):
        open_source(written(tmp_path, MODEL), host)


def test_a_trained_folder_can_be_moved_and_is_a_source_itself(host, tmp_path):
    path = written(tmp_path, MODEL | QUICK)
    trained = retrain(path, tmp_path / "trained", host=host)
    path.unlink()
    moved = (tmp_path / "trained").rename(tmp_path / "moved")
    metrics = evaluate(moved, host=host)
    assert metrics["accuracy"] == trained.metrics["test.accuracy"]
    assert open_source(moved, host).weights == moved / "weights.safetensors"


def test_a_backbone_from_a_file_is_taken_in_so_that_the_document_stands_alone(host, tmp_path):
    open_source("fbnet_b", host).write(tmp_path)
    section = {"backbone": {"type": "architecture", "path": str(tmp_path / "architecture.json")}}
    path = written(tmp_path, {"model": section, "shape": [3, 64, 64], "classes": ["cat", "dog"]})
    source = open_source(path, host)
    (tmp_path / "architecture.json").unlink()
    copy = open_source(source.write(tmp_path), host)
    assert copy.classes == ("cat", "dog")
    assert copy.build(seed=3)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_a_network_that_takes_other_channels_than_the_task_has_is_refused(host):
    task = choose("fbnet_a", host, task="digits").task
    with pytest.raises(ConfigError, match=r"fbnet_a takes 3 channels, the images of task 'digits' have 1"):
        open_source("fbnet_a", host, task=task)


def test_plugin_files_are_relative_to_the_file_that_names_them(tmp_path):
    path = written(tmp_path, MODEL | {"plugins": ["my_parts.py"]})
    (tmp_path / "my_parts.py").touch()
    assert plugins_beside(path) == [str(tmp_path / "my_parts.py")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1, 2]", "must be a mapping"),
        ("model: {backbone: [}", "is not YAML"),
        ("model: {backbone: no_such}\ntask: digits", "no_such"),
        ("model: {backbone: ResNet_CIFAR}\nshape: [3, 0, 8]\nclasses: [a, b]", "channels, height, width"),
        ("model: {backbone: ResNet_CIFAR}\nshape: [3, 8]\nclasses: [a, b]", "cannot take"),
        (
            "model: {backbone: ResNet_CIFAR}\nshape: [3, 8, 8]\nclasses: []\noutputs: [0]",
            "shape of one output",
        ),
        ("model: {bakbone: ResNet_CIFAR}\ntask: digits", "backbone"),
    ],
)
def test_a_wrong_model_file_is_refused_with_what_is_wrong(host, tmp_path, content, told):
    path = tmp_path / "net.yaml"
    path.write_text(content)
    with pytest.raises(ArchloomError, match=told.replace("[", r"\[")):
        open_source(path, host).build()


def test_a_folder_in_which_nothing_was_found_is_refused(host, tmp_path):
    with pytest.raises(ConfigError, match=r"neither architecture\.json nor model\.yaml"):
        open_source(tmp_path, host)


def test_a_training_is_gone_on_with_only_by_the_same_training(host, tmp_path):
    path = written(tmp_path, MODEL | QUICK)
    retrain(path, tmp_path / "out", host=host)
    with pytest.raises(archloom.errors.RunError, match=r"holds another training.*recipe: then .*, now "):
        retrain(path, tmp_path / "out", host=host, overrides=["recipe.epochs=2"])


def test_the_document_is_plain_data(host, tmp_path):
    json.dumps(dict(open_source("fbnet_c", host).document))
