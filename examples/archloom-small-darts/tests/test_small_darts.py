import pytest
import torch
from archloom_small_darts import OPERATIONS, Cells, Darts

from archloom import check, size
from archloom.testing import SharedSpaceContract, WeightSharingContract

SMALL = {"channels": 4, "cells": 2, "nodes": 3}


class TestCellsKeepTheContract(SharedSpaceContract):
    factory, options, shape = Cells, SMALL, (1, 8, 8)


class TestDartsKeepsTheContract(WeightSharingContract):
    factory, options = Darts, {"epochs": 2, "batch_size": 16}

    def space(self):
        return Cells(**SMALL)


@pytest.fixture
def method():
    torch.manual_seed(0)
    return TestDartsKeepsTheContract()._method()


def batch(method):
    return next(method.batches("architecture", 0))


def loss_with(method, name, position, shift, x, y):
    with torch.no_grad():
        method.alpha[name][position] += shift
        weights = {key: alpha.softmax(0) for key, alpha in method.alpha.items()}
        logits = method.supernet(x, {key: every(weight) for key, weight in weights.items()})
        method.alpha[name][position] -= shift
        return float(method.supernet.loss(logits, y))


def every(weights):
    from archloom.mixing import Mixture

    return Mixture(weights, tuple(range(len(weights))))


def everywhere(option, **others):
    space = Cells(**SMALL)
    return check(space, {choice.name: others.get(choice.name, option) for choice in space.choices})


def test_a_space_of_three_edges_has_as_many_networks_as_their_operations_allow():
    assert size(Cells(**SMALL)) == len(OPERATIONS) ** 3


def test_an_edge_that_is_none_is_left_out_of_the_network_in_every_cell():
    net = Cells(**SMALL).build(everywhere("none", edge0_2="conv_3x3"))
    kernels = [m.kernel_size for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kernels == [(3, 3)] * (1 + 2)  # the stem, and one in each cell


def test_a_node_is_the_sum_of_the_nodes_before_it():
    net = Cells(channels=2, cells=1, nodes=4).build(
        check(
            Cells(channels=2, cells=1, nodes=4),
            {f"edge{i}_{j}": "skip_connect" for j in range(4) for i in range(j)},
        )
    )
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(net[1](x), 4 * x)  # 1, 1, 1 + 1, 1 + 1 + 2 times the input


def test_the_gradient_of_alpha_is_that_of_the_held_out_loss_with_w_fixed(method):
    method.supernet.double()
    method.alpha.double()
    x, y = batch(method)
    x = x.double()
    before = {key: value.clone() for key, value in method.supernet.named_parameters()}
    method.step((x, y), method.alpha, torch.optim.SGD(method.alpha.parameters(), 0.0), still=method.supernet)
    for name, alpha in method.alpha.items():
        for position in range(len(alpha)):
            high, low = (loss_with(method, name, position, shift, x, y) for shift in (1e-5, -1e-5))
            assert float(alpha.grad[position]) == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-8)
    assert all(before[key].equal(value) for key, value in method.supernet.named_parameters())


def test_a_step_of_w_leaves_alpha_as_it_is(method):
    before = {name: alpha.detach().clone() for name, alpha in method.alpha.items()}
    weight = next(method.supernet.parameters()).detach().clone()
    method.step(batch(method), method.supernet, method.sgd, still=method.alpha)
    assert all(before[name].equal(alpha) for name, alpha in method.alpha.items())
    assert not weight.equal(next(method.supernet.parameters()))


def test_the_likeliest_operation_of_each_edge_is_proposed_once(method):
    with torch.no_grad():
        for number, alpha in enumerate(method.alpha.values()):
            alpha[number] += 1
    assert list(method.propose().values()) == list(OPERATIONS[:3])
    assert method.propose() is None


def test_the_plugin_is_a_module_of_at_most_150_lines():
    import archloom_small_darts

    with open(archloom_small_darts.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) <= 150
