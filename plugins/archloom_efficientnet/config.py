"""What an EfficientNet is made of, as values: block strings, the named table, compound rounding.

Source: Tan and Le, EfficientNet (arXiv 1905.11946), and the constants of its TensorFlow release. Nothing
here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from archloom import ConfigError, UnknownName, nearest

from .compound import Scale, round_filters, round_repeats

Padding = Literal["same", "symmetric"]
"""`same`: TensorFlow's rule, the output is ceil(input / stride). `symmetric`: k // 2 on both sides."""

_TOKEN = re.compile(r"(se|r|k|s|e|i|o)(\d[\w.+-]*)")
_REQUIRED = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expansion", "i": "input", "o": "output"}


@dataclass(frozen=True)
class BlockArgs:
    """One stage of MBConv blocks: `num_repeat` blocks, of which the first has `stride` and changes the width.

    stride: (height, width). se_ratio: squeezed channels over the block's input channels; None or 0 for no
    squeeze-and-excitation. id_skip: whether blocks that keep their shape add their input.
    """

    num_repeat: int
    kernel_size: int
    stride: tuple[int, int]
    expand_ratio: int
    input_filters: int
    output_filters: int
    se_ratio: float | None = None
    id_skip: bool = True

    def __post_init__(self) -> None:
        stride = (self.stride, self.stride) if isinstance(self.stride, int) else tuple(self.stride)
        object.__setattr__(self, "stride", stride)
        counts = ("num_repeat", "kernel_size", "expand_ratio", "input_filters", "output_filters")
        small = [name for name in counts if getattr(self, name) < 1]
        if small:
            raise ConfigError(f"a block's {', '.join(small)} must be at least 1: {self}")
        if len(stride) != 2 or not all(1 <= s <= 9 for s in stride):
            raise ConfigError(f"a block's stride is one or two digits from 1 to 9, not {self.stride}")
        if self.se_ratio is not None and not 0 <= self.se_ratio <= 1:
            raise ConfigError(f"a block's se_ratio lies between 0 and 1, not {self.se_ratio}")

    @classmethod
    def decode(cls, string: str) -> BlockArgs:
        """`r2_k3_s22_e6_i16_o24_se0.25_noskip` as a value; the inverse of `encode`.

        Parts may come in any order; one stride digit stands for both directions; `se` and `noskip` may be
        left out. A ConfigError names the part that is wrong.
        """
        found: dict[str, str] = {}
        for part in string.split("_"):
            match = _TOKEN.fullmatch(part)
            key, value = ("noskip", "") if part == "noskip" else match.groups() if match else (None, "")
            if key is None or key in found:
                wrong = "twice" if key else "unknown"
                raise ConfigError(
                    f"block string '{string}': part '{part}' is {wrong}; "
                    "the form is r1_k3_s11_e1_i32_o16[_se0.25][_noskip]"
                )
            found[key] = value
        missing = [f"{key} ({name})" for key, name in _REQUIRED.items() if key not in found]
        if missing:
            raise ConfigError(f"block string '{string}' lacks {', '.join(missing)}")
        if not re.fullmatch(r"[1-9]{1,2}", found["s"]):
            raise ConfigError(f"block string '{string}': the stride is one or two digits, not '{found['s']}'")
        try:
            return cls(
                num_repeat=int(found["r"]),
                kernel_size=int(found["k"]),
                stride=(int(found["s"][0]), int(found["s"][-1])),
                expand_ratio=int(found["e"]),
                input_filters=int(found["i"]),
                output_filters=int(found["o"]),
                se_ratio=float(found["se"]) if "se" in found else None,
                id_skip="noskip" not in found,
            )
        except ValueError as error:
            raise ConfigError(f"block string '{string}': {error}") from error

    def encode(self) -> str:
        """The block string, parts in the usual order."""
        parts = [
            f"r{self.num_repeat}",
            f"k{self.kernel_size}",
            f"s{self.stride[0]}{self.stride[1]}",
            f"e{self.expand_ratio}",
            f"i{self.input_filters}",
            f"o{self.output_filters}",
        ]
        if self.se_ratio is not None:
            parts.append(f"se{repr(float(self.se_ratio)).removesuffix('.0')}")
        if not self.id_skip:
            parts.append("noskip")
        return "_".join(parts)


BASELINE = tuple(
    BlockArgs.decode(string)
    for string in (
        "r1_k3_s11_e1_i32_o16_se0.25",
        "r2_k3_s22_e6_i16_o24_se0.25",
        "r2_k5_s22_e6_i24_o40_se0.25",
        "r3_k3_s22_e6_i40_o80_se0.25",
        "r3_k5_s11_e6_i80_o112_se0.25",
        "r4_k5_s22_e6_i112_o192_se0.25",
        "r1_k3_s11_e6_i192_o320_se0.25",
    )
)
"""The seven stages of EfficientNet-B0 (table 1 of the paper)."""


