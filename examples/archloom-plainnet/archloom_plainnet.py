"""A search space of plain convolutional networks: how wide, how large a kernel, how deep, layer by layer."""

from __future__ import annotations

from torch import nn

import archloom
from archloom import Architecture, Around, Choice, SpaceError, build_chain

KERNELS, WIDTHS = (3, 5), (1, 2, 4)
BLOCKS = {f"k{kernel}_w{width}": (kernel, width) for kernel in KERNELS for width in WIDTHS}
SKIP = "skip"


class PlainNet:
    """Stages of layers, no shortcuts. Each layer chooses its kernel (3 or 5) and its inner width (1, 2 or 4
    times the stage's channels), or is skipped, which chooses the depth. The first layer of a stage always
    stands: it changes the channels and, from the second stage on, halves the image.

    in_channels: of the images. channels: of each stage. depth: at most so many layers in each stage.
    """

    def __init__(self, *, in_channels: int = 1, channels: tuple[int, ...] = (16, 32), depth: int = 3) -> None:
        if in_channels < 1 or depth < 1 or not channels or min(channels) < 1:
            raise SpaceError(
                "plainnet: in_channels, depth and each of the channels must be at least 1, "
                f"not {in_channels}, {depth} and {channels}"
            )
        self.in_channels, self.stem_channels = in_channels, channels[0]
        self.layers: dict[str, tuple[int, int, int]] = {}  # name -> (C, C', stride)
        self.choices: list[Choice] = []
        c_in = channels[0]
        for stage, c_out in enumerate(channels):
            for layer in range(depth):
                name = f"stage{stage}_layer{layer}"
                self.layers[name] = (c_in, c_out, 2 if stage and not layer else 1)
                self.choices.append(Choice(name, (*BLOCKS, SKIP) if layer else tuple(BLOCKS)))
                c_in = c_out

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        """(N, C, H, W) -> (N, C', H / stride, W / stride), whatever the option: candidates can be mixed."""
        if option == SKIP:
            return nn.Identity()
        c_in, c_out, stride = self.layers[choice.name]
        kernel, width = BLOCKS[option]
        inner = width * c_out
        return nn.Sequential(*_conv(c_in, inner, kernel, stride), *_conv(inner, c_out, 1, 1))

    def around(self, body: nn.Module) -> nn.Module:
        """A 3x3 convolution before the layers, nothing after them."""
        return Around(nn.Sequential(*_conv(self.in_channels, self.stem_channels, 3, 1)), body)

    def build(self, architecture: Architecture) -> nn.Module:
        """(N, in_channels, H, W) -> (N, channels[-1], H', W')."""
        return build_chain(self, architecture)


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]


@archloom.hookimpl
def register_search_spaces(register):
    register("plainnet", PlainNet)
