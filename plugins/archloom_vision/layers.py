"""Convolution and norm layers by name: what `conv_cfg` and `norm_cfg` of a backbone may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import ConfigError, UnknownName


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 over each output's inputs (arXiv 1903.10520, eq. 2)."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


CONVS: Mapping[str, Callable[..., nn.Module]] = {"Conv2d": nn.Conv2d, "ConvWS": StandardizedConv2d}

NORMS: Mapping[str, Callable[..., nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "GN": lambda channels, num_groups=32, **arguments: nn.GroupNorm(num_groups, channels, **arguments),
    "LN": lambda channels, **arguments: nn.GroupNorm(1, channels, **arguments),
    "IN": lambda channels, affine=True, **arguments: nn.InstanceNorm2d(channels, affine=affine, **arguments),
    "none": lambda channels: nn.Identity(),
}


def build_conv(config: Mapping[str, Any] | None) -> Callable[..., nn.Module]:
    """(c_in, c_out, kernel, stride=, padding=) -> a convolution without bias, unless `config` gives it one."""
    kind, arguments = _parsed("conv_cfg", config, "Conv2d", CONVS)

    def conv(c_in: int, c_out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Module:
        given = {"bias": False, "stride": stride, "padding": padding} | arguments
        return _made("conv_cfg", kind, CONVS[kind], c_in, c_out, kernel, **given)

    return conv


def build_norm(config: Mapping[str, Any] | None) -> Callable[[int], nn.Module]:
    """channels -> a norm layer. `requires_grad: false` leaves its weight and bias as they start."""
    kind, arguments = _parsed("norm_cfg", config, "BN", NORMS)
    trained = arguments.pop("requires_grad", True)

    def norm(channels: int) -> nn.Module:
        return _made("norm_cfg", kind, NORMS[kind], channels, **arguments).requires_grad_(trained)

    return norm


def _parsed(
    name: str, config: Mapping[str, Any] | None, default: str, known: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    arguments = dict(config or {"type": default})
    kind = arguments.pop("type", default)
    if kind not in known:
        raise UnknownName(name, str(kind), known)
    return kind, arguments


def _made(
    name: str, kind: str, factory: Callable[..., nn.Module], *shape: int, **arguments: Any
) -> nn.Module:
    try:
        return factory(*shape, **arguments)
    except (TypeError, ValueError) as error:  # GroupNorm's groups that do not divide the channels, say
        raise ConfigError(f"{name} {kind} cannot be made for {shape}: {error}") from error
