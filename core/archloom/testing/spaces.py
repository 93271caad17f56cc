"""The contract of search spaces, with and without shared weights."""

from __future__ import annotations

import json
import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..architecture import Architecture, Choice
from ..errors import ArchloomError, SpaceError
from ..mixing import softmax
from ..model import evaluating, output_shape
from ..randomness import forked_rng, torch_rng
from ..shared import Supernet
from ..space import canonical, check, check_choices, sample, violations
from .checks import Contract, global_generators_untouched, require, same, snapshot
from .tiny import tiny_task


class SpaceContract(Contract):
    """Checks a search space. shape: (C, H, W) of the images that its networks are given. samples: how many
    random architectures are built in a check."""

    kind = "space"
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    samples: ClassVar[int] = 4

    def _architectures(self, space: Any, count: int | None = None) -> list[Architecture]:
        rng, found = random.Random(0), []
        for _ in range(1000):
            architecture = sample(space, rng)
            if not violations(space, architecture):
                found.append(architecture)
            if len(found) == (count or self.samples):
                return found
        raise AssertionError("of 1000 random architectures the space forbids nearly all; make them choices")

    def _images(self, space: Any, architecture: Architecture, count: int = 2) -> Tensor:
        own = getattr(space, "input_shape", None)
        shape = tuple(own(architecture, tiny_task(self.shape))) if own else self.shape
        return torch.randn(count, *shape, generator=torch_rng(0, "images"))

    def test_its_choices_are_choices_with_names_of_their_own(self) -> None:
        try:
            choices = list(self._make().choices)
        except SpaceError as error:
            raise AssertionError(str(error)) from error
        require(choices, "the space has no choices")
        for choice in choices:
            require(isinstance(choice, Choice), f"{choice!r} is not an archloom.architecture.Choice")
        names = [choice.name for choice in choices]
        require(len(set(names)) == len(names), f"a name stands for two choices: {names}")

    def test_it_is_the_same_space_each_time_that_it_is_made(self) -> None:
        first, second = self._make(), self._make()
        require(
            list(first.choices) == list(second.choices),
            "the same options made other choices the second time; a resumed run would search another space",
        )

    def test_its_architectures_survive_json(self) -> None:
        space = self._make()
        for architecture in self._architectures(space):
            back = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
            require(check(space, back) == architecture, f"{architecture} comes back from JSON as {back}")

    def test_its_networks_give_feature_maps(self) -> None:
        space = self._make()
        for architecture in self._architectures(space):
            images = self._images(space, architecture)
            with forked_rng(0, "build"):
                network = space.build(architecture)
            require(isinstance(network, nn.Module), f"build gave {type(network).__name__}, not an nn.Module")
            with evaluating(network), torch.no_grad():
                features = network(images)
            require(
                isinstance(features, Tensor) and features.ndim == 4 and len(features) == len(images),
                f"for images {tuple(images.shape)} the network of {architecture} gives "
                f"{tuple(getattr(features, 'shape', ()))}; a backbone ends at a feature map (N, C, H, W), "
                "before pooling and classifier",
            )
            require(bool(features.isfinite().all()), f"the network of {architecture} gives NaN or infinity")

    def test_its_networks_can_be_traced_without_numbers(self) -> None:
        space = self._make()
        architecture = self._architectures(space, 1)[0]
        images = self._images(space, architecture, 1)
        with forked_rng(0, "build"):
            network = space.build(architecture)
        with torch.device("meta"):
            outline = space.build(architecture)
        require(
            all(p.is_meta for p in outline.parameters()),
            "built on the meta device, some weights are not on it",
        )
        with evaluating(network), torch.no_grad():
            shape = tuple(network(images).shape)
        traced = output_shape(outline, tuple(images.shape[1:]))
        require(traced == shape, f"traced on the meta device the network gives {traced}, computed {shape}")

    def test_its_weights_follow_the_seed_and_nothing_else(self) -> None:
        space, first, states = self._make(), self._architectures(self._make(), 2), []
        for architecture in (first[0], first[1], first[0]):
            with forked_rng(7, "build"):
                states.append(space.build(architecture).state_dict())
        require(
            same(dict(states[0]), dict(states[2])),
            "the same architecture was built twice under the same seed with different weights",
        )
        with global_generators_untouched("building a network"), forked_rng(0, "build"):
            space.build(first[0])

    def test_its_networks_share_nothing(self) -> None:
        space = self._make()
        architecture = self._architectures(space, 1)[0]
        with forked_rng(0, "build"):
            first, second = space.build(architecture), space.build(architecture)
        shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
        require(not shared, "two networks that were built share parameters; build must make new modules")

    def test_its_rules_are_sentences(self) -> None:
        space, rng = self._make(), random.Random(0)
        for _ in range(20):
            broken = violations(space, sample(space, rng))
            require(
                all(isinstance(rule, str) for rule in broken), f"violations gives sentences, not {broken!r}"
            )

    def test_its_conditions_are_about_earlier_choices(self) -> None:
        try:
            check_choices(self._make())
        except SpaceError as error:
            raise AssertionError(str(error)) from error

    def test_its_networks_are_built_with_and_without_each_conditional_choice(self) -> None:
        space, rng = self._make(), random.Random(0)
        drawn = [sample(space, rng) for _ in range(200)]
        allowed = [architecture for architecture in drawn if not violations(space, architecture)]
        for choice in (choice for choice in space.choices if choice.when):
            for there in (True, False):
                built = next((one for one in allowed if (choice.name in one) == there), None)
                if built is None:
                    continue
                try:
                    with torch.device("meta"):
                        space.build(built)
                except (KeyError, ArchloomError) as error:
                    state = "is decided" if there else "is not decided"
                    raise AssertionError(
                        f"where '{choice.name}' {state}, the network of {built} cannot be built: "
                        f"{type(error).__name__}: {error}. An architecture holds the active choices alone; ask "
                        f"`if '{choice.name}' in architecture`"
                    ) from error

    def test_its_canonical_form_is_one_form_of_the_same_network(self) -> None:
        space = self._make()
        for architecture in self._architectures(space, 5 * self.samples):
            try:
                form = canonical(space, architecture)
                again = canonical(space, form)
            except SpaceError as error:
                raise AssertionError(
                    f"the canonical form of {architecture} is not in the space: {error}"
                ) from error
            require(again == form, f"the canonical form {form} of {architecture} has another one, {again}")
            require(
                bool(violations(space, form)) == bool(violations(space, architecture)),
                f"the space forbids one of {architecture} and its canonical form {form}, and not the other",
            )
            with torch.device("meta"):
                sizes = [_parameters(space.build(one)) for one in (architecture, form)]
            require(
                sizes[0] == sizes[1],
                f"{architecture} and its canonical form {form} are not the same network: they have parameters of other "
                "shapes",
            )

    def test_its_named_architectures_belong_to_it(self) -> None:
        space = self._make()
        for name, network in getattr(space, "named", {}).items():
            try:
                check(space, network.architecture)
            except ArchloomError as error:
                raise AssertionError(f"'{name}': {error}") from error


