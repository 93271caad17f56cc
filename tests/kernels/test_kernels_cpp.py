"""The C++ tests under AddressSanitizer and UBSan, through CMake and CTest. Slow: three sets are compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _missing() -> str:
    if not (ROOT / "CMakeLists.txt").exists():
        return "installed without its sources"
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(_missing()), reason=_missing() or "never")
def test_the_kernels_are_clean_under_both_sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    build = ROOT / "build" / "cpp-tests"  # kept: the next run compiles what has changed
    configured = subprocess.run(
        ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DARCHLOOM_LIBRARY=OFF"],
        capture_output=True,
        text=True,
    )
    if "Could NOT find GTest" in configured.stderr:
        pytest.skip("GoogleTest is not installed (apt package libgtest-dev)")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(["cmake", "--build", build], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:]
    tested = subprocess.run(
        ["ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error"],
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout[-3000:]
