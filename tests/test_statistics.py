"""BatchNorm's statistics: when they are taken anew, from what, and where they go."""

from __future__ import annotations

import logging
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from archloom.architecture import Architecture
from archloom.errors import ConfigError
from archloom.model import Model, ModelParts, assemble
from archloom.randomness import torch_rng
from archloom.run import load_checkpoint
from archloom.task import batches
from archloom.training import Recipe, evaluate, recalibrate_batchnorm, train
from archloom_estimators.accuracy import MANY, TrainedAccuracy
from toys import Blocks, state_of


class Faint:
    """Two classes of faint images: activations are small, so that statistics that start at variance 1 fit badly."""

    name, shape, classes = "faint", (1, 8, 8), ("dark", "bright")

    def dataset(self, *splits, augment=False, resolution=None):
        y = torch.arange(64) % 2
        x = 0.5 * torch.randn(64, 1, 8, 8, generator=torch_rng(len("".join(splits)), "faint"))
        x[y == 1] += 1
        return TensorDataset(0.02 * x, y)


CHOSEN = Architecture({"layer0": "k3", "layer1": "k1"})


def made(seed=0, **options):
    return assemble(Blocks(**options), CHOSEN, Faint(), ModelParts(), seed=seed)


SHORT = {"epochs": 5, "batch_size": 32, "lr": 0.2}
"""Ten batches: running statistics of momentum 0.1 settle after a hundred."""


def last(recipe, model=None, **options):
    model = model or made()
    return model, list(train(model, Faint(), Recipe(**recipe), seed=0, **options))[-1]


def validated(model):
    return evaluate(model, batches(Faint().dataset("validation"), 512), 2)["accuracy"]


def norms(module):
    return {k: v for k, v in module.state_dict().items() if "running" in k}


# -- the rule -----------------------------------------------------------------------------------------------


def test_a_short_training_is_judged_by_statistics_that_fit_its_weights():
    _, never = last({**SHORT, "recalibrate": "never"})
    model, auto = last(SHORT)
    assert never.metrics["validation.accuracy"] < 60
    assert "recalibrated" not in never.metrics
    assert auto.metrics["validation.accuracy"] > 85
    assert auto.metrics["recalibrated"] == 64
    assert auto.metrics["accuracy"] == never.metrics["accuracy"]  # the training itself is the same
    assert validated(model) == auto.metrics["validation.accuracy"]  # the model is left as it was judged


def test_statistics_have_settled_after_ten_times_the_batches_that_they_average_over():
    recipe = {"epochs": 9, "batch_size": 4, "schedule": "constant", "lr": 0.01}  # 16 batches in each epoch
    epochs = list(train(made(), Faint(), Recipe(**recipe), seed=0))
    assert ["recalibrated" in epoch.metrics for epoch in epochs] == [
        number * 16 < 100 for number in range(1, 10)
    ]


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}])
def test_a_long_training_is_the_same_to_the_bit_with_and_without_the_rule(options):
    recipe = {"epochs": 8, "batch_size": 4, "lr": 0.01, **options}
    first, last_epoch = last(recipe)
    second, plain = last({**recipe, "recalibrate": "never"})
    assert "recalibrated" not in last_epoch.metrics
    assert all(torch.equal(v, state_of(second)[k]) for k, v in state_of(first).items())
    timeless = lambda metrics: {k: v for k, v in metrics.items() if "second" not in k}
    assert timeless(last_epoch.metrics) == timeless(plain.metrics)


def test_always_recalibrates_a_long_training_too():
    assert (
        last({"epochs": 8, "batch_size": 4, "lr": 0.01, "recalibrate": "always"})[1].metrics["recalibrated"]
        == 64
    )


def test_averaged_weights_need_so_many_batches_more_as_they_average_over():
    recipe = {"epochs": 9, "batch_size": 4, "lr": 0.01, "ema": 0.9}  # 144 batches, 200 are needed
    _, epoch = last(recipe)
    assert epoch.metrics["recalibrated"] == 64
    assert validated(epoch.network) == epoch.metrics["validation.accuracy"]


