"""A model: backbone, neck, head and loss, whatever each of them is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from .architecture import Architecture
from .errors import ConfigError
from .randomness import forked_rng
from .space import SearchSpace, WeightFormat, check, input_shape, weight_formats
from .task import Task


class Model(nn.Module):
    """backbone -> neck -> head gives the logits; `loss(logits, targets)` a scalar.

    The backbone is a network or a supernet: `model(x, selection)` hands the selection to it alone.
    `weight_formats`: how other implementations name the same tensors, as the backbone's space knows them.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.loss = backbone, neck, head, loss
        self.weight_formats: tuple[WeightFormat, ...] = ()

    def forward(self, x: Tensor, *selection: Any) -> Tensor:
        return self.head(self.neck(self.backbone(x, *selection)))

    def extract(self, architecture: Architecture) -> Model:
        """One architecture of a supernet as a model of its own, with copies of the weights."""
        backbone: nn.Module = self.backbone.extract(architecture)  # type: ignore[operator]
        return Model(backbone, *(copy.deepcopy(part) for part in (self.neck, self.head, self.loss)))


class GlobalAverage(nn.Module):
    """(N, C, H, W) -> (N, C), the mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class LinearHead(nn.Module):
    """Dropout, then one linear layer: (N, in_channels) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x))


@dataclass(frozen=True)
class ModelParts:
    """How a backbone becomes a model: factories for neck, head and loss.

    The head's factory takes (in_channels, num_classes); in_channels is what backbone and neck give,
    found by a trace that computes nothing.
    """

    neck: Callable[[], nn.Module] = GlobalAverage
    head: Callable[[int, int], nn.Module] = LinearHead
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss

    def assemble(
        self,
        backbone: nn.Module,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int = 0,
        selection: tuple[Any, ...] = (),
    ) -> Model:
        """A model for images of `shape` (C, H, W); `selection` is one that a supernet can be traced with."""
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, not {num_classes}")
        with forked_rng(seed, "neck and head"):
            neck = self.neck()
            features = output_shape(nn.Sequential(_Bound(backbone, selection), neck), shape)
            if len(features) != 2:
                raise ConfigError(
                    f"the neck {type(neck).__name__} gives a tensor of shape {features}; a head takes (N, C)"
                )
            head = self.head(features[1], num_classes)
        return Model(backbone, neck, head, self.loss())


def assemble(
    space: SearchSpace, architecture: Architecture, task: Task, parts: ModelParts, *, seed: int
) -> Model:
    """The whole model of one architecture for a task, weights drawn from `seed`."""
    architecture = check(space, architecture)
    with forked_rng(seed, "backbone"):
        backbone = space.build(architecture)
    shape = input_shape(space, architecture, task)
    model = parts.assemble(backbone, shape=shape, num_classes=len(task.classes), seed=seed)
    model.weight_formats = weight_formats(space, architecture)
    return model


class _Bound(nn.Module):
    """A module with the further arguments of its forward fixed."""

    def __init__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, *self.arguments)


def output_shape(module: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape that `module` gives for one image of `shape` (C, H, W): a trace on the meta device.

    Nothing is computed and nothing of the module changes: neither its mode nor its BatchNorm statistics.
    """
    with evaluating(module), torch.no_grad():
        return tuple(call_on_meta(module, torch.empty(1, *shape, device="meta")).shape)


def call_on_meta(module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)` with its parameters and buffers replaced by meta tensors."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with _SkipNorms():
        return functional_call(module, {key: value.to("meta") for key, value in state.items()}, inputs)


class _SkipNorms(TorchFunctionMode):
    """BatchNorm and GroupNorm give back their input, whose shape they keep: on the meta device PyTorch works
    them out in Python, which takes longer than all the rest of a trace."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (nn.functional.batch_norm, nn.functional.group_norm):
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class evaluating:  # noqa: N801 - reads as a phrase: `with evaluating(model):`
    """Put a module into eval mode inside the block; every submodule gets its own mode back after it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> nn.Module:
        self._modes = [(child, child.training) for child in self.module.modules()]
        return self.module.eval()

    def __exit__(self, *_: object) -> None:
        for child, mode in self._modes:
            child.training = mode
