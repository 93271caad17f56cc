"""Batches of one image and maps of one pixel: refused before anything is trained, written or left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import archloom
from archloom.architecture import Architecture
from archloom.errors import ConfigError
from archloom.model import Model
from archloom.training import Recipe, check_single_images, train
from toys import host


class Some:
    """`images` images of each split."""

    name, shape, classes = "some", (1, 4, 4), ("a", "b")

    def __init__(self, images):
        self.images = images

    def dataset(self, *splits, augment=False, resolution=None):
        count = self.images if len(splits) == 2 else 4
        return TensorDataset(torch.randn(count, 1, 4, 4), torch.arange(count) % 2)


def network(stride, norm=nn.BatchNorm2d):
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3, stride, 1), norm(4))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Model(backbone, nn.Identity(), head, nn.CrossEntropyLoss())


def test_a_batch_of_one_image_and_a_map_of_one_pixel_are_refused_at_once_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe\.batch_size = 1 must be at least 2"):
        train(network(4), Some(6), Recipe(epochs=1, batch_size=1), seed=0, folder=tmp_path)
    with pytest.raises(
        ConfigError, match="the weights and architecture split must have 2 images or more, not 1"
    ):
        train(network(4), Some(1), Recipe(epochs=1, batch_size=8), seed=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "images", "batch_size"),
    [
        (network(2), 3, 1),  # maps of two by two pixels
        (network(4, lambda channels: nn.GroupNorm(2, channels)), 3, 1),
        (network(4), 9, 8),  # the last batch, of one image, is left out
    ],
)
def test_single_images_train_where_there_is_a_variance(model, images, batch_size):
    (epoch,) = train(model, Some(images), Recipe(epochs=1, batch_size=batch_size), seed=0)
    assert epoch.number == 1


def test_the_check_changes_neither_the_network_nor_any_generator():
    model = network(2).eval()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    check_single_images(model, (1, 4, 4), "")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training


def config(**changes):
    stages = [[8, 1, 2], [8, 1, 2], [8, 1, 2]]  # 8 pixels become one
    space = {"type": "fbnet", "form": "small", "in_channels": 1, "stages": stages, "head_width": 8}
    return {
        "space": space,
        "task": {"type": "digits", "train_size": 64},
        "strategy": "random",
        "estimators": ["macs"],
        "objectives": ["macs"],
        "budget": {"trials": 1},
        "verdict": {"seeds": 0},
        "observers": [],
    } | changes


ONE_IMAGE = {"type": "digits", "train_size": 1, "architecture": 0}
CREAM = {"type": "cream", "form": "small", "in_channels": 1, "stages": [[8, 1, 2], [8, 1, 2], [8, 1, 2]]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": {"seeds": 1}, "recipe": {"type": "default", "batch_size": 1}}, r"recipe\.batch_size = 1"),
        ({"estimators": ["macs", {"type": "accuracy", "batch_size": 1}]}, "batch_size of the estimator 'accuracy'"),
        ({"estimators": ["macs", "accuracy"], "task": ONE_IMAGE}, "weights and architecture split"),
        ({"method": {"type": "fbnet", "batch_size": 1, "cost": "macs"}}, "batch_size of the method 'fbnet' = 1"),
        (
            {"method": {"type": "fbnet", "cost": "macs"}, "task": {"type": "digits", "train_size": 4}},
            "the architecture split must have 2 images or more, not 1",
        ),
        ({"space": CREAM, "method": {"type": "cream", "batch_size": 1}}, "batch_size of the method 'cream' = 1"),
        ({"space": CREAM, "method": {"type": "cream", "slices": 1}}, "slices = 1 must be at least 2"),
    ],
)  # fmt: skip
def test_a_search_is_refused_before_it_has_a_folder(tmp_path, changes, told):
    changed = config(**changes)
    if "method" in changes:
        del changed["strategy"]
    with pytest.raises(ConfigError, match=told):
        archloom.search(changed, tmp_path / "run", host=host())
    if "of the" in told or "recipe" in told:  # the method itself is made when the run has a folder
        assert not (tmp_path / "run").exists()


def test_a_search_that_trains_on_single_images_runs_where_maps_have_pixels(tmp_path):
    space = config()["space"] | {"stages": [[8, 1, 2]]}
    options = {"type": "accuracy", "batch_size": 1, "epochs": 1}
    result = archloom.search(
        config(space=space, estimators=["macs", options], task={"type": "digits", "train_size": 8}),
        tmp_path / "run",
        host=host(),
    )
    assert [trial.status for trial in result.trials] == ["ok"]
    assert isinstance(result.architecture, Architecture)
