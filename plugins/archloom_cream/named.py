"""The published Cream networks: their blocks, and the figures their authors print.

Source: Peng et al., "Cream of the Crop: Distilling Prioritized Paths For One-Shot Neural Architecture
Search", NeurIPS 2020 (arXiv 2010.15821), and the authors' code. Where a stage has one block, the code
takes no notice of the block in its list and builds a default; the released weights are of those networks,
so the blocks here are the ones that are built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MACS_DEFINITION = (
    "as printed: multiply-adds of convolutions and linear layers, and two operations for each BatchNorm "
    "element, for one image, within 2%; archloom counts no BatchNorm, and so 3 to 4% less"
)

SIX = ("k3_e4", "k3_e6", "k5_e4", "k5_e6", "k7_e4", "k7_e6")
"""The six blocks: kernels 3, 5, 7 by expansions 4, 6."""


@dataclass(frozen=True)
class Network:
    """One published network. stages: the blocks of the five searched stages. published: as printed."""

    stages: tuple[tuple[str, ...], ...]
    resolution: int
    published: Mapping[str, float | str] = field(default_factory=dict)


def _network(
    stages: str, resolution: int, accuracy: tuple[float, float], eight_gpus: float, macs: float
) -> Network:
    """stages: a digit for each block, its place in `SIX`. accuracy: top 1, top 5 on ImageNet in %."""
    published: dict[str, float | str] = {
        "accuracy": accuracy[0],
        "accuracy_top5": accuracy[1],
        "accuracy_8_gpus": eight_gpus,
        "macs": macs,
        "macs_definition": MACS_DEFINITION,
        "resolution": resolution,
        "source": "arXiv 2010.15821; accuracy_8_gpus: the port in NNI",
    }
    blocks = tuple(tuple(SIX[int(digit)] for digit in stage) for stage in stages.split())
    return Network(blocks, resolution, MappingProxyType(published))


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "cream_14": _network("0 33 33 1 3", 64, (53.8, 77.2), 53.7, 14e6),
        "cream_43": _network("0 31 31 333 33", 96, (66.3, 86.7), 65.8, 43e6),
        "cream_114": _network("0 33 33 333 33", 160, (72.8, 90.8), 72.1, 114e6),
        "cream_287": _network("0 33 313 3333 333", 224, (77.6, 93.3), 76.7, 287e6),
        "cream_481": _network("3431 3230 33311 3333 3333", 224, (79.2, 94.2), 78.9, 481e6),
        "cream_604": _network("33233 32323 32323 332233 332333", 224, (80.0, 94.7), 79.4, 604e6),
    }
)
