from __future__ import annotations

import math
import unittest.mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from archloom.architecture import Architecture, Choice
from archloom.errors import SpaceError
from archloom.mixing import Mixture, gumbel_softmax, softmax, straight_through, top_k
from archloom.model import ModelParts
from archloom.ops import mixed_sum
from archloom.shared import Supernet
from archloom.space import Around, build_chain, sample
from toys import Blocks, Digits, state_of


def trained_like(supernet):
    """Weights and BatchNorm statistics moved away from where they start, as training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in supernet.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return supernet


@pytest.fixture
def supernet():
    return trained_like(Supernet(Blocks(depth=3), seed=1))


images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
paths = [
    Architecture({f"layer{i}": f"k{k}" for i, k in enumerate(ks)}) for ks in [(1, 1, 1), (1, 3, 1), (3, 3, 3)]
]


@pytest.mark.parametrize("path", paths, ids=str)
def test_an_extracted_child_gives_the_paths_output_to_the_bit(supernet, path):
    child = supernet.extract(path)
    for mode in (True, False):
        first, second = supernet.train(mode), child.train(mode)
        assert torch.equal(second(images), first(images, path))
    assert set(child.state_dict()) == set(Blocks(depth=3).build(path).state_dict())


def test_a_child_owns_its_weights_and_extracting_changes_nothing(supernet):
    before, generator = state_of(supernet), torch.random.get_rng_state()
    child = supernet.extract(paths[1])
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    child.train()(images)
    after = supernet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_a_whole_model_is_extracted_with_copies_of_neck_and_head():
    model = (
        ModelParts()
        .assemble(
            trained_like(Supernet(Blocks(), 0)),
            shape=(1, 8, 8),
            num_classes=5,
            selection=({"layer0": 0, "layer1": 0},),
        )
        .eval()
    )
    path = Architecture({"layer0": "k3", "layer1": "k1"})
    child = model.extract(path).eval()
    assert torch.equal(child(images), model(images, path))
    assert child.head.fc.weight.data_ptr() != model.head.fc.weight.data_ptr()


def test_a_path_uses_the_parameters_that_a_backward_reaches_and_no_others(supernet):
    for path in paths:
        supernet.zero_grad()
        supernet(images, path).sum().backward()
        reached = {name for name, p in supernet.named_parameters() if p.grad is not None}
        assert {name for name, _ in supernet.path_parameters(path)} == reached


def test_a_mixture_is_the_weighted_sum_of_its_paths():
    supernet = trained_like(Supernet(Blocks(depth=1), 0)).eval()
    weights = torch.tensor([0.3, 0.7])
    mixed = supernet(images, {"layer0": Mixture(weights, (0, 1))})
    alone = [supernet(images, {"layer0": position}) for position in (0, 1)]
    assert torch.allclose(mixed, 0.3 * alone[0] + 0.7 * alone[1], atol=1e-6)


def test_only_active_candidates_of_a_mixture_are_run():
    supernet = Supernet(Blocks(depth=1), 0)
    run = []
    for position, option in enumerate(supernet.network.body.layer0.options):
        option.register_forward_hook(lambda *_, position=position: run.append(position))
    supernet(images, {"layer0": Mixture(torch.tensor([0.0, 1.0]), (1,))})
    assert run == [1]


def test_mixed_sum_needs_a_candidate():
    with pytest.raises(ValueError, match="at least one candidate"):
        mixed_sum([None, None], torch.ones(2))


# -- draws --------------------------------------------------------------------------------------------------

thetas = st.lists(st.floats(-3, 3), min_size=2, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def by_hand(theta, temperature, noise=None):
    """softmax((theta + g) / tau), written with the standard library."""
    raised = [
        math.exp((t + (0.0 if noise is None else noise[i])) / temperature)
        for i, t in enumerate(theta.tolist())
    ]
    return [value / sum(raised) for value in raised]


def gumbel_by_hand(n, seed):
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    return [-math.log(-math.log(max(u, 1e-20))) for u in uniform]


def drawn(draw, theta, temperature, seed=7):
    theta = theta.clone().requires_grad_()
    return theta, draw(theta, temperature, torch.Generator().manual_seed(seed))


@given(thetas, st.floats(0.5, 5))
@settings(deadline=None)
def test_softmax_is_the_formula_without_noise(theta, temperature):
    _, mixture = drawn(softmax, theta, temperature)
    assert mixture.weights.tolist() == pytest.approx(by_hand(theta, temperature))
    assert mixture.active == tuple(range(len(theta)))


@given(thetas, st.floats(0.5, 5), st.integers(0, 99))
@settings(deadline=None)
def test_gumbel_softmax_is_the_formula_with_noise_and_its_gradient_the_softmaxs(theta, temperature, seed):
    leaf, mixture = drawn(gumbel_softmax, theta, temperature, seed)
    w = by_hand(theta, temperature, gumbel_by_hand(len(theta), seed))
    assert mixture.weights.tolist() == pytest.approx(w)
    mixture.weights[0].backward()
    expected = [w[0] * ((i == 0) - w[i]) / temperature for i in range(len(w))]
    assert leaf.grad.tolist() == pytest.approx(expected, abs=1e-12)


@given(thetas, st.floats(0.5, 5), st.integers(0, 99))
@settings(deadline=None)
def test_straight_through_is_one_path_of_weight_one_and_every_weight_has_the_soft_gradient(
    theta, temperature, seed
):
    w = by_hand(theta, temperature, gumbel_by_hand(len(theta), seed))
    chosen = max(range(len(w)), key=w.__getitem__)
    for draw in (straight_through, top_k(1)):
        for k in range(len(w)):
            leaf, mixture = drawn(draw, theta, temperature, seed)
            assert mixture.active == (chosen,)
            assert mixture.weights.tolist() == [float(i == chosen) for i in range(len(w))]
            mixture.weights[k].backward()
            expected = [w[k] * ((i == k) - w[i]) / temperature for i in range(len(w))]
            assert leaf.grad.tolist() == pytest.approx(expected, abs=1e-12)


@given(thetas, st.floats(0.5, 5), st.integers(0, 99), st.integers(0, 99))
@settings(deadline=None)
def test_straight_through_gives_a_cost_the_gradient_of_pytorchs_hard_gumbel_softmax(
    theta, temperature, seed, costs
):
    cost = torch.rand(len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(costs))
    ours, mixture = drawn(straight_through, theta, temperature, seed)
    (mixture.weights * cost).sum().backward()
    noise = torch.tensor(gumbel_by_hand(len(theta), seed), dtype=torch.float64)
    theirs = theta.clone().requires_grad_()
    with unittest.mock.patch("torch.Tensor.exponential_", lambda x: x.copy_((-noise).exp())):
        weights = F.gumbel_softmax(theirs, temperature, hard=True, dim=0)
    assert weights.tolist() == mixture.weights.tolist()
    (weights * cost).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_equal_costs_push_no_candidate_and_the_cheaper_of_two_wins():
    def slope(costs, seed):
        theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        weights = straight_through(theta, 1.0, torch.Generator().manual_seed(seed)).weights
        (weights * torch.tensor(costs, dtype=torch.float64)).sum().backward()
        return theta.grad

    assert max(slope([10, 10], seed).abs().max() for seed in range(50)) < 1e-12
    for seed in range(50):
        assert slope([10, 11], seed)[0] < 0 < slope([10, 11], seed)[1]


@given(thetas, st.integers(2, 8), st.integers(0, 99))
@settings(deadline=None)
def test_top_k_keeps_the_k_heaviest_scaled_to_one(theta, k, seed):
    leaf, mixture = drawn(top_k(k), theta, 1.0, seed)
    w = by_hand(theta, 1.0, gumbel_by_hand(len(theta), seed))
    kept = sorted(sorted(range(len(w)), key=w.__getitem__)[-k:])
    assert mixture.active == tuple(kept)
    total = sum(w[i] for i in kept)
    assert mixture.weights.tolist() == pytest.approx(
        [w[i] / total if i in kept else 0.0 for i in range(len(w))]
    )
    mixture.weights[kept[0]].backward()
    assert leaf.grad.abs().sum() > 0


def test_single_precision_keeps_the_straight_through_weight_exactly_one():
    for seed in range(200):
        _, mixture = drawn(straight_through, torch.randn(9), 5.0, seed)
        assert sorted(mixture.weights.tolist()) == [0.0] * 8 + [1.0]


def test_gumbel_draws_follow_the_softmax_of_theta():
    theta, generator = torch.tensor([0.0, 1.0, 2.0]), torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(3000):
        counts[straight_through(theta, 1.0, generator).active[0]] += 1
    # the standard deviation of each share is below 0.01
    assert torch.allclose(counts / 3000, torch.softmax(theta, 0), atol=0.04)


# -- spaces that cannot ---------------------------------------------------------------------------------------


def test_a_space_without_candidates_is_refused_in_one_sentence():
    with pytest.raises(
        SpaceError,
        match=r"^Digits shares no weights: a supernet needs its 'candidate' and 'around', or its 'layers', 'candidate' "
        "and 'wire'$",
    ):
        Supernet(Digits(), 0)


def test_a_choice_that_is_half_a_layer_is_refused():
    space = Blocks()
    space.candidate = lambda choice, option: nn.Identity() if option == "k1" else None
    with pytest.raises(SpaceError, match="'layer0' has a module for some of its options and none for others"):
        Supernet(space, 0)


def test_a_choice_that_is_no_layer_is_left_to_the_space():
    class Sized(Blocks):
        def __init__(self):
            super().__init__()
            self.choices = [*self.choices, Choice("resolution", (8, 16))]

        def candidate(self, choice, option):
            return None if choice.name == "resolution" else super().candidate(choice, option)

    supernet = Supernet(Sized(), 0)
    path = Architecture({"layer0": "k1", "layer1": "k3", "resolution": 16})
    assert set(supernet.layers) == {"layer0", "layer1"}
    assert torch.equal(supernet.eval().extract(path).eval()(images), supernet(images, path))


def test_a_space_that_builds_other_blocks_than_it_shares_is_refused():
    class Two(Blocks):
        def build(self, architecture):
            return Around(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1))

    with pytest.raises(SpaceError, match="build and its supernet disagree"):
        Supernet(Two(), 0).extract(paths[0].__class__({"layer0": "k1", "layer1": "k1"}))


def test_around_that_loses_the_body_is_refused():
    space = Blocks()
    space.around = lambda body: nn.Identity()
    with pytest.raises(SpaceError, match="does not hold the body"):
        Supernet(space, 0)


def test_weights_are_a_function_of_the_seed():
    first, second, other = (state_of(Supernet(Blocks(), seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_build_uses_the_shared_candidates():
    import random

    space = Blocks(depth=3)
    path = sample(space, random.Random(0))
    assert [type(m) for m in build_chain(space, path).modules()] == [
        type(m) for m in space.build(path).modules()
    ]