class SharedSpaceContract(SpaceContract):
    """Checks a search space that shares weights: all of `SpaceContract`, and the supernet."""

    def test_it_has_candidates_and_what_stands_around_them(self) -> None:
        space = self._make()
        for name in ("candidate", "around"):
            require(callable(getattr(space, name, None)), f"a space that shares weights has `{name}`")

    def _supernet(self, space: Any, seed: int = 0) -> Supernet:
        try:
            return Supernet(space, seed).eval()
        except ArchloomError as error:
            raise AssertionError(str(error)) from error

    def test_a_path_of_the_supernet_computes_what_the_extracted_network_computes(self) -> None:
        space = self._make()
        supernet = self._supernet(space)
        _disturb(supernet)
        for architecture in self._architectures(space):
            images = self._images(space, architecture)
            try:
                child = supernet.extract(architecture).eval()
            except ArchloomError as error:
                raise AssertionError(str(error)) from error
            with torch.no_grad():
                path, alone = supernet(images, architecture), child(images)
            require(
                path.shape == alone.shape and torch.allclose(path, alone, rtol=1e-5, atol=1e-6),
                f"a path of the supernet and the network extracted from it differ for {architecture}: "
                "`build` and the supernet must both be made of `candidate` and `around`",
            )

    def test_extracting_leaves_the_supernet_as_it_was(self) -> None:
        space = self._make()
        supernet = self._supernet(space)
        before = snapshot(supernet)
        child = supernet.extract(self._architectures(space, 1)[0])
        _disturb(child)
        require(same(before, snapshot(supernet)), "changing an extracted network changed the supernet")

    def test_the_supernets_weights_follow_the_seed(self) -> None:
        first, second = (self._supernet(self._make(), seed=5) for _ in range(2))
        require(
            same(dict(first.state_dict()), dict(second.state_dict())),
            "two supernets of the same seed have different weights",
        )

    def test_its_candidates_can_be_mixed(self) -> None:
        space = self._make()
        if not getattr(space, "differentiable", True):
            return  # it says itself that its candidates differ in shape
        supernet = self._supernet(space)
        selection: dict[str, Any] = {
            name: softmax(torch.zeros(len(options)), 1.0) for name, options in supernet.layers.items()
        }
        chosen = self._architectures(space, 1)[0]
        try:
            mixed = supernet(self._images(space, chosen), selection)
        except RuntimeError as error:
            raise AssertionError(
                f"the candidates cannot be mixed: {error}. Give the options of a choice one output shape, or "
                "say differentiable = False"
            ) from error
        require(mixed.ndim == 4, f"a mixture gives {tuple(mixed.shape)}, not a feature map")


def _parameters(network: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of all parameters, in an order of their own."""
    return sorted(tuple(parameter.shape) for parameter in network.parameters())


def _disturb(module: nn.Module) -> None:
    """Other numbers in every parameter and buffer, so that a fresh start hides nothing."""
    generator = torch_rng(0, "disturb")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
