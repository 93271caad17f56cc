from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from archloom.architecture import Architecture
from archloom.errors import ConfigError, SearchError
from archloom.model import Model, ModelParts, assemble
from archloom.run import load_checkpoint
from archloom.training import Recipe, build_optimizer, evaluate, learning_rate, recalibrate_batchnorm, train
from toys import Blocks, state_of


class Halves:
    """Two classes, bright above or bright below."""

    name, shape, classes = "halves", (1, 8, 8), ("above", "below")

    def dataset(self, *splits, augment=False, resolution=None):
        y = torch.arange(48) % 2
        x = 0.5 * torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(len("".join(splits))))
        x[y == 0, :, :4] += 1
        x[y == 1, :, 4:] += 1
        return TensorDataset(x, y)


def made(seed=0):
    head = lambda channels, classes: nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, classes))
    parts = ModelParts(head=head)
    return assemble(Blocks(), Architecture({"layer0": "k3", "layer1": "k1"}), Halves(), parts, seed=seed)


def trained(model, recipe, **options):
    return list(train(model, Halves(), recipe, seed=options.pop("seed", 0), **options))


RECIPE = Recipe(epochs=4, batch_size=16, lr=0.05)


def equal(first, second):
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_training_learns():
    model = made()
    epochs = trained(model, Recipe(epochs=8, batch_size=16, lr=0.1))
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].metrics["loss"] < 0.5 * epochs[0].metrics["loss"]
    assert epochs[-1].metrics["validation.accuracy"] > 80


def test_training_is_a_function_of_the_seed_and_moves_nothing_global():
    first, second, other = made(), made(), made()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    trained(first, RECIPE)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    trained(second, RECIPE)
    trained(other, RECIPE, seed=1)
    assert equal(first, second)
    assert not equal(first, other)


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_training_cut_after_any_epoch_goes_on_to_the_bit(tmp_path, cut, optimizer):
    recipe = Recipe(epochs=4, batch_size=16, lr=0.01, optimizer=optimizer)
    whole, first, second = made(), made(), made(seed=9)
    trained(whole, recipe)
    list(islice(train(first, Halves(), recipe, seed=0, folder=tmp_path), cut))
    epochs = trained(second, recipe, folder=tmp_path)
    assert [epoch.number for epoch in epochs] == list(range(cut + 1, 5))
    assert equal(whole, second)


def test_the_best_epoch_by_validation_is_kept_apart(tmp_path):
    epochs = trained(made(), RECIPE, folder=tmp_path)
    scores = [epoch.metrics["validation.accuracy"] for epoch in epochs]
    best = max(number for number, score in enumerate(scores, 1) if score == max(scores))
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == best
    assert load_checkpoint(tmp_path / "training.pt")["epoch"] == 4


def test_a_loss_that_is_no_number_any_more_is_an_error_with_the_way_out():
    with pytest.raises(SearchError, match=r"the loss became .* in epoch 1; lower the learning rate"):
        trained(made(), Recipe(epochs=1, batch_size=16, lr=1e30))


# -- recipes ------------------------------------------------------------------------------------------------


@given(st.floats(0, 10), st.sampled_from(["cosine", "step", "exponential", "constant"]))
def test_learning_rates_follow_their_formulas(epoch, schedule):
    recipe = Recipe(epochs=10, lr=0.4, warmup_epochs=2, schedule=schedule, step_epochs=3, step_factor=0.5)
    if epoch < 2:
        expected = 0.04 + 0.36 * epoch / 2
    else:
        expected = {
            "cosine": 0.2 + 0.2 * math.cos(math.pi * (epoch - 2) / 8),
            "step": 0.4 * 0.5 ** ((epoch - 2) // 3),
            "exponential": 0.4 * 0.5 ** ((epoch - 2) / 3),
            "constant": 0.4,
        }[schedule]
    assert learning_rate(recipe, epoch) == pytest.approx(expected, abs=1e-12)


def test_weight_decay_can_leave_norms_and_biases_out():
    model = made()
    groups = build_optimizer(Recipe(weight_decay=0.5, decay_all=False), model).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2, 4}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    (whole,) = build_optimizer(Recipe(weight_decay=0.5), model).param_groups
    assert len(whole["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": -1}, {"lr": 0.0}, {"warmup_epochs": 31.0}, {"warmup_epochs": -1.0}],
)
def test_a_recipe_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"recipe: {next(iter(wrong))}"):
        Recipe(**wrong)


# -- judging ------------------------------------------------------------------------------------------------


def test_accuracy_top5_and_loss_are_what_they_say():
    logits = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 10
    model = nn.Linear(10, 10)
    with torch.no_grad():
        model.weight.copy_(torch.eye(10))
        model.bias.zero_()
    judged = evaluate(model, [(logits[:30], targets[:30]), (logits[30:], targets[30:])], 10)
    ranks = (logits > logits.gather(1, targets[:, None])).sum(1)
    assert judged["accuracy"] == pytest.approx(100 * (ranks < 1).float().mean().item())
    assert judged["top5"] == pytest.approx(100 * (ranks < 5).float().mean().item())
    assert judged["loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)


def test_judging_changes_neither_weights_nor_mode():
    model = made().train()
    before = state_of(model)
    evaluate(model, [tuple(Halves().dataset("test").tensors)], 2)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_recalibrated_statistics_are_the_plain_mean_over_the_batches():
    norm = nn.BatchNorm2d(3)
    model = Model(norm, nn.Identity(), nn.Identity(), nn.Identity()).eval()
    batches = [torch.randn(6, 3, 4, 4) + shift for shift in (0.0, 2.0, 5.0)]
    recalibrate_batchnorm(model, [(x, None) for x in batches])
    assert torch.allclose(
        norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0), atol=1e-5
    )
    assert torch.allclose(
        norm.running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0), atol=1e-5
    )
    assert norm.momentum == 0.1
    assert not norm.training
