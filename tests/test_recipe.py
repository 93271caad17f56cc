"""Recipes: what they refuse, which rate they give when, which optimizer, and how weights are averaged."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from archloom.errors import ConfigError
from archloom.plugins import Host
from archloom.training.optimization import Averaged, RMSpropTF, build_optimizer
from archloom.training.recipe import Recipe, learning_rate

# -- fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": -1},
        {"batch_size": 32.0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"warmup_epochs": 31.0},
        {"warmup_epochs": -1.0},
        {"accumulate": 0},
        {"clip": 0.0},
        {"eps": 0.0},
        {"alpha": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1e-4},
        {"min_lr": -1.0},
        {"min_lr": 0.2},
        {"warmup_lr": -1.0},
        {"step_epochs": 0.0},
        {"ema": 0.0},
        {"ema": 1.0},
        {"patience": 0},
        {"label_smoothing": 1.0},
        {"mixup": -0.2},
        {"cutmix": -1.0},
        {"erasing": 1.5},
        {"distill_weight": 1.1},
        {"temperature": 0.0},
        {"randaugment": (0, 9)},
        {"randaugment": (2, 31)},
        {"randaugment": (2,)},
        {"optimizer": "smd"},
        {"schedule": "cosin"},
        {"autoaugment": "cifar100"},
        {"teacher_weights": "teacher.safetensors"},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=f"recipe: {next(iter(wrong))}"):
        Recipe(**wrong)


def test_a_misspelt_choice_is_told_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rmsprop"):
        Recipe(optimizer="rmsprp_tf")


@pytest.mark.parametrize(
    ("both", "told"),
    [
        ({"autoaugment": "imagenet", "randaugment": (2, 9)}, "autoaugment and randaugment are alternatives"),
        ({"augment": False, "trivialaugment": True}, "augment is false, yet trivialaugment is set"),
        ({"augment": False, "erasing": 0.1}, "augment is false, yet erasing is set"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
    ],
)
def test_fields_that_contradict_one_another_are_refused(both, told):
    with pytest.raises(ConfigError, match=told):
        Recipe(**both)


def test_a_recipe_is_plain_data_that_makes_it_again():
    recipe = Recipe(randaugment=[2, 9], ema=0.99, mixup=0.2)
    again = yaml.safe_load(yaml.safe_dump(asdict(recipe)))
    assert Recipe(**again) == recipe
    assert hash(Recipe(**again)) == hash(recipe)


@dataclass(frozen=True, kw_only=True)
class Mine(Recipe):
    """A recipe of one's own: other defaults, all fields."""

    epochs: int = 7
    label_smoothing: float = 0.1


def test_a_recipe_of_ones_own_is_a_class_with_other_defaults_whose_fields_are_all_options():
    class Plugin:
        from archloom import hookimpl

        @hookimpl
        def register_recipes(self, register):
            register("mine", Mine)

    host = Host()
    host.add(Plugin(), "mine", "test", "-")
    entry = host.get("recipe", "mine")
    assert [option.name for option in entry.options] == [field.name for field in fields(Recipe)]
    made = entry.make(entry.validate({"lr": "1e-3", "randaugment": [1, 5]}))
    assert (made.epochs, made.label_smoothing, made.lr, made.randaugment) == (7, 0.1, 1e-3, (1, 5))


@pytest.mark.parametrize("name", ["default", "imagenet_sgd", "imagenet_strong", "cifar_sgd"])
def test_the_registered_recipes_can_be_made(name):
    entry = Host().get("recipe", name)
    assert isinstance(entry.make(entry.validate({})), Recipe)


# -- the learning rate --------------------------------------------------------------------------------------


@given(st.floats(0, 10), st.sampled_from(["cosine", "step", "exponential", "constant"]))
def test_no_rate_after_the_warm_up_is_below_the_least_or_above_the_first(epoch, schedule):
    recipe = Recipe(epochs=10, lr=0.4, schedule=schedule, min_lr=0.05, step_epochs=1, step_factor=0.3)
    assert 0.05 <= learning_rate(recipe, epoch) <= 0.4