def test_a_norm_that_stands_still_keeps_its_statistics():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.fixed, self.free = (nn.BatchNorm2d(1) for _ in range(3))
            self.fixed.momentum = 0

        def train(self, mode=True):
            super().train(mode)
            self.frozen.eval()
            return self

        def forward(self, x):
            return self.free(self.fixed(self.frozen(x + 3)))

    backbone = Still()
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model, _ = last({"epochs": 1}, Model(backbone, nn.Identity(), head, nn.CrossEntropyLoss()))
    assert model.backbone.frozen.running_mean == model.backbone.fixed.running_mean == 0
    assert model.backbone.free.running_mean.abs() > 0


def test_an_unwatched_training_is_recalibrated_where_it_ends():
    model, _ = last(SHORT, watch=None)
    assert validated(model) == last(SHORT)[1].metrics["validation.accuracy"]
    stopped, epoch = last(SHORT, watch=None, until=2)
    assert (epoch.number, epoch.metrics["recalibrated"]) == (2, 64)
    halfway = next(islice(train(made(), Faint(), Recipe(**SHORT), seed=0), 1, None))
    assert validated(stopped) == halfway.metrics["validation.accuracy"]


# -- where the statistics go --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"ema": 0.8}])
def test_the_kept_weights_are_those_that_were_judged_and_the_training_goes_on_without_them(tmp_path, options):
    whole, epoch = last({**SHORT, **options}, folder=tmp_path / "whole")
    first = made()
    list(islice(train(first, Faint(), Recipe(**SHORT, **options), seed=0, folder=tmp_path / "cut"), 2))
    second, again = last({**SHORT, **options}, made(seed=7), folder=tmp_path / "cut")
    assert all(torch.equal(v, state_of(second)[k]) for k, v in state_of(whole).items())
    assert again.metrics["validation.accuracy"] == epoch.metrics["validation.accuracy"]
    last({**SHORT, **options, "recalibrate": "never"}, folder=tmp_path / "never")
    ours, plain = (load_checkpoint(tmp_path / name / "training.pt") for name in ("whole", "never"))
    running = [{**ours["model"], **ours["running"][0]}, plain["model"]]
    assert all(torch.equal(value, running[1][key]) for key, value in running[0].items())
    judged = made()
    for name in ("best", "training"):
        kept = load_checkpoint(tmp_path / "whole" / f"{name}.pt")
        judged.load_state_dict(kept["model"])
        metrics = ours["history"][kept["epoch"] - 1]
        raw = ".raw" if options and name == "training" else ""
        assert validated(judged) == metrics[f"validation{raw}.accuracy"]


def test_a_finished_training_that_is_opened_again_is_judged_as_it_was(tmp_path):
    whole, _ = last(SHORT, folder=tmp_path)
    opened = made(seed=7)
    assert list(train(opened, Faint(), Recipe(**SHORT), seed=0, folder=tmp_path)) == []
    assert all(torch.equal(v, state_of(whole)[k]) for k, v in state_of(opened).items())


def context(**changes):
    return SimpleNamespace(
        task=Faint(), seed=0, device="cpu", precision="float32", fidelity=SimpleNamespace(upto=1.0),
        assemble=lambda a: made(), shape=lambda a: (1, 8, 8), kept=lambda a: None, **changes
    )  # fmt: skip


def test_the_estimator_verdict_and_retraining_judge_alike():
    estimator = TrainedAccuracy(epochs=5, batch_size=32, lr=0.2)
    never = TrainedAccuracy(epochs=5, batch_size=32, lr=0.2, recalibrate="never")
    assert (
        estimator.estimate(CHOSEN, context())["accuracy.trained"]
        == last(SHORT)[1].metrics["validation.accuracy"]
    )
    assert never.estimate(CHOSEN, context())["accuracy.trained"] < 60


def test_accuracies_that_cannot_be_trusted_are_said_once(caplog):
    never = TrainedAccuracy(epochs=5, batch_size=32, lr=0.2, recalibrate="never")
    with caplog.at_level(logging.WARNING, "archloom"):
        for _ in range(2):
            never.estimate(CHOSEN, context())
    assert len(caplog.records) == 1
    assert "of its training images and" in caplog.text
    assert "recipe.recalibrate" in caplog.text


