"""The configurations of record, and a whole search by the method: its end, other strategies, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import archloom
from archloom.architecture import Architecture
from archloom.config_files import read_config
from archloom.errors import SearchError
from archloom.plugins import Host
from archloom.resolve import resolve
from archloom.session.opening import as_config
from archloom.shared import Supernet
from archloom.task import batches
from archloom.training import build_optimizer, evaluate, learning_rate, recalibrate_batchnorm
from archloom_cream import CreamSpace
from archloom_cream.named import SIX

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("cream_*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_of_record_names_what_there_is_with_options_that_there_are(path):
    config, host = read_config(path), Host()
    method = host.get("strategy", config.method.type)
    options = method.validate(config.method.options)
    for kind, part in (("space", config.space), ("task", config.task), ("recipe", config.recipe)):
        host.get(kind, part.type).validate(part.options)
    space = host.get("space", config.space.type).make(config.space.options)
    if config.space.options.get("form") != "small":
        low, high = options["macs"]
        side = space.resolution or 224
        cheapest, _ = space._cost_range([1] * 5, side)
        assert cheapest <= high
        assert all(
            f"{bound:g}".replace("e+0", "e") in " ".join(config.constraints) for bound in (low, high) if bound
        )
    recipe = host.get("recipe", config.recipe.type).make(config.recipe.options)
    smoothed = [config.model.loss.options.get("label_smoothing", 0), recipe.label_smoothing]
    assert sorted(smoothed) == [0, 0.1]  # twice is refused when a network is trained


def test_the_digits_example_fits_together():
    resolved = resolve(read_config(EXAMPLES / "cream_digits.yaml"), Host())
    assert resolved.method is not None
    assert [str(constraint) for constraint in resolved.constraints] == ["macs >= 400000", "macs <= 500000"]


CONFIG = {
    "space": {
        "type": "cream",
        "form": "small",
        "in_channels": 1,
        "stages": [[8, 2, 2]],
        "candidates": ["k3_e2", "k3_e4", "k5_e2"],
        "skip": True,
    },
    "task": {"type": "digits", "train_size": 160},
    "model": {"head": {"type": "CreamHead", "features": 32}},
    "method": {
        "type": "cream",
        "epochs": 4,
        "batch_size": 32,
        "lr": 0.1,
        "start_epoch": 1,
        "board": 4,
        "meta_every": 2,
        "recalibration": 1,
        "board_images": 64,
    },
    "estimators": ["params", "macs", {"type": "inherited_accuracy", "recalibration": 2}],
    "objectives": ["accuracy.inherited"],
    "recipe": {"type": "default", "epochs": 1, "batch_size": 32},
    "verdict": {"seeds": 1, "random": 1},
    "observers": [],
    "threads": 1,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cream") / "run"
    return archloom.search(CONFIG, folder)


def test_the_board_s_best_by_the_validation_split_is_found_and_trained_from_scratch(ended):
    assert len(ended.trials) == 4
    best = max(ended.trials, key=lambda trial: (trial.score, -trial.number))
    assert ended.architecture == best.architecture
    assert (ended.folder / "weights.safetensors").exists()
    assert {group.role for group in ended.groups} == {"found", "random, same cost", "random, any cost"}


def test_the_inherited_weights_are_the_found_path_s_and_as_accurate_as_was_measured(ended):
    resolved = resolve(as_config(CONFIG), Host())
    model = archloom.build(ended.folder)
    archloom.load_weights(model, ended.folder / "inherited.safetensors")
    task = resolved.task
    calibrating = list(batches(task.dataset("weights"), 128, seed=0, shuffle=True))[:2]
    recalibrate_batchnorm(model, calibrating)
    judged = evaluate(model, batches(task.dataset("validation"), 512), 10)["accuracy"]
    found = next(t for t in ended.trials if t.architecture == ended.architecture)
    # other batches recalibrate, and so an image or a few may be read otherwise
    assert judged == pytest.approx(found.metrics["accuracy.inherited"], abs=6)


def test_the_report_draws_board_and_teachers_over_time(ended):
    page = (ended.folder / "report.html").read_text()
    for family in ("board_accuracy: 1, 2, 3, 4", "board_macs", "teacher_weight: ", "teacher_share: "):
        assert family in page
    fits = [json.loads(line) for line in (ended.folder / "log.jsonl").read_text().splitlines()]
    last = [event for event in fits if event["event"] == "fit"][-1]["metrics"]
    assert [last[f"board_accuracy.{k}"] for k in (1, 2, 3, 4)] == sorted(
        (last[f"board_accuracy.{k}"] for k in (1, 2, 3, 4)), reverse=True
    )
    assert sum(last[f"teacher_share.{k}"] for k in (1, 2, 3, 4)) == pytest.approx(1)


def test_a_board_none_of_whose_paths_keeps_the_constraint_has_no_result(tmp_path):
    config = CONFIG | {
        "constraints": ["accuracy.inherited > 100"],
        "method": CONFIG["method"] | {"epochs": 2},
    }
    with pytest.raises(SearchError, match=r"the nearest seen was .*--set 'constraints="):
        archloom.search(config, tmp_path / "run")


def test_evolution_searches_the_supernet_that_the_method_trained(tmp_path):
    config = CONFIG | {
        "method": CONFIG["method"] | {"epochs": 2},
        "strategy": {"type": "evolution", "population": 3, "tournament": 2},
        "budget": {"trials": 6},
        "verdict": {"seeds": 0},
    }
    result = archloom.search(config, tmp_path / "run")
    assert sum(trial.source is None for trial in result.trials) == 6
    assert all("accuracy.inherited" in trial.metrics for trial in result.trials)


def test_a_searched_network_with_one_block_a_stage_is_built_as_it_was_searched():
    space = CreamSpace(depths=[1, 1, 1, 1, 1])
    for option in SIX:
        architecture = Architecture(dict.fromkeys(space.layers, option))
        network = space.build(architecture)
        kernel, expansion = int(option[1]), int(option[-1])
        for name, layer in space.layers.items():
            block = getattr(network.body, name)
            assert block.depthwise.conv.kernel_size == (kernel, kernel)
            assert block.expand.conv.out_channels == layer.c_in * expansion


def test_every_block_of_the_supernet_can_be_run_and_every_path_has_all_blocks():
    space = CreamSpace(form="small")
    supernet = Supernet(space, 0)
    reached = set()
    for option in SIX:
        architecture = Architecture(dict.fromkeys(space.layers, option))
        assert len(architecture) == len(supernet.layers)
        reached |= {name for name, _ in supernet.path_parameters(architecture)}
    assert reached == {name for name, _ in supernet.named_parameters()}
    assert torch.is_tensor(supernet(torch.zeros(2, 3, 8, 8), architecture))


def test_the_recipe_is_the_authors_and_each_of_its_numbers_an_option():
    entry = Host().get("recipe", "cream")
    recipe = entry.make(entry.validate({}))
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.ema) == (500, 1024, 0.064, 0.9999)
    assert (recipe.optimizer, recipe.alpha, recipe.eps, recipe.weight_decay) == (
        "rmsprop_tf",
        0.9,
        1e-3,
        1e-5,
    )
    assert learning_rate(recipe, 0) == 1e-6
    assert learning_rate(recipe, 3) == 0.064
    assert learning_rate(recipe, 500) == pytest.approx(1e-5)
    stepped = entry.make(entry.validate({"schedule": "step", "epochs": 10, "lr": 0.032}))
    assert learning_rate(stepped, 3 + 2.5) == pytest.approx(0.032 * 0.973)
    groups = build_optimizer(recipe, torch.nn.BatchNorm2d(3)).param_groups
    assert [group["weight_decay"] for group in groups] == [1e-5, 0.0]
