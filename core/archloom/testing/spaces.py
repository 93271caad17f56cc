"""The contract of search spaces, with and without shared weights."""

from __future__ import annotations

import json
import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..architecture import Architecture, Choice
from ..errors import ArchloomError, SpaceError
from ..model import evaluating, output_shape, shapes
from ..randomness import forked_rng, torch_rng
from ..space import canonical, check, check_choices, sample, violations
from ..wiring import outputs_of
from .checks import Contract, global_generators_untouched, require, same
from .tiny import tiny_task

OUTPUTS = 7
"""How many outputs the networks are asked for where they own their head."""


def _is_logits(given: Any, images: Tensor) -> bool:
    return isinstance(given, Tensor) and tuple(given.shape) == (len(images), OUTPUTS)


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

    def _build(self, space: Any, architecture: Architecture) -> nn.Module:
        network: nn.Module = space.build(architecture, *outputs_of(space, OUTPUTS))
        return network

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
                network = self._build(space, architecture)
            require(isinstance(network, nn.Module), f"build gave {type(network).__name__}, not an nn.Module")
            with evaluating(network), torch.no_grad():
                features = network(images)
            if getattr(space, "owns_head", False):
                require(
                    _is_logits(features, images),
                    f"the network of {architecture} owns its head and was asked for {OUTPUTS} outputs; for images "
                    f"{tuple(images.shape)} it gives {shapes(features)}, not {(len(images), OUTPUTS)}",
                )
            else:
                require(
                    isinstance(features, Tensor) and features.ndim in (3, 4) and len(features) == len(images),
                    f"for images {tuple(images.shape)} the network of {architecture} gives {shapes(features)}; "
                    "a backbone ends at a feature map (N, C, H, W), or tokens (N, T, C), before pooling and classifier",
                )
            require(bool(features.isfinite().all()), f"the network of {architecture} gives NaN or infinity")

    def test_in_training_its_networks_give_no_more_than_auxiliary_logits(self) -> None:
        space = self._make()
        for architecture in self._architectures(space):
            images = self._images(space, architecture)
            with forked_rng(0, "build"), torch.no_grad():
                given = self._build(space, architecture).train()(images)
            if getattr(space, "owns_head", False):
                every = given if isinstance(given, tuple) else (given,)
                fits = bool(every) and all(_is_logits(each, images) for each in every)
            else:
                fits = isinstance(given, Tensor)
            require(
                fits,
                f"in training mode the network of {architecture} gives {shapes(given)}; that is what it gives in eval "
                "mode, and where it owns its head (logits, auxiliary logits, ...), all of one shape",
            )

    def test_its_networks_can_be_traced_without_numbers(self) -> None:
        space = self._make()
        architecture = self._architectures(space, 1)[0]
        images = self._images(space, architecture, 1)
        with forked_rng(0, "build"):
            network = self._build(space, architecture)
        with torch.device("meta"):
            outline = self._build(space, architecture)
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
                states.append(self._build(space, architecture).state_dict())
        require(
            same(dict(states[0]), dict(states[2])),
            "the same architecture was built twice under the same seed with different weights",
        )
        with global_generators_untouched("building a network"), forked_rng(0, "build"):
            self._build(space, first[0])

    def test_its_networks_share_nothing(self) -> None:
        space = self._make()
        architecture = self._architectures(space, 1)[0]
        with forked_rng(0, "build"):
            first, second = self._build(space, architecture), self._build(space, architecture)
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
                        self._build(space, built)
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
                sizes = [_parameters(self._build(space, one)) for one in (architecture, form)]
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


def _parameters(network: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of all parameters, in an order of their own."""
    return sorted(tuple(parameter.shape) for parameter in network.parameters())
