"""Which implementation runs, in processes of their own: what is asked for, what is missing, what is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import needs_kernels

import archloom.errors
from archloom import kernels

SOURCES = Path(archloom.__file__).parent
CSRC = SOURCES.parents[1] / "csrc"


def run(code: str, *path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([*map(str, path), str(SOURCES.parent)])
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def without_libraries(tmp_path: Path) -> Path:
    """A copy of the package in which nothing was compiled."""
    shutil.copytree(
        SOURCES,
        tmp_path / "archloom",
        ignore=shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__"),
    )
    return tmp_path


CALL = "import torch; from archloom import ops, kernels; ops.swish(torch.ones(2)); ops.swish(torch.ones(2)); "


def test_without_libraries_the_references_run_and_one_warning_says_why(without_libraries: Path) -> None:
    done = run(CALL + "print(kernels.status().native)", without_libraries, ARCHLOOM_KERNELS="auto")
    assert done.stdout.strip() == "False", done.stderr
    assert done.stderr.count("compiled kernels are not in use") == 1
    assert "_C.so is not there" in done.stderr


def test_the_reason_that_the_build_wrote_down_is_given(without_libraries: Path) -> None:
    (without_libraries / "archloom" / "_build_info.json").write_text(
        json.dumps({"failed": {"archloom._C": "g++: not found"}, "reason": ""})
    )
    done = run(CALL, without_libraries, ARCHLOOM_KERNELS="auto")
    assert "g++: not found" in done.stderr


def test_native_refuses_to_go_on_without_libraries(without_libraries: Path) -> None:
    done = run(CALL, without_libraries, ARCHLOOM_KERNELS="native")
    assert done.returncode != 0
    assert "ARCHLOOM_KERNELS=native, but" in done.stderr


def test_a_library_that_does_not_load_is_named(without_libraries: Path) -> None:
    (without_libraries / "archloom" / "_C.so").write_bytes(b"no library")
    done = run(CALL, without_libraries, ARCHLOOM_KERNELS="auto")
    assert "_C.so cannot be loaded" in done.stderr


def test_python_is_silent_and_loads_nothing() -> None:
    done = run(CALL + "print(kernels.info()['operations']['swish'])", ARCHLOOM_KERNELS="python")
    assert done.stdout.strip() == "reference"
    assert "not in use" not in done.stderr


def test_an_unknown_mode_is_refused() -> None:
    done = run(CALL, ARCHLOOM_KERNELS="fast")
    assert "known are auto, native, python" in done.stderr


@needs_kernels
def test_native_runs_and_info_says_so() -> None:
    done = run(CALL + "print(kernels.info()['operations']['swish'])", ARCHLOOM_KERNELS="native")
    assert done.stdout.startswith("compiled (cpu"), done.stderr


@needs_kernels
def test_the_instruction_set_can_be_chosen_by_environment() -> None:
    code = "from archloom import kernels; print(kernels.instruction_set())"
    for name in kernels.instruction_sets():
        assert run(code, ARCHLOOM_CPU_CAPABILITY=name).stdout.strip() == name
    done = run(code, ARCHLOOM_CPU_CAPABILITY="mmx")
    assert "cannot run here" in done.stderr
    assert done.stdout.strip() == kernels.instruction_sets()[-1]
    with pytest.raises(archloom.errors.ConfigError, match="known: auto, baseline"):
        kernels.select_instruction_set("mmx")


def test_ops_need_no_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None;"
        "import archloom.ops, archloom.kernels.bench; print('ok')"
    )
    assert run(code).stdout.strip() == "ok"


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_when_asked() -> None:
    """A large buffer that is freed and taken again is not faulted in again."""
    code = """
import resource, torch
from archloom import kernels
print(kernels.keep_freed_memory() if {ask} else "default")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(16 << 20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
[faults() for _ in range(6)]; print(faults())
"""
    said, kept = run(code.format(ask=True)).stdout.split("\n")[:2]
    _, returned = run(code.format(ask=False)).stdout.split("\n")[:2]
    assert said.startswith("mallopt")
    assert int(kept) < int(returned) / 10


def test_the_manifest_names_every_source() -> None:
    if not CSRC.exists():
        pytest.skip("installed without its sources")
    named = {
        line.split()[1] for line in (CSRC / "manifest.txt").read_text().splitlines() if line[:1].isalpha()
    }
    there = {str(path.relative_to(CSRC)) for kind in ("*.cpp", "*.cu") for path in CSRC.rglob(kind)}
    assert named == {path for path in there if not path.startswith("tests/")}
