"""What a network's activations take in memory, found without computing anything."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

import archloom
from archloom import STATIC, Architecture, Context, Metric
from archloom.meta import output_shape


class ActivationMemory:
    """Bytes of activations for one image, of the whole model: backbone, neck and head.

    memory.kept: the outputs of all layers together, about what a training step keeps for its backward pass.
    memory.peak: the largest input and output of a single layer, which inference cannot do with less than.
    A layer is a module without modules inside; one that works in place keeps nothing. What is computed
    between layers (an addition in a forward) is not seen. bytes_per_number: 4 for float32, 2 for float16.
    """

    metrics = (Metric("memory.kept", "bytes", "min"), Metric("memory.peak", "bytes", "min"))
    expense, needs = STATIC, ("task",)

    def __init__(self, *, bytes_per_number: int = 4) -> None:
        self.bytes_per_number = bytes_per_number

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        kept, peak = activations(context.outline(architecture), context.shape(architecture))
        return {"memory.kept": self.bytes_per_number * kept, "memory.peak": self.bytes_per_number * peak}


def activations(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """(all layers' outputs, the largest input plus output of one) for one image of `shape`, in numbers."""
    kept, peak = [], []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not getattr(layer, "inplace", False):
            kept.append(output.numel())
            peak.append(inputs[0].numel() + output.numel())

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers if not isinstance(layer, nn.Identity)]
    try:
        output_shape(model, shape)  # a forward pass on the meta device
    finally:
        for hook in hooks:
            hook.remove()
    return sum(kept), max(peak, default=0)


@archloom.hookimpl
def register_estimators(register):
    register("memory", ActivationMemory)
