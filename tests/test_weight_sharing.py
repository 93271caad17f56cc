"""What methods that train a shared network have in common."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from archloom.cost import count
from archloom.errors import SpaceError
from archloom.model import ModelParts, assemble_shared
from archloom.space import sample
from archloom.testing import TinySpace, tiny_task
from archloom.weight_sharing import held_still, option_costs, spans
from wired import Auxiliary, Cells, Deep, Elastic, TokenMean, Tokens


@given(
    epochs=st.integers(1, 8),
    warmup=st.integers(0, 8),
    weights=st.integers(1, 9),
    theta=st.integers(1, 9),
    span=st.integers(1, 10),
)
def test_spans_hold_every_step_once_and_in_order(epochs, warmup, weights, theta, span):
    steps = {"weights": weights, "theta": theta}
    passes = [(e, p) for e in range(epochs) for p in (("weights",) if e < warmup else ("weights", "theta"))]
    found = spans(epochs, steps, span, lambda epoch: [p for e, p in passes if e == epoch])
    taken = [(s.epoch, s.phase, i) for s in found for i in range(s.start, s.stop)]
    assert taken == [(e, p, i) for e, p in passes for i in range(steps[p])]
    assert [s.before for s in found] == [sum(t.stop - t.start for t in found[:n]) for n in range(len(found))]
    assert all(s.stop - s.start <= span for s in found)
    assert found[-1].epochs == epochs
    assert all(a.epochs < b.epochs for a, b in pairwise(found))
    assert [s.last for s in found] == [a.epoch != b.epoch for a, b in pairwise(found)] + [True]


def test_an_epoch_has_a_pass_of_each_phase_unless_said_otherwise():
    found = spans(3, {"weights": 7}, 3)
    assert [s.before + i for s in found for i in range(s.stop - s.start)] == list(range(21))
    assert [s.last for s in found] == [False, False, True] * 3
    assert [s.phase for s in spans(2, {"w": 1, "alpha": 1}, 5)] == ["w", "alpha"] * 2


def test_parameters_are_held_still_inside_the_block_and_frozen_ones_stay_frozen():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    layer.weight.grad = torch.ones(2, 2)
    alpha = nn.Parameter(torch.ones(2))
    with held_still(layer.parameters()):
        layer(alpha).sum().backward()
        assert layer.weight.grad is None
        assert alpha.grad is not None
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize(
    "space",
    [TinySpace(layers=3), Cells(), Auxiliary(), Tokens(), Deep()],
    ids=lambda space: type(space).__name__,
)
def test_option_costs_sum_to_those_of_any_path(space):
    task = tiny_task()
    parts = ModelParts(neck=TokenMean) if isinstance(space, Tokens) else ModelParts()
    model = assemble_shared(space, task, parts, seed=0)
    costs = option_costs(model, task.shape)
    for seed in range(6):
        path = sample(space, random.Random(seed))
        assert costs.of(model.backbone.positions(path)) == count(model, task.shape, path).macs
        assert costs.of(model.backbone.positions(path)) == count(model.extract(path), task.shape).macs
    assert {name: len(options) for name, options in costs.by_decision().items()} == model.shared.mixable


def test_a_decision_costs_what_its_option_costs_in_all_its_layers():
    model = assemble_shared(Cells(), tiny_task(), ModelParts(), seed=0)
    edge = option_costs(model, (1, 8, 8)).by_decision()["edge01"]
    assert edge == (
        0,
        0,
        2 * 4 * 4 * 64,
        2 * 9 * 4 * 4 * 64,
    )  # none, skip, and two cells' 1x1 and 3x3 convolutions


def test_slices_have_no_costs_of_their_own_but_a_path_can_be_counted():
    model = assemble_shared(Elastic(), tiny_task(), ModelParts(), seed=0)
    with pytest.raises(SpaceError, match="options of Sliced are no modules"):
        option_costs(model, (1, 8, 8))
    for seed in range(4):
        path = sample(Elastic(), random.Random(seed))
        assert count(model, (1, 8, 8), path).macs == count(model.extract(path), (1, 8, 8)).macs
