"""What a network costs before it is trained: params and MACs, by definitions that are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from .errors import ConfigError
from .model import call_on_meta, evaluating, meta_image
from .products import LayerProducts

MACS = (
    "multiply-adds of convolutions, linear layers and other products with weights for one image (no bias, BatchNorm, "
    "activation, pooling, or products of activations with one another, as in attention)"
)
PARAMS = "all trainable parameters"


@dataclass(frozen=True)
class Cost:
    """`params`: all trainable parameters. `macs`: see `MACS`."""

    params: int
    macs: int


def count(model: nn.Module, resolution: int | Sequence[int] = 224, *selection: Any) -> Cost:
    """Params and MACs of `model` for one image.

    resolution: the side of a square image, of as many channels as the network's first convolution takes; or
    the shape of one input, (C, H, W) for an image, (C, L) for a series. `selection`: further arguments of
    the forward, a path of a supernet for instance (params then still count the whole module). A layer counts wherever
    it is called, in whatever layout and precision its input is; one that is called twice counts twice.
    The forward runs on the meta device: nothing is computed, and the model, its mode and its BatchNorm
    statistics stay as they were. Raises ConfigError for a resolution that is none.
    """
    shapes = _shapes(model, resolution)
    for shape in shapes:
        try:
            macs = _macs(model, shape, selection)
            break
        except (
            RuntimeError,
            ValueError,
        ) as error:  # what PyTorch raises at a layer that the image does not fit
            if not isinstance(resolution, Integral):
                if len(shape) == 3:
                    raise
                raise ConfigError(
                    "a network is counted for a side in pixels, or for the shape of an input that it takes, (C, H, W) "
                    f"for an image, and not for {shape}: {error}"
                ) from error
            if shape == shapes[-1]:
                raise ConfigError(
                    f"the network takes no image of {shapes[0]}: {error}. Count it with its (C, H, W)"
                ) from error
    return Cost(params=sum(p.numel() for p in model.parameters() if p.requires_grad), macs=macs)


def _macs(model: nn.Module, shape: tuple[int, ...], selection: tuple[Any, ...]) -> int:
    return macs_of_call(model, meta_image(model, shape), *selection)


def macs_of_call(module: nn.Module, *inputs: Any) -> int:
    """The multiply-adds of one call with these inputs, tensors of one image on the meta device and others."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    with evaluating(module), LayerProducts(tensors[0]) as products:
        products.mark(tensors)
        call_on_meta(module, *inputs)
    return products.macs


def _shapes(model: nn.Module, resolution: int | Sequence[int]) -> list[tuple[int, ...]]:
    """The images that may be meant, the likeliest first."""
    asked: Any = resolution
    given: list[Any] = [asked] if isinstance(asked, Integral) else list(asked)
    sides = [int(n) for n in given if isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0]
    if len(sides) != len(given) or not 1 <= len(given) <= 4:
        raise ConfigError(
            f"a network is counted for a side in pixels, or for an input's shape, (C, H, W), not for {resolution!r}"
        )
    if isinstance(resolution, Integral):
        side = sides[0]
        return [(channels, side, side) for channels in _channels(model, side)]
    return [tuple(sides)]


def _channels(model: nn.Module, side: int) -> list[int]:
    """How many channels the images may have: those of the first convolution, else of the first linear layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return list(dict.fromkeys([module.in_channels, 3]))
        if isinstance(module, nn.Linear) and module.in_features % side**2 == 0:
            return list(dict.fromkeys([module.in_features // side**2, 3]))
    return [3]
