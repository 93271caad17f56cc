"""Retraining: recipes from files, teachers by name, observers, and what a refusal leaves behind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import archloom
from archloom.cli import app
from archloom.errors import ArchloomError, ConfigError, TaskError
from archloom.plugins import Host
from archloom.retraining import evaluate, retrain
from archloom.run import load_checkpoint
from archloom.source import choose

MODEL = {
    "model": {
        "backbone": {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4},
        "neck": "GlobalAveragePooling",
        "head": "LinearClsHead",
    },
    "task": {"type": "digits", "train_size": 96},
    "recipe": {"type": "default", "epochs": 1, "batch_size": 32},
}


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


@pytest.fixture
def net(tmp_path) -> Path:
    return written(tmp_path / "net.yaml", MODEL)


def written(path: Path, data: object) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


# -- recipes from files -------------------------------------------------------------------------------------


def test_a_recipe_file_sets_fields_over_those_of_its_base(host, net, tmp_path):
    file = written(tmp_path / "mine.yaml", {"base": "imagenet_sgd", "lr": 0.02, "randaugment": [2, 7]})
    recipe = choose(net, host, recipe=str(file), overrides=["recipe.epochs=5", "recipe.ema=0.9"]).recipe
    assert (recipe.schedule, recipe.lr, recipe.randaugment) == ("step", 0.02, (2, 7))
    assert (recipe.epochs, recipe.ema) == (5, 0.9)


def test_a_recipe_file_without_a_base_starts_from_the_default(host, net, tmp_path):
    recipe = choose(net, host, recipe=str(written(tmp_path / "mine.yaml", {"epochs": 4}))).recipe
    assert (recipe.epochs, recipe.schedule) == (4, "cosine")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3}, "no option 'epoch'; did you mean 'epochs'"),
        ({"base": "imagenet_sdg"}, "did you mean 'imagenet_sgd'"),
        ({"type": "default"}, "'base', not 'type'"),
        ({"optimizer": "sdg"}, "option 'optimizer' = 'sdg'"),
        ([1], "must be a mapping"),
        ({"ema": 2}, "ema must lie between 0 and 1"),
    ],
    ids=str,
)
def test_a_wrong_recipe_file_is_refused_with_the_nearest_right_word(host, net, tmp_path, content, told):
    with pytest.raises(ConfigError, match=told):
        choose(net, host, recipe=str(written(tmp_path / "mine.yaml", content)))


def test_a_recipe_file_that_is_not_there_is_named(host, net):
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.yaml"):
        choose(net, host, recipe="nowhere.yaml")


def test_the_command_line_takes_a_recipe_file_and_overrides(net, tmp_path):
    file = written(tmp_path / "mine.yaml", {"epochs": 2, "ema": 0.8, "mixup": 0.2, "batch_size": 32})
    out = tmp_path / "out"
    arguments = ["retrain", str(net), "--recipe", str(file), "--set", "recipe.lr=0.02", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    options = yaml.safe_load((out / "training.yaml").read_text())["options"]
    assert (options["epochs"], options["ema"], options["lr"]) == (2, 0.8, 0.02)


# -- what a training leaves ---------------------------------------------------------------------------------


def test_weights_are_the_averages_best_by_validation_and_the_last_raw_ones_stand_beside(host, net, tmp_path):
    out = tmp_path / "out"
    trained = retrain(net, out, host=host, overrides=["recipe.epochs=3", "recipe.ema=0.9"])
    best, last = load_checkpoint(out / "best.pt"), load_checkpoint(out / "training.pt")
    weights, raw = load_file(out / "weights.safetensors"), load_file(out / "weights-last.safetensors")
    assert all(value.equal(best["model"][key]) for key, value in weights.items())
    assert all(value.equal(last["model"][key]) for key, value in raw.items())
    assert any(not value.equal(raw[key]) for key, value in weights.items())
    with (out / "epochs.csv").open() as file:
        accuracies = [float(row["validation.accuracy"]) for row in csv.DictReader(file)]
    assert trained.metrics["validation.accuracy"] == max(accuracies)


def test_each_metric_of_each_epoch_is_a_scalar_of_tensorboard(host, net, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    retrain(net, tmp_path / "out", host=host, overrides=["recipe.epochs=2"])
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    with (tmp_path / "out" / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in set(rows[0]) - {"epoch"}:
        scalars = events.Scalars(f"final/retrain/{name}")
        assert [scalar.step for scalar in scalars] == [1, 2]
        assert [scalar.value for scalar in scalars] == pytest.approx([float(row[name]) for row in rows])


def test_an_interrupted_retraining_with_averages_and_mixing_goes_on_to_the_bit(host, net, tmp_path):
    overrides = [
        "recipe.epochs=3",
        "recipe.ema=0.9",
        "recipe.mixup=0.3",
        "recipe.accumulate=2",
        "recipe.randaugment=[1, 5]",
    ]

    def stop(event):
        if event["event"] == "epoch" and event["number"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(net, tmp_path / "halted", host=host, overrides=overrides, notify=stop)
    for folder in ("halted", "whole"):
        retrain(net, tmp_path / folder, host=host, overrides=overrides)
    halted, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("halted", "whole"))
    assert all(value.equal(halted[key]) for key, value in whole.items())


# -- teachers -----------------------------------------------------------------------------------------------


def test_any_source_with_weights_is_a_teacher(host, net, tmp_path):
    retrain(net, tmp_path / "teacher", host=host)
    taught = retrain(
        net, tmp_path / "taught", host=host, overrides=[f"recipe.teacher={tmp_path / 'teacher'}"], seed=1
    )
    alone = retrain(net, tmp_path / "alone", host=host, seed=1)
    first, second = (load_file(out.folder / "weights.safetensors") for out in (taught, alone))
    assert any(not value.equal(second[key]) for key, value in first.items())


def test_a_teacher_in_a_file_takes_its_weights_from_a_file(host, net, tmp_path):
    retrain(net, tmp_path / "teacher", host=host)
    weights = tmp_path / "teacher" / "weights.safetensors"
    overrides = [f"recipe.teacher={net}", f"recipe.teacher_weights={weights}"]
    assert retrain(net, tmp_path / "taught", host=host, overrides=overrides).metrics


def test_a_teacher_brings_the_plugin_files_that_stand_beside_it(net, tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text(
        "import archloom\nfrom torch import nn\n\n"
        "def tiny(in_channels: int, *, width: int = 6):\n    return nn.Conv2d(in_channels, width, 3)\n\n"
        "@archloom.hookimpl\ndef register_components(register):\n    register('backbone.tiny', tiny)\n"
    )
    mine = MODEL | {"model": {**MODEL["model"], "backbone": "tiny"}, "plugins": ["plugin.py"]}
    teacher = written(tmp_path / "teacher.yaml", mine)
    retrain(teacher, tmp_path / "teacher")
    taught = retrain(net, tmp_path / "taught", overrides=[f"recipe.teacher={tmp_path / 'teacher'}"])
    assert "test.accuracy" in taught.metrics


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["recipe.teacher=fbnet_a"], "has no weights beside it; name them with teacher_weights"),
        (["recipe.teacher=fbnet_aa"], "fbnet_a"),
        (["recipe.teacher=fbnet_a", "recipe.teacher_weights=no.safetensors"], "no weights file"),
        (["recipe.autoaugment=imagenet", "task.type=fake", "task.train_size=8"], "'fake' does not"),
    ],
)
def test_a_refused_training_leaves_nothing_behind(host, net, tmp_path, overrides, told):
    with pytest.raises(ArchloomError, match=told):
        retrain(net, tmp_path / "out", host=host, overrides=overrides)
    assert not (tmp_path / "out").exists()


def test_a_search_refuses_before_it_begins_what_its_verdict_could_not_train(host, tmp_path):
    config = {
        "space": {"type": "fbnet", "stages": [[8, 1, 1]], "head_width": 8, "in_channels": 3},
        "task": {"type": "fake", "size": 64, "test_size": 16},
        "strategy": "random",
        "objectives": ["macs"],
        "recipe": {"type": "default", "trivialaugment": True},
    }
    with pytest.raises(ConfigError, match="trivialaugment needs a task"):
        archloom.search(config, tmp_path / "run", host=host)
    assert not (tmp_path / "run").exists()


# -- images that are none -----------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path) -> Path:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (20, 24, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return tmp_path / "photos"


def imagefolder(net: Path, root: Path, *more: str) -> list[str]:
    task = ["task.root=" + str(root), "task.resolution=16", "task.workers=0", "task.validation=0.2"]
    return [*task, *more, "recipe.batch_size=8"]


def test_a_corrupt_image_is_named_and_the_folder_is_as_it_was(host, net, photographs, tmp_path):
    broken = photographs / "train" / "cats" / "3.png"
    broken.write_bytes(b"no image")
    section = written(tmp_path / "photos.yaml", {"model": MODEL["model"], "task": "imagefolder"})
    with pytest.raises(TaskError, match=rf"{broken} cannot be read.*on_corrupt: skip"):
        retrain(section, tmp_path / "out", host=host, overrides=imagefolder(net, photographs))
    assert not (tmp_path / "out").exists()
    skip = imagefolder(net, photographs, "task.on_corrupt=skip", "recipe.epochs=1", "recipe.erasing=0.3")
    with pytest.warns(UserWarning, match=rf"left out 1 images .*{broken}"):
        trained = retrain(section, tmp_path / "out", host=host, overrides=skip)
    assert "test.accuracy" in trained.metrics
    with pytest.warns(UserWarning, match="left out 1 images"):
        again = evaluate(trained.folder, host=host)
    assert again["accuracy"] == trained.metrics["test.accuracy"]


@pytest.mark.parametrize("policy", ["autoaugment=imagenet", "randaugment=[2, 9]", "trivialaugment=true"])
def test_photographs_are_trained_with_each_policy(host, net, photographs, tmp_path, policy):
    section = written(tmp_path / "photos.yaml", {"model": MODEL["model"], "task": "imagefolder"})
    overrides = imagefolder(net, photographs, f"recipe.{policy}", "recipe.epochs=1")
    assert "test.accuracy" in retrain(section, tmp_path / "out", host=host, overrides=overrides).metrics
