"""MACs of blocks in closed form, and the counts that the reference code sizes its supernets by.

The definition is `archloom.cost.MACS`: multiply-adds of convolutions and linear layers, for one image.
Sides are in pixels, of square images.
"""

from __future__ import annotations

from .blocks import BlockSpec, divisible, shares


def half(side: int, stride: int) -> int:
    """The side of the output of a convolution with this stride."""
    return -(-side // stride)


def block_macs(spec: BlockSpec, c_in: int, side: int) -> int:
    """MACs of `make_block(spec, c_in)` for an input of `side` x `side`."""
    before, after = side**2, half(side, spec.stride) ** 2
    area, c_out = spec.kernels[0] ** 2, spec.channels
    if spec.type == "cn":
        return area * c_in * c_out * after
    if spec.type in ("ds", "ir"):
        inner, squeezed = spec.inner(c_in), spec.squeezed(c_in)
        parts = zip(shares(inner, len(spec.kernels)), spec.kernels, strict=True)
        depthwise = sum(channels * kernel**2 for channels, kernel in parts) * after
        expand = c_in * inner * before if spec.type == "ir" else 0
        return expand + depthwise + 2 * inner * squeezed + inner * c_out * after
    shortcut = c_in * c_out * after if spec.stride != 1 or c_in != c_out else 0
    if spec.type == "basic":
        return area * (c_in + c_out) * c_out * after + shortcut
    inner = divisible(c_out / 4)
    return c_in * inner * before + (area * inner + c_out) * inner * after + shortcut


def reference_count(spec: BlockSpec, c_in: int, side: int) -> int:
    """What the reference's table of operations by layer holds for an "ir" block.

    To the MACs it adds two operations for each BatchNorm element, one for each element that is pooled for
    the squeeze, and one for each bias and each ReLU in it.
    """
    before, after = side**2, half(side, spec.stride) ** 2
    inner, squeezed = spec.inner(c_in), spec.squeezed(c_in)
    norms = inner * before + (inner + spec.channels) * after
    squeeze = inner * after + 2 * squeezed + inner if squeezed else 0
    return block_macs(spec, c_in, side) + 2 * norms + squeeze