def test_networks_that_all_guess_are_said_and_one_of_them_is_not(caplog):
    idle = TrainedAccuracy(epochs=1, batch_size=32, lr=1e-6)
    with caplog.at_level(logging.WARNING, "archloom"):
        for _ in range(MANY - 1):
            idle.estimate(CHOSEN, context())
        assert not caplog.records
        idle.estimate(CHOSEN, context())
    assert f"the first {MANY} networks" in caplog.text
    assert "guessing among 2 classes" in caplog.text


def test_a_training_says_that_it_guesses(caplog):
    with caplog.at_level(logging.WARNING, "archloom"):
        last(SHORT)
        assert not caplog.records
        last({**SHORT, "recalibrate": "never"})
    assert "guessing among 2 classes reads as many" in caplog.text


# -- taking them --------------------------------------------------------------------------------------------


def alone(norm):
    return Model(norm, nn.Identity(), nn.Identity(), nn.Identity()).eval()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_every_image_counts_as_much_as_every_other(sizes, seed):
    x = 3 + torch.randn(
        sum(sizes), 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    norm = nn.BatchNorm2d(2, dtype=torch.float64)
    assert recalibrate_batchnorm(alone(norm), [(part, None) for part in x.split(sizes)]) == len(x)
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)), atol=1e-12)
    assert (norm.momentum, norm.training) == (0.1, False)


@given(st.integers(2, 40), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_of_batches_of_one_size_they_are_the_plain_mean_to_the_bit(size, number):
    x = torch.randn(number * size, 2, 3, 3, generator=torch.Generator().manual_seed(size))
    ours, plain = nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)
    recalibrate_batchnorm(alone(ours), [(part, None) for part in x.split(size)])
    for part in x.split(size):
        plain(part)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in ours.state_dict().items())


def test_one_image_more_than_a_batch_changes_next_to_nothing_and_maps_of_one_pixel_are_no_harm():
    x = torch.randn(129, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    found = []
    for count in (128, 129):
        norm = nn.BatchNorm2d(3)
        assert recalibrate_batchnorm(alone(norm), [(part, None) for part in x[:count].split(128)]) == count
        found.append(norm.running_var)
    assert torch.allclose(found[0], found[1], rtol=0.05)
    norm = nn.BatchNorm1d(3)
    assert recalibrate_batchnorm(alone(norm), [(image, None) for image in x.flatten(1).split(1)]) == 129
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)), atol=1e-6)


def test_one_image_alone_is_refused_where_it_gives_no_variance_and_nothing_changes():
    norm = nn.BatchNorm2d(3)
    before = state_of(norm)
    with pytest.raises(ConfigError, match="two images or more"):
        recalibrate_batchnorm(alone(norm), [(torch.randn(1, 3, 1, 1), None)])
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert norm.momentum == 0.1
    recalibrate_batchnorm(alone(norm), [(torch.randn(1, 3, 2, 2), None)])  # four pixels have a variance
    assert not torch.equal(norm.running_var, before["running_var"])


def test_a_norm_that_is_used_twice_takes_the_mean_of_its_calls_and_one_that_is_not_called_keeps_its_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.idle = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.idle.running_mean.fill_(5)

        def forward(self, x):
            self.norm(x)
            self.norm(x + 4)
            return x

    network = Twice()
    x = torch.randn(12, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    recalibrate_batchnorm(network, [(part, None) for part in x.split(4)])
    assert torch.allclose(network.norm.running_mean, x.mean((0, 2, 3)) + 2, atol=1e-5)
    assert torch.equal(network.idle.running_mean, torch.full((2,), 5.0))


@pytest.mark.parametrize("change", [{"num_batches_tracked": None}, {"momentum": None}])
def test_every_norm_that_pytorch_can_make_is_recalibrated(change):
    norm = nn.BatchNorm2d(2)
    for name, value in change.items():
        setattr(norm, name, value)
    x = 7 + torch.randn(8, 2, 3, 3)
    recalibrate_batchnorm(norm, [(part, None) for part in x.split(4)])
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)), atol=1e-5)
