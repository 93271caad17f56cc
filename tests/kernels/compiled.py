"""Whether the compiled kernels are here, and why not."""

from __future__ import annotations

import pytest

from archloom import kernels

if not kernels.status().native and kernels.status().mode == "auto":
    WHY = f"compiled kernels are not in use: {kernels.status().reasons['cpu']}"
else:
    WHY = "ARCHLOOM_KERNELS=python"

needs_kernels = pytest.mark.skipif(not kernels.status().native, reason=WHY)
