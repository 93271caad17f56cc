"""Which implementation runs, in processes of their own: what is asked for, what is missing, what is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compiled import needs_kernels

import archloom.errors
from archloom import kernels
from archloom.kernels import fingerprint

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


STALE: dict[str, Callable[[str], bytes]] = {
    "without a fingerprint": lambda csrc: b"",
    "of other operators": lambda csrc: fingerprint.source_text(
        fingerprint.Fingerprint(csrc, fingerprint.of_schemas(("swish(Tensor x) -> Tensor",)))
    ).encode(),
    "of other sources": lambda csrc: fingerprint.source_text(
        fingerprint.Fingerprint("0" * 64, fingerprint.of_schemas())
    ).encode(),
}


@needs_kernels
@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, "auto") for kind in STALE), ("without a fingerprint", "native")]
)
def test_a_library_older_than_the_python_files_gives_way_to_the_references(
    tmp_path: Path, kind: str, mode: str
) -> None:
    """As in a checkout that was updated and not compiled again: the library itself could be loaded."""
    if not CSRC.exists():
        pytest.skip("installed without its sources")
    core = tmp_path / "checkout" / "core"
    shutil.copytree(SOURCES, core / "archloom", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CSRC, core.parent / "csrc")
    current = fingerprint.of_sources(CSRC)
    library = (SOURCES / "_C.so").read_bytes()
    assert fingerprint.carried(SOURCES / "_C.so") == current
    text = f"csrc:{current.csrc} schemas:{current.schemas}".encode()
    found = re.search(rb"csrc:[0-9a-f]{64} schemas:[0-9a-f]{64}", STALE[kind](current.csrc))
    (core / "archloom" / "_C.so").write_bytes(library.replace(text, found[0] if found else b"?" * len(text)))
    done = run(CALL + "print(kernels.status().native)", core, ARCHLOOM_KERNELS=mode)
    if mode == "auto":
        assert done.stdout.strip() == "False", done.stderr
        assert done.stderr.count("compiled kernels are not in use") == 1
    else:
        assert done.returncode != 0
        assert "ConfigError: ARCHLOOM_KERNELS=native, but" in done.stderr
    assert "make kernels" in done.stderr


def test_the_operators_that_python_calls_are_those_that_csrc_declares() -> None:
    if not CSRC.exists():
        pytest.skip("installed without its sources")
    assert tuple(fingerprint.declared(CSRC)) == fingerprint.SCHEMAS


def test_a_fingerprint_tells_every_source_and_no_test_of_them(tmp_path: Path) -> None:
    if not CSRC.exists():
        pytest.skip("installed without its sources")
    copy = tmp_path / "csrc"
    shutil.copytree(CSRC, copy)
    before = fingerprint.of_sources(copy)
    (copy / "tests" / "test_kernels.cpp").write_text("", encoding="utf-8")
    assert fingerprint.of_sources(copy) == before == fingerprint.of_sources(CSRC)
    for changed in ("manifest.txt", "cuda/swish.cu", "cuda/common.cuh", "cpu/vec.inc", "ops.h"):
        (copy / changed).write_text("// another\n", encoding="utf-8")
        after = fingerprint.of_sources(copy)
        assert after.csrc != before.csrc
        before = after


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
