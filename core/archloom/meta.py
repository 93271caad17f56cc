"""Shapes without numbers: traces of networks on the meta device, and modes that are given back."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode


def where(module: nn.Module) -> torch.device:
    """The device of a module's numbers; PyTorch's default for a module without any."""
    numbers = itertools.chain(module.parameters(), module.buffers())
    return next((number.device for number in numbers), torch.get_default_device())


def shapes(value: Any) -> str:
    """The shape of a tensor, or those of a tuple's, as text."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"[{', '.join(map(shapes, value))}]" if isinstance(value, tuple | list) else type(value).__name__


def output_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `module` gives for one input of `shape`, (C, H, W) for an image: a trace on the meta device.

    Nothing is computed and nothing of the module changes: neither its mode nor its BatchNorm statistics.
    """
    with evaluating(module), torch.no_grad():
        return tuple(call_on_meta(module, meta_image(module, shape)).shape)


def meta_image(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """(1, *shape) on the meta device, of the precision that the module's weights have; float32 without weights."""
    numbers = itertools.chain(module.parameters(), module.buffers())
    precisions = (number.dtype for number in numbers if number.is_floating_point() and number.ndim > 1)
    return torch.empty(1, *shape, device="meta", dtype=next(precisions, torch.float32))


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
