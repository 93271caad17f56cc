"""ResNet (He et al., arXiv 1512.03385) as a backbone: its stem, its stages, and what may be chosen of them.

In the pytorch style, with BatchNorm and without a deep stem, names and numbers are those of torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from archloom import ConfigError, Features, load_weights
from archloom.graphs import is_scripting
from archloom.weights import read_weights, unwrap

from .frozen import freeze, still_norms
from .layers import build_conv, build_norm

Style = Literal["pytorch", "caffe"]
Conv = Callable[..., nn.Module]
Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """3x3, 3x3, and the input added (paper, figure 5, left)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, conv: Conv, norm: Norm, style: Style) -> None:
        super().__init__()
        self.conv1 = conv(c_in, width, 3, stride=stride, padding=1)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, padding=1)
        self.bn2 = norm(width)
        self.downsample = _shortcut(c_in, width, stride, conv, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and the input added (paper, figure 5, right).

    A stride is the 3x3's in the pytorch style, and the first 1x1's in the caffe style, as in the paper.
    """

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, conv: Conv, norm: Norm, style: Style) -> None:
        super().__init__()
        first, second = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = conv(c_in, width, 1, stride=first)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride=second, padding=1)
        self.bn2 = norm(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(c_in, 4 * width, stride, conv, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(c_in: int, c_out: int, stride: int, conv: Conv, norm: Norm) -> nn.Module | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv(c_in, c_out, 1, stride=stride), norm(c_out))


DEPTHS: Mapping[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """(N, in_channels, H, W) -> the maps of the stages that `out_indices` names.

    depth: 18, 34, 50, 101 or 152. num_stages: of the four, from the first on.
    out_indices: one stage, from 0, or -1 for the last: its map alone; a list: a tuple of maps.
    base_channels: of stem and first stage's blocks. style: where a bottleneck has its stride.
    deep_stem: three 3x3 convolutions instead of the 7x7.
    frozen_stages: 0 freezes the stem, n the first n stages too, -1 nothing.
    norm_cfg, conv_cfg: the layers, by `type` and arguments; see `layers`. norm_eval: BatchNorm keeps its statistics.
    zero_init_residual: each block starts as the identity. weights: a file, ours or torchvision's (its fc is left out).
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        depth: int = 50,
        num_stages: int = 4,
        out_indices: int | list[int] = -1,
        base_channels: int = 64,
        style: Style = "pytorch",
        deep_stem: bool = False,
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        conv_cfg: dict[str, Any] | None = None,
        norm_eval: bool = False,
        zero_init_residual: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(f"ResNet has no depth {depth}; it has {', '.join(map(str, DEPTHS))}")
        if not 1 <= num_stages <= 4:
            raise ConfigError(f"ResNet: num_stages must lie in 1..4, not {num_stages}")
        if not -1 <= frozen_stages <= num_stages:
            raise ConfigError(f"ResNet: frozen_stages must lie in -1..{num_stages}, not {frozen_stages}")
        self.out_indices = stage_indices("ResNet", out_indices, num_stages)
        self.ends_at_last = self.out_indices in (-1, num_stages - 1)
        self.deep_stem, self.frozen_stages, self.norm_eval = deep_stem, frozen_stages, norm_eval
        conv, norm = build_conv(conv_cfg), build_norm(norm_cfg)
        self.make_stem(in_channels, base_channels, conv, norm)
        block, counts = DEPTHS[depth]
        c_in = base_channels
        self.stages: list[str] = []
        self.layer1: nn.Module  # as far as there are that many stages
        self.layer2: nn.Module
        self.layer3: nn.Module
        self.layer4: nn.Module
        for stage, count in enumerate(counts[:num_stages]):
            width = base_channels * 2**stage
            blocks = []
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(block(c_in, width, stride, conv, norm, style))
                c_in = width * block.expansion
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.init_weights(zero_init_residual)
        if weights is not None:
            state = unwrap(read_weights(weights))
            own = tuple(self.state_dict())
            beyond = ("fc.", *(f"layer{n + 1}." for n in range(num_stages, 4)))
            load_weights(self, {k: v for k, v in state.items() if k in own or not k.startswith(beyond)})
        self.train()

    def make_stem(self, in_channels: int, width: int, conv: Conv, norm: Norm) -> None:
        """conv1, bn1, relu and maxpool; a quarter of the image's height and width."""
        self.conv1: nn.Module
        if self.deep_stem:
            half = width // 2
            self.conv1 = nn.Sequential(
                conv(in_channels, half, 3, stride=2, padding=1),
                norm(half),
                nn.ReLU(inplace=True),
                conv(half, half, 3, padding=1),
                norm(half),
                nn.ReLU(inplace=True),
                conv(half, width, 3, padding=1),
            )
        else:
            self.conv1 = conv(in_channels, width, 7, stride=2, padding=3)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)

    def init_weights(self, zero_init_residual: bool = False) -> None:
        """Convolutions from N(0, 2 / fan_out) (arXiv 1502.01852, eq. 14); norms as PyTorch makes them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                weight = getattr(last, "weight", None)
                if isinstance(weight, nn.Parameter):
                    nn.init.zeros_(weight)

    def stem(self, x: Tensor) -> Tensor:
        """What the first stage is given."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def forward(self, x: Tensor) -> Features:
        x = self.stem(x)
        if is_scripting():  # TorchScript knows no names that are made as it runs
            assert self.ends_at_last, "TorchScript takes a ResNet that gives the map of its last stage alone"
            x = self.layer1(x)
            if hasattr(self, "layer2"):
                x = self.layer2(x)
            if hasattr(self, "layer3"):
                x = self.layer3(x)
            if hasattr(self, "layer4"):
                x = self.layer4(x)
            return x
        maps = []
        for name in self.stages:
            x = getattr(self, name)(x)
            maps.append(x)
        if isinstance(self.out_indices, int):
            return maps[self.out_indices]
        return tuple(maps[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> ResNet:
        """PyTorch's, with what is frozen left in eval mode."""
        super().train(mode)
        if self.frozen_stages >= 0:
            freeze([self.conv1, self.bn1])
            freeze(getattr(self, name) for name in self.stages[: self.frozen_stages])
        if mode and self.norm_eval:
            still_norms(self)
        return self


class ResNetCIFAR(ResNet):
    """ResNet for images of about 32x32: a 3x3 stem of stride 1 without max-pool, which keeps their size."""

    def make_stem(self, in_channels: int, width: int, conv: Conv, norm: Norm) -> None:
        if self.deep_stem:
            raise ConfigError("ResNet_CIFAR has a stem of its own; leave deep_stem out, or take ResNet")
        self.conv1 = conv(in_channels, width, 3, padding=1)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()


def stage_indices(who: str, indices: int | list[int], count: int) -> int | tuple[int, ...]:
    """Positions of `count` maps, negative ones from the end; a ConfigError for one that is not there."""
    given = [indices] if isinstance(indices, int) else list(indices)
    if not given:
        raise ConfigError(f"{who}: out_indices is empty; name at least one of 0..{count - 1}")
    for index in given:
        if not -count <= index < count:
            raise ConfigError(f"{who}: out_indices has {index}, but there are {count} maps, 0..{count - 1}")
    found = tuple(index % count for index in given)
    return found[0] if isinstance(indices, int) else found
