"""Shared networks of other kinds than a chain that ends at a feature map: each trains, and is extracted."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
import torch.fx
from torch import nn

from archloom import testing
from archloom.architecture import Architecture
from archloom.errors import ConfigError, SpaceError
from archloom.mixing import Mixture, softmax
from archloom.model import AuxiliaryLoss, ModelParts, assemble, assemble_shared
from archloom.shared import (
    SharedNetwork,
    Supernet,
    an_architecture,
    derive,
    offers,
    relaxed,
    shared_network,
)
from archloom.space import sample
from archloom.testing import tiny_task
from wired import Auxiliary, Cells, Deep, Elastic, TokenMean, Tokens

TASK = tiny_task()
SPACES = {"cells": Cells, "sliced": Elastic, "auxiliary": Auxiliary, "tokens": Tokens, "depth": Deep}


def parts_for(name):
    return ModelParts(neck=TokenMean) if name == "tokens" else ModelParts()


def batch(step=0):
    x, y = next(iter(torch.utils.data.DataLoader(TASK.dataset("weights"), 16)))
    return x, y


def train_two_steps(model, space):
    """One path a step, as the simplest method does."""
    rng, optimizer = random.Random(0), torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(2):
        x, y = batch()
        optimizer.zero_grad()
        loss = model.loss(model(x, sample(space, rng)), y)
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", SPACES)
def test_a_shared_network_of_any_kind_trains_and_a_path_is_extracted_to_equal_logits(name):
    space = SPACES[name]()
    model = assemble_shared(space, TASK, parts_for(name), seed=0)
    assert isinstance(model.backbone, SharedNetwork)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train_two_steps(model, space)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    x, _ = batch()
    for seed in range(4):
        path = sample(space, random.Random(seed))
        child = model.extract(path).eval()
        with torch.no_grad():
            assert torch.allclose(child(x), model(x, path), rtol=1e-5, atol=1e-6)
        assert set(child.state_dict()) == set(
            assemble(space, path, TASK, parts_for(name), seed=0).state_dict()
        )


@pytest.mark.parametrize("name", SPACES)
def test_path_parameters_are_those_that_a_backward_reaches(name):
    space = SPACES[name]()
    network = shared_network(space, 0, 4)
    for seed in range(4):
        path = sample(space, random.Random(seed))
        network.zero_grad()
        given = network.train()(batch()[0], path)
        sum(each.sum() for each in (given if isinstance(given, tuple) else (given,))).backward()
        reached = {key for key, p in network.named_parameters() if p.grad is not None}
        assert {key for key, _ in network.path_parameters(path)} == reached


# -- wiring ---------------------------------------------------------------------------------------------------


def test_layers_that_share_an_architecture_parameter_run_the_same_mixture():
    space = Cells()
    supernet = Supernet(space, 0).eval()
    assert supernet.mixable == space.relaxed == relaxed(space) == {f"edge{e}": 4 for e in ("01", "02", "12")}
    weights = {name: torch.rand(4) for name in supernet.mixable}
    x = batch()[0]
    mixed = supernet(x, {name: Mixture(w, (0, 1, 2, 3)) for name, w in weights.items()})
    cells = supernet.network.body

    def edge(cell, name, x):
        options = cells[cell].edges[f"c{cell}_{name}"].options
        w = weights[f"edge{name}"]
        return w[1] * x + w[2] * options[2](x) + w[3] * options[3](x)  # "none" gives nothing

    by_hand = supernet.network.stem(x)
    for cell in range(2):
        first = edge(cell, "01", by_hand)
        by_hand = first + edge(cell, "02", by_hand) + edge(cell, "12", first)
    assert torch.allclose(mixed, by_hand, atol=1e-5)


def test_a_path_runs_what_chosen_says_and_leaves_the_other_edges_out():
    space = Cells()
    supernet = Supernet(space, 0).eval()
    path = Architecture({"op1": "k3", "op2": "skip", "from2": 1})
    cells, x = supernet.network.body, batch()[0]
    by_hand = supernet.network.stem(x)
    for cell in range(2):
        first = cells[cell].edges[f"c{cell}_01"].options[3](by_hand)
        by_hand = first + first
    assert torch.allclose(supernet(x, path), by_hand, atol=1e-6)
    assert not any("c0_02" in key for key in supernet.extract(path).state_dict())


def test_an_active_option_without_a_module_alone_gives_nothing():
    supernet = Supernet(Cells(), 0).eval()
    one = Mixture(torch.tensor([1.0, 0, 0, 0]), (0,))
    assert torch.equal(supernet(batch()[0], dict.fromkeys(supernet.mixable, one)), torch.zeros(16, 4, 8, 8))


def test_derive_is_the_spaces_own_or_the_likeliest_option_of_each_choice():
    even = {name: [0.9, 0.02, 0.03, 0.05] for name in Cells().relaxed}
    assert derive(Cells(), even | {"edge12": [0.1, 0.2, 0.3, 0.4]}) == Architecture(
        {"op1": "k3", "op2": "k3", "from2": 1}
    )
    tiny = testing.TinySpace(layers=2)
    assert relaxed(tiny) == {"layer0": 4, "layer1": 4}
    found = derive(tiny, {"layer0": [0.4, 0.4, 0.1, 0.1], "layer1": [0, 0, 0.2, 0.8]})
    assert found == Architecture({"layer0": "skip", "layer1": "k5"})
    with pytest.raises(SpaceError, match="which option of layer1 is meant"):
        derive(tiny, {"layer0": [1, 0, 0, 0]})


def test_what_a_space_offers_is_what_can_be_made_of_it():
    class Plain:
        choices = Cells().choices

        def build(self, architecture):
            return nn.Identity()

    assert offers(Cells()) == offers(testing.TinySpace()) == {"supernet", "differentiable"}
    assert offers(Elastic()) == {"supernet"}
    assert offers(Plain()) == set()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda space: space.layers.update({"a.b": "edge01"}), r"layer 'a\.b' of Cells has a dot"),
        (
            lambda space: space.layers.update(far="edge99"),
            "is filled by 'edge99', which is neither a choice nor",
        ),
        (
            lambda space: setattr(space, "candidate", lambda layer, option: None),
            "a module for none of its options",
        ),
        (lambda space: setattr(space, "wire", lambda layers: nn.Identity()), "does not hold c0_01, c0_02"),
        (
            lambda space: setattr(space, "chosen", lambda a: {"nowhere": 1}),
            r"names \['nowhere'\], which are none",
        ),
        (lambda space: setattr(space, "chosen", lambda a: {"c0_01": 9}), "has no option 9"),
    ],
)
def test_wiring_that_cannot_be_is_refused(change, told):
    space = Cells()
    change(space)
    with pytest.raises(SpaceError, match=told):
        Supernet(space, 0)(batch()[0], an_architecture(space))


def test_architecture_parameters_without_a_word_of_what_an_architecture_runs_are_refused():
    class Silent(Cells):
        chosen = None

    with pytest.raises(
        SpaceError, match="nothing says what an architecture puts there; give the space chosen"
    ):
        Supernet(Silent(), 0)(batch()[0], an_architecture(Silent()))


def test_a_selection_that_forgets_a_decision_is_refused():
    supernet = Supernet(Cells(), 0)
    with pytest.raises(SpaceError, match="says nothing about edge12; give each decision"):
        supernet(batch()[0], {"edge01": 1, "edge02": softmax(torch.zeros(4), 1.0)})


def test_a_layer_whose_choice_is_not_decided_is_left_out_of_the_path():
    supernet = Supernet(Deep(), 0).eval()
    x = supernet.network.stem(batch()[0])
    shallow = Architecture({"depth": 1, "kernel0": "k3"})
    body = supernet.network.body
    assert torch.equal(supernet(batch()[0], shallow), body.kernel0.options[1](x))
    assert [key for key in supernet.extract(shallow).state_dict() if "kernel" in key]
    assert not any("kernel1" in key for key in supernet.extract(shallow).state_dict())
    assert supernet.mixable == {"kernel0": 2, "kernel1": 2, "kernel2": 2}


# -- networks that own their head -----------------------------------------------------------------------------


def test_a_model_weighs_auxiliary_logits_in_training_and_shows_the_main_ones():
    model = assemble_shared(Auxiliary(), TASK, ModelParts(), seed=0).train()
    path, (x, y) = Architecture({"first": "k1", "second": "k3"}), batch()
    logits = model(x, path)
    loss = model.loss(logits, y)
    main, auxiliary = model.backbone(x, path)
    assert torch.allclose(logits, main)
    plain = nn.CrossEntropyLoss()
    assert torch.allclose(loss, plain(main, y) + 0.3 * plain(auxiliary, y))
    assert torch.allclose(
        model.loss(main, y), plain(main, y)
    )  # the loss of other logits has no auxiliary part
    model(x, path)
    assert torch.allclose(model.eval().loss(model(x, path), y), plain(model.backbone(x, path), y))


def test_a_model_that_owns_its_head_can_be_copied_in_the_midst_of_training():
    model = assemble_shared(Auxiliary(), TASK, ModelParts(), seed=0).train()
    path, (x, y) = Architecture({"first": "k1", "second": "k3"}), batch()
    model(x, path)
    child = model.extract(path).train()
    assert isinstance(child.loss, AuxiliaryLoss)
    child.loss(child(x), y).backward()
    assert child.backbone.early.weight.grad is not None


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("way", [torch.jit.script, torch.fx.symbolic_trace])
def test_an_extracted_model_can_be_made_a_graph(name, way):
    space = SPACES[name]()
    child = assemble_shared(space, TASK, parts_for(name), seed=0).extract(an_architecture(space)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit says that it is old
        assert torch.allclose(way(child)(batch()[0]), child(batch()[0]), atol=1e-6)


def test_a_compiled_model_weighs_auxiliary_logits_too():
    path, (x, y) = Architecture({"first": "k1", "second": "k3"}), batch()
    model = assemble(Auxiliary(), path, TASK, ModelParts(), seed=0).train()
    expected = model.loss(model(x), y)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        assert torch.allclose(model.loss(compiled(x), y), expected)


def test_a_network_that_gives_other_than_logits_is_refused():
    space = Elastic()
    space.build = lambda architecture, num_classes: nn.Flatten()
    with pytest.raises(
        ConfigError, match=r"owns its head, gives a tensor of shape \(1, 64\).*must give \(1, 4\)"
    ):
        assemble(space, Architecture({"width": 2}), TASK, ModelParts(), seed=0)


def test_a_space_that_owns_its_head_must_be_told_the_number_of_outputs():
    with pytest.raises(SpaceError, match="say how many outputs"):
        shared_network(Elastic(), 0)


def test_a_shared_network_without_its_methods_is_refused():
    space = Elastic()
    space.shared = lambda seed, num_classes: nn.Identity()
    with pytest.raises(SpaceError, match="Identity, which is no shared network: it lacks mixable, extract"):
        shared_network(space, 0, 4)


# -- the contract -----------------------------------------------------------------------------------------------


class TestCellsKeepTheContract(testing.SharedSpaceContract):
    factory, shape = Cells, (1, 8, 8)


class Twofold(Cells):
    """The cells with a proxy of half of them."""

    @property
    def proxy(self) -> Cells:
        return Cells(in_channels=self.in_channels)

    def wire(self, layers: Any) -> Any:
        once = super().wire(layers)
        return nn.Sequential(once, copy.deepcopy(once.body))


class TestASpaceWithAProxyKeepsTheContract(testing.SharedSpaceContract):
    factory, shape = Twofold, (1, 8, 8)


class TestSlicesKeepTheContract(testing.SharedSpaceContract):
    factory, shape = Elastic, (1, 8, 8)


class TestAnAuxiliaryHeadKeepsTheContract(testing.SharedSpaceContract):
    factory, shape = Auxiliary, (1, 8, 8)


class TestTokensKeepTheContract(testing.SharedSpaceContract):
    factory, shape = Tokens, (1, 8, 8)


class TestADepthKeepsTheContract(testing.SharedSpaceContract):
    factory, shape = Deep, (1, 8, 8)
