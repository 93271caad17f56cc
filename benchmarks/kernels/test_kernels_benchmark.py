"""The same cases under pytest-benchmark, to compare commits (--benchmark-autosave)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archloom import kernels
from archloom.kernels.workloads import SHAPES, Case, cases, variants

if not kernels.status().native:
    pytest.skip(f"no compiled kernels: {kernels.status().reasons['cpu']}", allow_module_level=True)
ALLOCATOR = kernels.keep_freed_memory()
CASES = list(cases(quick=True, shapes=SHAPES[:2]))


@pytest.mark.parametrize("variant", ["archloom", "eager"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(benchmark: Any, case: Case, variant: str) -> None:
    found = variants(case)
    chosen = found[variant] if variant in found else found["F.silu"]
    grad = torch.randn_like(chosen.call())
    benchmark.group = str(case)
    benchmark.extra_info["allocator"] = ALLOCATOR
    benchmark(lambda: torch.autograd.grad(chosen.call(), chosen.inputs, grad))
