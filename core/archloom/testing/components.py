"""The contracts of what a model is made of: backbones, necks, heads and losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..drawing import own_rng
from ..model import call_on_meta, evaluating
from ..randomness import forked_rng, torch_rng
from .checks import Contract, global_generators_untouched, require, same, through_a_file


class _ComponentContract(Contract):
    """What all components keep. images: how many are in a batch."""

    kind = "component"
    images: ClassVar[int] = 4

    def _arguments(self) -> dict[str, Any]:
        return {}

    def _inputs(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _component(self, seed: int = 0) -> nn.Module:
        with own_rng(seed, "component"):
            module: nn.Module = self._make(**self._arguments())
        require(isinstance(module, nn.Module), f"the factory gave {type(module).__name__}, not an nn.Module")
        return module

    def test_the_same_seed_draws_the_same_weights(self) -> None:
        first = self._component(3)
        with forked_rng(99, "elsewhere"):
            second = self._component(3)
        require(
            same(_state(first), _state(second)),
            "made twice under one seed it has other weights; draw them from torch's global generator, which the "
            "engine seeds while a network is made",
        )

    def test_its_state_comes_back_from_a_file(self) -> None:
        saved, read = self._component(1).eval(), self._component(2).eval()
        read.load_state_dict(through_a_file({"state": saved.state_dict()})["state"])
        require(
            same(_run(saved, self._inputs()), _run(read, self._inputs())),
            "with the weights of another it computes something else: what it computes with belongs into parameters "
            "and buffers, which are saved",
        )

    def test_evaluated_it_leaves_the_global_generators_alone(self) -> None:
        module = self._component().eval()
        with global_generators_untouched("a forward in eval mode"):
            _run(module, self._inputs())

    def test_gradients_reach_all_its_weights(self) -> None:
        module, inputs = self._component().train(), self._inputs()
        with forked_rng(0, "forward"):
            value = _sum(module(*inputs))
        if trained := {name: p for name, p in module.named_parameters() if p.requires_grad}:
            require(value.requires_grad, "its output has no gradient, so that nothing of it is trained")
            value.backward()
            idle = [name for name, parameter in trained.items() if parameter.grad is None]
            require(
                not idle,
                f"no gradient reaches {', '.join(idle[:3])}; leave it out, or freeze it (requires_grad)",
            )


class _FeatureContract(_ComponentContract):
    """What backbones, necks and heads keep: they make something of each image by itself, and can be traced."""

    def test_it_treats_each_image_by_itself(self) -> None:
        module, (x,) = self._component().eval(), self._inputs()
        for whole, first in zip(_each(_run(module, (x,))), _each(_run(module, (x[:1],))), strict=True):
            require(
                len(whole) == len(x), f"of {len(x)} images it makes {len(whole)} outputs; the batch is axis 0"
            )
            require(
                torch.allclose(whole[:1], first, rtol=1e-4, atol=1e-5),
                "in eval mode an image's output changes with the other images of its batch; a network is judged in "
                "batches of any size",
            )

    def test_it_can_be_traced_without_numbers(self) -> None:
        module, (x,) = self._component(), self._inputs()
        real = [tuple(each.shape[1:]) for each in _each(_run(module.eval(), (x,)))]
        try:
            with evaluating(module), torch.no_grad():
                traced = call_on_meta(module, x.to("meta"))
        except Exception as error:
            raise AssertionError(
                f"it cannot run on the meta device, by which the shapes of a model are found: {error}; make no "
                "tensor on a device of its own, and read no values of one"
            ) from error
        shapes = [tuple(each.shape[1:]) for each in _each(traced)]
        require(shapes == real, f"traced it gives {shapes}, run {real}")


class BackboneContract(_FeatureContract):
    """Checks a backbone: (N, C, H, W) -> a feature map (N, C', H', W'), or several of different depth as a tuple.

    shape: (C, H, W) of the images that it is given.
    """

    name = "backbone.tested"
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def _arguments(self) -> dict[str, Any]:
        return {"in_channels": self.shape[0]}

    def _inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(self.images, *self.shape, generator=torch_rng(0, "images")),)

    def test_it_gives_feature_maps(self) -> None:
        maps = _run(self._component().eval(), self._inputs())
        require(
            isinstance(maps, Tensor | tuple), f"it gives {type(maps).__name__}, not a map or a tuple of maps"
        )
        for each in _each(maps):
            require(
                each.ndim == 4,
                f"a feature map is (N, C, H, W), not {tuple(each.shape)}; pooling is the neck's",
            )
            require(bool(each.isfinite().all()), "its feature map is not finite for ordinary images")


class NeckContract(_FeatureContract):
    """Checks a neck: a feature map (N, C, H, W) -> (N, C'). shape: (C, H, W) of the map."""

    name = "neck.tested"
    shape: ClassVar[tuple[int, int, int]] = (6, 5, 4)

    def _inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(self.images, *self.shape, generator=torch_rng(0, "maps")).abs(),)

    def test_it_gives_a_vector_for_each_image(self) -> None:
        for each in _each(_run(self._component().eval(), self._inputs())):
            require(each.ndim == 2, f"a neck gives (N, C), not {tuple(each.shape)}; pool, then flatten")
            require(bool(each.isfinite().all()), "it is not finite for an ordinary map")


class HeadContract(_FeatureContract):
    """Checks a head: (N, in_channels) -> logits (N, num_classes)."""

    name = "head.tested"
    in_channels: ClassVar[int] = 6
    num_classes: ClassVar[int] = 4

    def _arguments(self) -> dict[str, Any]:
        return {"in_channels": self.in_channels, "num_classes": self.num_classes}

    def _inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(self.images, self.in_channels, generator=torch_rng(0, "features")),)

    def test_it_gives_a_logit_for_each_class(self) -> None:
        logits = _run(self._component().eval(), self._inputs())
        wanted = (self.images, self.num_classes)
        require(
            isinstance(logits, Tensor) and tuple(logits.shape) == wanted,
            f"for {self.images} images and {self.num_classes} classes a head gives {wanted}, not "
            f"{tuple(getattr(logits, 'shape', ()))}; take in_channels and num_classes as they are handed in",
        )