@dataclass(frozen=True)
class NetworkConfig:
    """A whole network. `blocks` are unscaled; width and depth are applied by `stages`.

    image_size: the native resolution, informative. dropout_rate: before the classifier.
    batch_norm_momentum is TensorFlow's: the share of the old statistics that is kept (0.99 here is 0.01
    in PyTorch). drop_connect_rate: of the block behind the last one; block i of n drops at rate i / n.
    depth_divisor, min_depth: channels are multiples of the one and at least the other (both concern the
    width; the names are the release's). head_filters: of the last convolution, before scaling. include_top:
    whether dropout and classifier are there.
    """

    blocks: tuple[BlockArgs, ...] = BASELINE
    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    image_size: int | None = 224
    dropout_rate: float = 0.2
    num_classes: int = 1000
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    drop_connect_rate: float = 0.2
    depth_divisor: int = 8
    min_depth: int | None = None
    head_filters: int = 1280
    include_top: bool = True
    padding: Padding = "same"
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise ConfigError("a network needs at least one block string")
        if self.padding not in ("same", "symmetric"):
            raise ConfigError(f"padding is 'same' or 'symmetric', not {self.padding!r}")
        if self.num_classes < 1 or self.depth_divisor < 1:
            raise ConfigError(
                "num_classes and depth_divisor must be at least 1, not "
                f"{self.num_classes} and {self.depth_divisor}"
            )
        for rate in ("dropout_rate", "drop_connect_rate", "batch_norm_momentum"):
            if not 0 <= getattr(self, rate) <= 1:
                raise ConfigError(f"{rate} lies between 0 and 1, not {getattr(self, rate)}")

    def override(self, **overrides: Any) -> NetworkConfig:
        """The same network with some fields changed; a ConfigError names the nearest of an unknown one."""
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                near = nearest(name, known)
                hint = f"; did you mean '{near}'?" if near else "."
                raise ConfigError(f"a network has no field '{name}'{hint} It has: {', '.join(known)}.")
        return replace(self, **overrides)

    def round_filters(self, filters: int) -> int:
        """Channels scaled by the width coefficient, to a multiple of the divisor, never below 90 per cent."""
        return round_filters(filters * self.width_coefficient, self.depth_divisor, self.min_depth)

    def round_repeats(self, repeats: int) -> int:
        """Repeats scaled by the depth coefficient, rounded up."""
        return round_repeats(self.depth_coefficient * repeats)

    def head(self) -> int:
        """Channels of the last convolution after scaling."""
        return self.round_filters(self.head_filters)

    def scaled(self, width: Callable[[int], int], depth: Callable[[int], int]) -> NetworkConfig:
        """The network with every number of channels and of a stage's blocks changed by the two functions."""
        blocks = tuple(
            replace(
                block,
                num_repeat=depth(self.round_repeats(block.num_repeat)),
                input_filters=width(self.round_filters(block.input_filters)),
                output_filters=width(self.round_filters(block.output_filters)),
            )
            for block in self.blocks
        )
        return replace(
            self,
            blocks=blocks,
            head_filters=width(self.head()),
            width_coefficient=1.0,
            depth_coefficient=1.0,
            depth_divisor=1,
            min_depth=None,
            name=None,
        )

    def compound(self, scale: Scale) -> NetworkConfig:
        """The network scaled as a whole: channels, blocks, and the native resolution where it has one."""
        side = None if self.image_size is None else scale.side(self.image_size)
        return replace(self.scaled(scale.channels, scale.blocks), image_size=side)

    def stages(self) -> tuple[tuple[BlockArgs, ...], ...]:
        """Every block of every stage after scaling, each as a `BlockArgs` with num_repeat 1."""
        scaled = []
        for block in self.blocks:
            first = replace(
                block,
                num_repeat=1,
                input_filters=self.round_filters(block.input_filters),
                output_filters=self.round_filters(block.output_filters),
            )
            rest = replace(first, stride=(1, 1), input_filters=first.output_filters)
            scaled.append((first,) + (rest,) * (self.round_repeats(block.num_repeat) - 1))
        return tuple(scaled)


def _named(suffix: str, width: float, depth: float, size: int, dropout: float) -> NetworkConfig:
    return NetworkConfig(
        name=f"efficientnet-{suffix}",
        width_coefficient=width,
        depth_coefficient=depth,
        image_size=size,
        dropout_rate=dropout,
    )


NAMED: dict[str, NetworkConfig] = {
    str(config.name): config
    for config in (
        _named("b0", 1.0, 1.0, 224, 0.2),
        _named("b1", 1.0, 1.1, 240, 0.2),
        _named("b2", 1.1, 1.2, 260, 0.3),
        _named("b3", 1.2, 1.4, 300, 0.3),
        _named("b4", 1.4, 1.8, 380, 0.4),
        _named("b5", 1.6, 2.2, 456, 0.4),
        _named("b6", 1.8, 2.6, 528, 0.5),
        _named("b7", 2.0, 3.1, 600, 0.5),
        _named("b8", 2.2, 3.6, 672, 0.5),
        _named("l2", 4.3, 5.3, 800, 0.5),
    )
}
"""The released networks: width, depth, resolution and dropout as their authors rounded them."""


def named(name: str) -> NetworkConfig:
    """The configuration of `efficientnet-b0` to `-b8` and `-l2`; UnknownName lists them otherwise."""
    if name not in NAMED:
        raise UnknownName("network", name, NAMED)
    return NAMED[name]


def from_block_strings(strings: Iterable[str], **overrides: Any) -> NetworkConfig:
    """A network of one's own stages, `image_size` unset unless given."""
    blocks = tuple(BlockArgs.decode(string) for string in strings)
    return NetworkConfig(image_size=None).override(blocks=blocks, **overrides)