def test_a_cosine_is_that_of_pytorch_with_its_least_rate():
    recipe = Recipe(epochs=12, lr=0.4, min_lr=0.03, warmup_epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.03)
    for epoch in range(10):
        assert learning_rate(recipe, 2 + epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_a_warm_up_begins_where_it_is_told_and_ends_at_the_rate():
    recipe = Recipe(epochs=10, lr=0.4, warmup_epochs=4, warmup_lr=1e-3, schedule="constant")
    assert learning_rate(recipe, 0) == 1e-3
    assert learning_rate(recipe, 2) == pytest.approx((1e-3 + 0.4) / 2)
    assert learning_rate(recipe, 4) == 0.4


# -- optimizers ---------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


def moved(model, optimizer, steps=60):
    """The weights after some steps at changing rates."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        x, y = torch.randn(16, 5, generator=generator), torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_rmsprop_in_tensorflows_form_moves_as_timms(momentum, weight_decay):
    timm = pytest.importorskip("timm.optim", reason="timm is not installed; it is an optional extra")
    options = {
        "lr": 0.02,
        "alpha": 0.9,
        "momentum": momentum,
        "eps": 1e-3,
        "weight_decay": weight_decay,
    }
    first, second = network().double(), network().double()
    ours = moved_double(first, RMSpropTF(first.parameters(), **options))
    theirs = moved_double(second, timm.RMSpropTF(second.parameters(), **options))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    assert not torch.allclose(
        ours, torch.cat([p.detach().flatten() for p in network().double().parameters()])
    )


def moved_double(model, optimizer):
    torch.set_default_dtype(torch.float64)
    try:
        return moved(model, optimizer)
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_step_of_tensorflows_rmsprop_by_hand():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = RMSpropTF([weight], lr=0.1, alpha=0.9, momentum=0.5, eps=0.01)
    moment = 0.0
    square, value = 1.0, 2.0
    for gradient, rate in ((3.0, 0.1), (-1.0, 0.2)):
        weight.grad = torch.tensor([gradient])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        square = 0.9 * square + 0.1 * gradient**2
        moment = 0.5 * moment + rate * gradient / (square + 0.01) ** 0.5
        value -= moment
        assert weight.item() == pytest.approx(value, rel=1e-6)


def test_a_parameter_without_a_gradient_stays():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RMSpropTF([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.equal(torch.ones(2))
    assert not used.equal(torch.ones(2))


def test_the_recipes_numbers_reach_the_optimizer():
    model = network()
    optimizer = build_optimizer(
        Recipe(optimizer="rmsprop_tf", lr=0.3, alpha=0.8, momentum=0.7, eps=0.02), model
    )
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, RMSpropTF)
    assert [group[key] for key in ("lr", "alpha", "momentum", "eps")] == [0.3, 0.8, 0.7, 0.02]
    assert build_optimizer(Recipe(optimizer="rmsprop"), model).param_groups[0]["eps"] == 1e-3
    assert build_optimizer(Recipe(optimizer="adamw"), model).param_groups[0]["eps"] == 1e-8


# -- averages -----------------------------------------------------------------------------------------------


def test_averages_are_those_of_pytorchs_averaged_model():
    model = network()
    ours = Averaged(model, 0.8)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    for step in range(5):
        model.train()(torch.randn(8, 5, generator=torch.Generator().manual_seed(step)))
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * (step + 1)
        ours.update()
        theirs.update_parameters(model)
    for key, value in ours.module.state_dict().items():
        if value.is_floating_point():
            assert value.equal(theirs.module.state_dict()[key]), key
    assert int(ours.module[1].num_batches_tracked) == int(model[1].num_batches_tracked) == 5
    assert not ours.module[1].running_mean.equal(model[1].running_mean)


def test_averages_go_on_from_their_state_to_the_bit():
    def step(model, averaged):
        with torch.no_grad():
            for p in model.parameters():
                p *= 1.1
        averaged.update()

    model = network()
    whole = Averaged(model, 0.7)
    step(model, whole)
    halted = Averaged(network(), 0.7)
    halted.load_state_dict(whole.state_dict())
    other = network()
    other.load_state_dict(model.state_dict())
    again = Averaged(other, 0.7)
    again.load_state_dict(halted.state_dict())
    step(model, whole)
    step(other, again)
    for first, second in zip(
        whole.module.state_dict().values(), again.module.state_dict().values(), strict=True
    ):
        assert first.equal(second)


# -- documentation ------------------------------------------------------------------------------------------


def test_each_field_is_documented_with_its_default():
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    table = page.split("## The fields")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| \S.* \|$", table, re.M)
    assert [(name, yaml.safe_load(default)) for name, default in rows] == [
        (field.name, field.default) for field in fields(Recipe)
    ]


def test_each_registered_recipe_is_documented():
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    names = re.findall(r"^\| `(\w+)` \| [^`|]* \|$", page.split("from a file, of one's own")[1], re.M)
    assert sorted(names) == [name for name in Host().names("recipe") if name in names]
    assert {"default", "imagenet_sgd", "imagenet_strong", "cifar_sgd"} == set(names)