class LossContract(_ComponentContract):
    """Checks a loss: (logits (N, num_classes), labels (N,)) -> a scalar. Override `targets` where it takes others."""

    name = "loss.tested"
    num_classes: ClassVar[int] = 4
    shape: ClassVar[tuple[int, int, int]] = (3, 8, 8)

    def targets(self) -> Tensor:
        """What the logits are compared with: a label for each image."""
        return torch.arange(self.images) % self.num_classes

    def _inputs(self) -> tuple[Tensor, ...]:
        logits = torch.randn(self.images, self.num_classes, generator=torch_rng(0, "logits"))
        return (logits, self.targets())

    def _component(self, seed: int = 0) -> nn.Module:
        loss = super()._component(seed)
        if see := getattr(loss, "see", None):
            see(torch.randn(self.images, *self.shape, generator=torch_rng(0, "images")))
        return loss

    def test_it_gives_one_finite_number(self) -> None:
        value = _run(self._component(), self._inputs())
        require(
            isinstance(value, Tensor) and value.ndim == 0 and bool(value.isfinite()),
            f"a loss gives one finite number, not {value}; take the mean over the images",
        )

    def test_its_gradient_moves_the_logits(self) -> None:
        logits, targets = self._inputs()
        logits.requires_grad_()
        value = self._component()(logits, targets)
        require(value.requires_grad, "its value has no gradient; compute it with tensors, without item()")
        value.backward()
        gradient = logits.grad
        require(
            gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()),
            "its gradient at the logits is zero or not finite, so that nothing is trained",
        )

    def test_it_leaves_its_arguments_as_they_are(self) -> None:
        given = self._inputs()
        before = [tensor.clone() for tensor in given]
        _run(self._component(), given)
        require(
            same(list(given), before),
            "it wrote into the logits or the targets; they are measured after the loss",
        )


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return module(*inputs)


def _each(features: Any) -> Iterator[Tensor]:
    yield from features if isinstance(features, tuple) else (features,)


def _sum(value: Any) -> Tensor:
    total = torch.zeros(())
    for each in _each(value):
        total = total + each.sum()
    return total


def _state(module: nn.Module) -> dict[str, Any]:
    return dict(module.state_dict())
