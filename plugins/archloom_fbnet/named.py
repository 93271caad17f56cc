"""The published FBNet networks: their layers, and the figures their authors print.

Sources: Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture
Search", CVPR 2019 (arXiv 1812.03443), figure 4 and tables 3 to 5; the head widths and the rounding of the
scaled network from the authors' own definitions (mobile-vision). The two `cpu_sample` networks were found by
the reference code on a desktop CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_SHORT = {
    "1": "ir_k3_e1", "g": "ir_k3_s2", "3": "ir_k3_e3", "6": "ir_k3_e6",
    "I": "ir_k5_e1", "G": "ir_k5_s2", "T": "ir_k5_e3", "S": "ir_k5_e6", ".": "skip",
}  # fmt: skip
"""3x3 blocks by digit (g: grouped), 5x5 blocks by letter: I, T, S for expansion 1, 3, 6 (G: grouped)."""


def _ops(stages: str) -> tuple[str, ...]:
    return tuple(_SHORT[letter] for letter in stages if letter != " ")


@dataclass(frozen=True)
class Network:
    """One published network.

    ops: one block for each of the 22 layers. head_width: of the last 1x1 convolution in the authors' own
    definition. width_ratio: by which the stages' widths are scaled. published: as printed.
    """

    ops: tuple[str, ...]
    head_width: int = 1504
    width_ratio: float = 1.0
    resolution: int = 224
    published: Mapping[str, float | str] = field(default_factory=dict)


_PAPER = "arXiv 1812.03443"


def _paper(accuracy: float, macs: float, params: float, latency: float) -> dict[str, float | str]:
    """A row of the paper's table 3: %, millions, millions, milliseconds on a Samsung Galaxy S8."""
    return {
        "accuracy": accuracy,
        "macs": macs * 1e6,
        "params": params * 1e6,
        "latency_ms_samsung_s8": latency,
        "source": _PAPER,
    }


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "fbnet_a": Network(_ops(". 31.. S3I3 STGS 6GIg SSTS S"), published=_paper(73.0, 249, 4.3, 19.8)),
        "fbnet_b": Network(
            _ops("1 6I11 ST6S SI.T S1IT SISS 6"), head_width=1984, published=_paper(74.1, 295, 4.5, 23.1)
        ),
        "fbnet_c": Network(
            _ops("1 6.11 STS6 STSS SSST SSSS 6"), head_width=1984, published=_paper(74.9, 375, 5.5, 28.1)
        ),
        "fbnet_96_035_1": Network(
            _ops("1 66.. SS.. S... 6... SS.. S"),
            head_width=1416,
            width_ratio=0.35,
            resolution=96,
            published={"accuracy": 50.2, "latency_ms_samsung_s8": 2.9, "source": _PAPER},
        ),
        "fbnet_samsung_s8": Network(_ops("1 31.. S336 STTT 6TTT SSTS S"), published={"source": _PAPER}),
        "fbnet_iphonex": Network(_ops(". 6111 6666 6636 6333 SSST S"), published={"source": _PAPER}),
        "fbnet_cpu_sample1": Network(
            _ops("S 6SSS 6ST. S6.. SS.. S... ."),
            published={"accuracy_cifar10": 82.8, "source": "README of the reference code"},
        ),
        "fbnet_cpu_sample2": Network(
            _ops("S 66SS SS.. 6S.. S... S... ."),
            published={"accuracy_cifar10": 80.6, "source": "README of the reference code"},
        ),
        # the authors' own definition differs from their figure in one layer: expansion 6 instead of 1
        "fbnet_b_official": Network(
            _ops("1 6I11 ST6S SS.T S1IT SISS 6"),
            head_width=1984,
            published={"accuracy": 74.5, "macs": 291.1e6, "params": 4.8e6, "source": "mobile-vision"},
        ),
    }
)
