"""Spaces that share weights and break one thing each, with the check of the contract that says so."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from archloom.architecture import Architecture
from archloom.space import Around
from archloom.testing import TinySpace
from wired import Auxiliary, Cells, Elastic, Narrow, Sliced


class Talkative(TinySpace):
    """In training its networks give two maps."""

    def around(self, body):
        class Twice(Around):
            def forward(self, x):
                x = super().forward(x)
                return (x, x) if self.training else x

        return Twice(nn.Conv2d(1, 4, 1), body)


class Headless(Elastic):
    """It owns its head, and its networks give whatever number of outputs they like."""

    def build(self, architecture, num_classes):
        return super().build(architecture, num_classes + 1)


class Murmuring(Auxiliary):
    """Its auxiliary logits are of other classes."""

    def wire(self, layers, num_classes):
        network = super().wire(layers, num_classes)
        network.early = nn.Linear(4, num_classes + 1)
        return network


class Asking(TinySpace):
    """A candidate asks its input for a value."""

    def candidate(self, choice, option):
        class Sometimes(nn.Sequential):
            def forward(self, x):
                return super().forward(x) if x.sum() > 0 else x

        return Sometimes(super().candidate(choice, option))


class Wordy(TinySpace):
    """Its networks take more than images."""

    def around(self, body):
        class Further(Around):
            def forward(self, x, selection=None):
                return super().forward(x)

        return Further(nn.Conv2d(1, 4, 1), body)


class SlicedWith(Elastic):
    """Its shared network is another one."""

    def shared(self, seed, num_classes):
        return type("Other", (Sliced,), dict(self.other))((2, 4, 6), 1, num_classes)


class Forgetful(SlicedWith):
    """A path trains the classifier, and its shared network does not say so."""

    other: ClassVar = {"path_parameters": lambda self, a: iter([("conv.weight", self.conv.weight)])}


class Renaming(SlicedWith):
    """It calls the parameters something else."""

    other: ClassVar = {"path_parameters": lambda self, a: ((f"x.{n}", p) for n, p in self.named_parameters())}


class Boastful(Elastic):
    """It says that its slices can be mixed."""

    differentiable = True


class Wide(SlicedWith):
    """What it extracts computes the same and has other parameters: the widest network, the rest of it at zero."""

    def _extract(self, architecture):
        child, n = Narrow(6, 1, len(self.classifier.bias)), architecture["width"]
        child.load_state_dict(self.state_dict())
        with torch.no_grad():
            child.classifier.weight[:, n:] = 0
        return child

    other: ClassVar = {"extract": _extract}


class Fickle(Cells):
    """The same probabilities mean another architecture each time."""

    def derive(self, probabilities):
        self.calls = getattr(self, "calls", 0) + 1
        return Architecture({"op1": "k1", "op2": ("k1", "k3")[self.calls % 2], "from2": 0})


class Foreign(Cells):
    """Its architecture parameters mean an architecture of another space."""

    def derive(self, probabilities):
        return Architecture({"op1": "k7", "op2": "k1", "from2": 0})


class Meaningless(Cells):
    """It has architecture parameters, and does not say what they mean."""

    def __getattribute__(self, name):
        if name == "derive":
            raise AttributeError(name)
        return super().__getattribute__(name)


BROKEN_SHARING = [
    ("test_its_networks_give_feature_maps", Headless, AssertionError, r"gives \(2, 8\), not \(2, 7\)"),
    (
        "test_in_training_its_networks_give_no_more_than_auxiliary_logits",
        Talkative,
        AssertionError,
        "in training",
    ),
    (
        "test_in_training_its_networks_give_no_more_than_auxiliary_logits",
        Murmuring,
        AssertionError,
        r"\[\(2, 7\), \(2, 8\)\]",
    ),
    ("test_an_extracted_network_is_a_plain_module", Asking, AssertionError, "does not take the network"),
    ("test_an_extracted_network_is_a_plain_module", Wordy, AssertionError, "not the images alone"),
    (
        "test_path_parameters_hold_all_that_a_path_trains",
        Forgetful,
        AssertionError,
        "leaves out .*classifier",
    ),
    ("test_path_parameters_hold_all_that_a_path_trains", Renaming, AssertionError, "own named_parameters"),
    ("test_its_candidates_can_be_mixed", Boastful, AssertionError, "can mix nothing, and the space says"),
    (
        "test_a_path_of_the_supernet_computes_what_the_extracted_network_computes",
        Wide,
        AssertionError,
        "other parameters than `build`",
    ),
    (
        "test_its_architecture_parameters_mean_an_architecture",
        Fickle,
        AssertionError,
        "and then .* for the same",
    ),
    (
        "test_its_architecture_parameters_mean_an_architecture",
        Foreign,
        AssertionError,
        "no architecture of the space",
    ),
    ("test_its_architecture_parameters_mean_an_architecture", Meaningless, AssertionError, "`relaxed` says"),
]
