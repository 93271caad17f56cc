"""The compiled kernels on every instruction set of this machine; skipped, with the reason, where none is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from compiled import WHY

from archloom import kernels, ops

SETS = kernels.instruction_sets() if kernels.status().native else ["none"]


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn; the best again afterwards."""
    if not kernels.status().native:
        pytest.skip(WHY)
    kernels.select_instruction_set(request.param)
    yield request.param
    kernels.select_instruction_set("auto")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors take the compiled kernels too."""
    if not kernels.status().native:
        pytest.skip(WHY)
    for threshold in ("SMALL", "SMALL_GATE", "PAST_CACHES"):
        monkeypatch.setattr(ops, threshold, -1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
