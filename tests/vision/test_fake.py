"""Noise: the same everywhere, of the shape asked for, to be learnt only where that is asked for."""

from __future__ import annotations

import pytest
import torch

from archloom.errors import ConfigError
from archloom.task import SPLITS, batches


def load(task, *splits, **options) -> tuple[torch.Tensor, torch.Tensor]:
    ((x, y),) = batches(task.dataset(*splits, **options), 10_000)
    return x, y


def test_noise_has_the_shape_and_number_asked_for_and_unit_variance(tasks):
    for separable in (False, True):
        task = tasks["fake"](
            size=50, test_size=7, channels=2, height=9, width=30, classes=5, separable=separable
        )
        assert (task.shape, len(task.classes)) == ((2, 9, 30), 5)
        assert [len(task.dataset(split)) for split in SPLITS] == [30, 10, 10, 7]
        x, _ = load(task, "weights")
        assert x.shape == (30, 2, 9, 30)
        assert abs(x.mean()) < 0.2
        assert 0.8 < x.std() < 1.2


def test_images_are_a_function_of_the_seed_and_all_differ(tasks):
    first, again, other = (load(tasks["fake"](size=40, seed=seed), *SPLITS)[0] for seed in (0, 0, 1))
    assert first.equal(again)
    assert torch.cat([first, other]).flatten(1).unique(dim=0).shape[0] == 2 * (40 + 256)


def nearest_mean_accuracy(task) -> float:
    """Of the test images, by the nearest class mean of the training images."""
    x, y = load(task, "weights")
    means = torch.stack([x[y == label].mean(0) for label in range(len(task.classes))]).flatten(1)
    x, y = load(task, "test")
    return float((torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean())


def test_only_separable_noise_can_be_told_apart(tasks):
    assert nearest_mean_accuracy(tasks["fake"](separable=True)) > 0.99
    assert nearest_mean_accuracy(tasks["fake"]()) < 0.2  # chance is 0.1, five standard deviations 0.094


def test_another_resolution_is_square(tasks):
    assert load(tasks["fake"](size=20, height=8, width=16), "test", resolution=12)[0].shape[1:] == (3, 12, 12)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"classes": 1}, "classes must be at least 2"), ({"size": 0}, "size must be at least 1")],
)
def test_options_that_cannot_be_are_refused(tasks, options, says):
    with pytest.raises(ConfigError, match=says):
        tasks["fake"](**options)
