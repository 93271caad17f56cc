"""The contract of search spaces that share weights."""

from __future__ import annotations

import inspect
import random
import warnings
from typing import Any

import torch
import torch.fx
from torch import nn

from ..architecture import Architecture
from ..errors import ArchloomError
from ..mixing import softmax
from ..model import shapes
from ..randomness import torch_rng
from ..shared import derive, offers, proxy_of, relaxed, shared_network
from .checks import require, same, snapshot
from .spaces import OUTPUTS, SpaceContract


class SharedSpaceContract(SpaceContract):
    """Checks a search space that shares weights, in whatever way: all of `SpaceContract`, and its shared network."""

    def test_a_shared_network_can_be_made_of_it(self) -> None:
        require(
            "supernet" in offers(self._make()),
            "a space that shares weights has `candidate` and `around`; `layers`, `candidate` and `wire`; or `shared`",
        )
        self._shared(self._make())

    def _shared(self, space: Any, seed: int = 0) -> Any:
        try:
            return shared_network(space, seed, OUTPUTS).eval()
        except ArchloomError as error:
            raise AssertionError(str(error)) from error

    def _extracted(self, shared: Any, architecture: Architecture) -> nn.Module:
        try:
            child: nn.Module = shared.extract(architecture)
        except ArchloomError as error:
            raise AssertionError(str(error)) from error
        return child.eval()

    def test_a_path_of_the_supernet_computes_what_the_extracted_network_computes(self) -> None:
        space = self._make()
        shared = self._shared(space)
        _disturb(shared)
        for architecture in self._architectures(space):
            images = self._images(space, architecture)
            child = self._extracted(shared, architecture)
            with torch.no_grad():
                path, alone = shared(images, architecture), child(images)
            require(
                path.shape == alone.shape and torch.allclose(path, alone, rtol=1e-5, atol=1e-6),
                f"a path of the supernet and the network extracted from it differ for {architecture}: "
                "`build` and the supernet must both be made of `candidate` and `around`, or of `candidate` and `wire`",
            )
            with torch.device("meta"):
                built = self._build(proxy_of(space), architecture)
            require(
                _sizes(child) == _sizes(built),
                f"the network extracted for {architecture} has other parameters than `build` gives it",
            )

    def test_an_extracted_network_is_a_plain_module(self) -> None:
        space = self._make()
        shared = self._shared(space)
        for architecture in self._architectures(space):
            child, images = self._extracted(shared, architecture), self._images(space, architecture)
            taken = list(inspect.signature(child.forward).parameters)
            require(
                len(taken) == 1,
                f"the forward of the network extracted for {architecture} takes {taken}, not the images alone",
            )
            for way in (torch.fx.symbolic_trace, torch.jit.script):
                try:
                    with torch.no_grad(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # torch.jit says that it is old
                        graph: Any = way(child)
                        agrees = torch.allclose(graph(images), child(images), rtol=1e-4, atol=1e-5)
                except Exception as error:
                    raise AssertionError(
                        f"{way.__module__}.{way.__name__} does not take the network extracted for "
                        f"{architecture}: {type(error).__name__}: {error}. Let its forward ask no tensor for a "
                        "value, and annotate it (archloom.graphs.typed)"
                    ) from error
                require(agrees, f"as a graph the network of {architecture} gives other numbers")

    def test_extracting_leaves_the_supernet_as_it_was(self) -> None:
        space = self._make()
        shared = self._shared(space)
        before = snapshot(shared)
        child = shared.extract(self._architectures(space, 1)[0])
        _disturb(child)
        require(same(before, snapshot(shared)), "changing an extracted network changed the supernet")

    def test_path_parameters_hold_all_that_a_path_trains(self) -> None:
        space = self._make()
        shared = self._shared(space)
        for architecture in self._architectures(space):
            shared.zero_grad()
            given = shared(self._images(space, architecture), architecture)
            given.sum().backward()
            known = dict(shared.named_parameters())
            named = dict(shared.path_parameters(architecture))
            reached = {name for name, parameter in known.items() if parameter.grad is not None}
            require(
                all(known.get(name) is parameter for name, parameter in named.items()),
                "path_parameters gives the names and parameters of the shared network's own named_parameters()",
            )
            require(
                reached <= set(named),
                f"path_parameters leaves out {sorted(reached - set(named))[:4]}, which the path of {architecture} uses",
            )

    def test_the_supernets_weights_follow_the_seed(self) -> None:
        first, second = (self._shared(self._make(), seed=5) for _ in range(2))
        require(
            same(dict(first.state_dict()), dict(second.state_dict())),
            "two supernets of the same seed have different weights",
        )

    def test_its_candidates_can_be_mixed(self) -> None:
        space = self._make()
        shared = self._shared(space)
        mixable, said = dict(shared.mixable), "differentiable" in offers(space)
        require(
            bool(mixable) == said,
            f"its shared network can mix {sorted(mixable) or 'nothing'}, and the space says differentiable = {said}",
        )
        if not said:
            return
        selection = {name: softmax(torch.zeros(number), 1.0) for name, number in mixable.items()}
        chosen = self._architectures(space, 1)[0]
        images = self._images(space, chosen)
        try:
            mixed = shared(images, selection)
        except RuntimeError as error:
            raise AssertionError(
                f"the candidates cannot be mixed: {error}. Give the options of a choice one output shape, or "
                "say differentiable = False"
            ) from error
        path = shared(images, chosen)
        require(mixed.shape == path.shape, f"a mixture gives {shapes(mixed)}, a path {shapes(path)}")

    def test_its_architecture_parameters_mean_an_architecture(self) -> None:
        space = self._make()
        numbers = relaxed(space)
        if not hasattr(space, "derive") and not all(choice.name in numbers for choice in space.choices):
            require(
                not hasattr(space, "relaxed"),
                "a space with `relaxed` says what it means: derive(probabilities)",
            )
            return  # a resolution, say, which is no layer: no method that mixes decides about it
        drawn = random.Random(0)
        for _ in range(self.samples):
            probabilities = {name: [drawn.random() for _ in range(count)] for name, count in numbers.items()}
            try:
                found = [derive(space, probabilities) for _ in range(2)]
            except ArchloomError as error:
                raise AssertionError(f"derive gives no architecture of the space: {error}") from error
            require(found[0] == found[1], f"derive gives {found[0]}, and then {found[1]} for the same")


def _sizes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _disturb(module: nn.Module) -> None:
    """Other numbers in every parameter and buffer, so that a fresh start hides nothing."""
    generator = torch_rng(0, "disturb")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
