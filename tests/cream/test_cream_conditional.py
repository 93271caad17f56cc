"""Cream on a chain whose number of layers is a choice: paths of any depth, their costs, and a whole search."""

from __future__ import annotations

import random

import pytest

import archloom
from archloom.architecture import Choice
from archloom.cost import count
from archloom.latency import build_table
from archloom.model import ModelParts, assemble
from archloom.space import check, everything, sample
from archloom.testing import TinySpace
from archloom.testing.tiny import tiny_supernet, tiny_task
from archloom_cream.paths import PathCosts, Sampler
from toys import host

SHAPE = (1, 8, 8)


class Deepening(TinySpace):
    """One to three layers, the number a choice of its own; a layer may also depend on another one."""

    def __init__(self, *, in_channels: int = 1, on_a_layer: bool = False) -> None:
        super().__init__(layers=3, in_channels=in_channels)
        first, second, third = self.choices
        when = {"depth": (3,), "layer0": ("k3", "k5")} if on_a_layer else {"depth": (3,)}
        self.choices = [
            Choice("depth", (1, 2, 3), ordered=True),
            first,
            Choice(second.name, second.options, when={"depth": (2, 3)}),
            Choice(third.name, third.options, when=when),
        ]

    def candidate(self, choice, option):
        return None if choice.name == "depth" else super().candidate(choice, option)


class Plugin:
    @archloom.hookimpl
    def register_search_spaces(self, register):
        register("deepening", Deepening)


@pytest.mark.parametrize("on_a_layer", [False, True])
def test_a_path_costs_what_its_network_does_and_the_bounds_hold_all_paths(on_a_layer):
    space, task = Deepening(on_a_layer=on_a_layer), tiny_task(SHAPE)
    costs = PathCosts(tiny_supernet(space, task), space, task)
    true = {
        one: count(assemble(space, one, task, ModelParts(), seed=0), SHAPE).macs for one in everything(space)
    }
    assert {one: costs(one) for one in true} == true
    assert costs.bounds() == (min(true.values()), max(true.values()))


def test_paths_of_every_depth_are_drawn_by_the_weights_of_their_options():
    space, task = Deepening(), tiny_task(SHAPE)
    costs = PathCosts(tiny_supernet(space, task), space, task)
    sampler, rng = Sampler(space, costs, "board"), random.Random(0)
    drawn = [sampler.draw(rng, {3: 1, 2: 1, "k5": 3, "skip": 1}) for _ in range(300)]
    assert all(check(space, one) == one for one in drawn)
    assert {one["depth"] for one in drawn} == {2, 3}
    assert {option for one in drawn for name, option in one.items() if name != "depth"} == {"k5", "skip"}


def test_a_search_finds_networks_of_the_space_and_resumes_to_the_same(tmp_path):
    config = {
        "space": "deepening",
        "task": {"type": "fake", "height": 8, "width": 8, "channels": 1, "size": 96, "test_size": 32},
        "method": {
            "type": "cream", "epochs": 3, "start_epoch": 1, "batch_size": 16, "board": 3, "board_images": 32,
            "meta_every": 2, "slices": 2, "unit_steps": 4,
        },
        "estimators": ["inherited_accuracy", "macs"],
        "objectives": ["accuracy.inherited"],
        "budget": {"trials": 3},
        "verdict": {"seeds": 0},
        "observers": [],
        "checkpoint_every": 0,
    }  # fmt: skip

    class Killed(BaseException):
        """As a signal ends a process."""

    def kill(event):
        if event["event"] == "fit" and event["unit"] == 2:
            raise Killed

    whole = archloom.search(config, tmp_path / "whole", host=host(Plugin()))
    assert all(check(Deepening(), trial.architecture) for trial in whole.trials)
    with pytest.raises(Killed):
        archloom.search(config, tmp_path / "killed", host=host(Plugin()), notify=kill)
    resumed = archloom.resume(tmp_path / "killed", host=host(Plugin()))
    told = lambda result: [(trial.architecture, trial.metrics) for trial in result.trials]
    assert told(resumed) == told(whole)


def test_a_latency_table_counts_the_layers_that_are_there():
    space = Deepening()
    table = build_table(space, SHAPE, 4, runs=1, warmup=0)
    entry = lambda layer, option: table.costs(layer)[("skip", "k1", "k3", "k5").index(option)]
    rng = random.Random(0)
    for one in (sample(space, rng) for _ in range(20)):
        layers = [(name, option) for name, option in one.items() if name != "depth"]
        assert len(layers) == one["depth"]
        assert table.latency(one) == pytest.approx(table.base + sum(entry(*layer) for layer in layers))
