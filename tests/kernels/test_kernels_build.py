"""The build in a copy of the checkout, with compilers that only pretend: what fails costs what it must, and is said."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "setup.py").exists():
    pytest.skip("installed without its sources", allow_module_level=True)

PRETENDS = """#!/bin/sh
case " $* " in *" -dumpversion "*|*" --version "*|*" -v "*) echo 12.2.0; exit 0 ;; esac
{refuses}
while [ $# -gt 0 ]; do
  case "$1" in -o) : > "$2" ;; -MF) echo "x:" > "$2" ;; esac
  shift
done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the build reads of this checkout, nothing compiled."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("core", "csrc", "plugins"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            ignore=shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__", "*.egg-info"),
        )
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    return copy


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def build(
    checkout: Path, *command: str, refuses: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    own = {
        name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "ARCHLOOM_BUILD_EXT")
    }
    compiler = script(checkout / "pretends" / "g++", PRETENDS.replace("{refuses}", refuses))
    return subprocess.run(
        [sys.executable, *(command or ("setup.py", "build_ext", "--inplace"))],
        cwd=checkout,
        env={**own, "CXX": str(compiler), **environment},
        capture_output=True,
        encoding="utf-8",
    )


def written(checkout: Path) -> dict[str, Any]:
    return json.loads((checkout / "core" / "archloom" / "_build_info.json").read_text(encoding="utf-8"))


CPU = ["archloom._C", "archloom._native"]
with_cuda = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch was built without CUDA")


@pytest.fixture
def setup_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of setup.py, which builds nothing meanwhile."""
    monkeypatch.setenv("ARCHLOOM_BUILD_EXT", "0")
    monkeypatch.setattr("setuptools.setup", lambda **arguments: None)
    return runpy.run_path(str(ROOT / "setup.py"))


@with_cuda
@pytest.mark.parametrize(
    ("nvcc", "reason"),
    [
        (None, "does not exist"),
        ("#!/bin/sh\necho 'libdevice is missing' >&2\nexit 3\n", "libdevice is missing"),
        ("no program at all", "Exec format error"),
        ("#!/bin/sh\necho 'release 1.0, V1.0'\n", "nvcc 1.0 does not match"),
        ("#!/bin/sh\nprintf '\\377\\376'\n", "says no version"),
        (f"#!/bin/sh\necho 'release {torch.version.cuda}'; exit 1\n", "exit status 1"),
    ],
    ids=["no toolkit", "fails", "no program", "another major version", "no text", "fails and answers"],
)
def test_whatever_fails_while_cuda_is_asked_for_is_a_reason_and_no_error(
    setup_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nvcc: str | None, reason: str
) -> None:
    home = tmp_path / "toolkit"
    if nvcc is not None:
        script(home / "bin" / "nvcc", nvcc)
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert reason in setup_file["cuda_extension"]()


@with_cuda
def test_a_cuda_home_that_is_gone_leaves_the_kernels_of_the_cpu(checkout: Path) -> None:
    done = build(checkout, CUDA_HOME=str(checkout / "gone"), ARCHLOOM_BUILD_EXT="require")
    assert done.returncode == 0, done.stderr[-2000:]
    info = written(checkout)
    assert (info["built"], info["failed"]) == (CPU, {})
    assert f"CUDA_HOME={checkout / 'gone'}" in info["cuda"]
    assert (checkout / "core" / "archloom" / "_C.so").exists()


@with_cuda
def test_a_toolkit_that_fits_and_cannot_compile_costs_its_own_library_alone(checkout: Path) -> None:
    nvcc = f"""#!/bin/sh
case "$*" in *--version*) echo "release {torch.version.cuda}, V{torch.version.cuda}" ;;
*) echo "nvcc fatal   : Unsupported gpu architecture 'compute_75'" >&2; exit 1 ;; esac
"""
    home = script(checkout / "toolkit" / "bin" / "nvcc", nvcc).parents[1]
    done = build(checkout, CUDA_HOME=str(home))
    assert done.returncode == 0, done.stderr[-2000:]
    info = written(checkout)
    assert info["built"] == CPU
    assert info["failed"]["archloom._C_cuda"].startswith("nvcc fatal   : Unsupported gpu architecture")


def test_a_toolkit_that_pytorch_refuses_costs_the_library_of_cuda_alone(
    setup_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch looks at compilers and toolkit before it compiles anything, once for all libraries."""
    from setuptools import Distribution, Extension
    from torch.utils.cpp_extension import BuildExtension

    def refuse(self: Any) -> None:
        if any("cuda" in ext.name for ext in self.extensions):
            raise RuntimeError("this compiler is newer than that toolkit takes")
        info["built"] += [ext.name for ext in self.extensions]

    info: dict[str, Any] = {"built": [], "failed": {}}
    monkeypatch.setattr(BuildExtension, "build_extensions", refuse)
    command = setup_file["command"](info)(Distribution())
    command.extensions = [Extension(name, []) for name in (*CPU, "archloom._C_cuda")]
    command.build_extensions()
    assert info["built"] == CPU
    assert "newer than that toolkit takes" in info["cuda"]


NINJA = """[1/2] c++ -Werror -std=c++20 -c a.cpp
FAILED: [code=1] a.o
c++ -Werror -std=c++20 -c a.cpp error: x
{said}
ninja: build stopped: subcommand failed."""


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("c++: error: unrecognized command-line option '-std=c++20'", None),
        (
            "a.cpp:1:2: warning: an old flag\na.cpp:9:1: fatal error: x.h: No such file",
            "a.cpp:9:1: fatal error",
        ),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_20'", None),
        (
            "/usr/bin/ld: cannot find -lfoo\ncollect2: error: ld returned 1 exit status",
            "/usr/bin/ld: cannot find",
        ),
        ("what is -std=c++20?\nI do not know it", "what is -std=c++20?"),
    ],
)
def test_the_first_line_in_which_a_compiler_says_what_is_wrong_is_found(
    setup_file: dict[str, Any], said: str, kept: str | None
) -> None:
    assert setup_file["first_error"](NINJA.format(said=said).splitlines()).startswith(kept or said)


def test_a_compilers_own_line_is_in_the_recorded_reason_and_in_the_warning(checkout: Path) -> None:
    says = "c++: error: unrecognized command-line option '-std=c++20'"
    refuses = f'case "$*" in *-std=c++20*) echo "{says}" >&2; exit 1 ;; esac'
    done = build(checkout, refuses=refuses, CUDA_HOME=str(checkout / "gone"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert says in done.stdout + done.stderr  # what compilers print is shown as ever
    assert written(checkout)["failed"]["archloom._C"].startswith(says)
    warned = subprocess.run(
        [sys.executable, "-c", "import torch; from archloom import ops; ops.swish(torch.ones(2))"],
        env={**os.environ, "PYTHONPATH": str(checkout / "core"), "ARCHLOOM_KERNELS": "auto"},
        capture_output=True,
        encoding="utf-8",
    )
    assert says in warned.stderr


def wheel(checkout: Path, **environment: str) -> dict[str, Any]:
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = build(checkout, "-c", code, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = (checkout / "dist").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        return json.loads(archive.read("archloom/_build_info.json"))


def test_a_wheel_without_kernels_leaves_what_the_checkout_says_of_itself(checkout: Path) -> None:
    package = checkout / "core" / "archloom"
    (package / "_C.so").write_bytes(b"compiled")
    said = '{"mode": "auto", "built": ["archloom._C"], "failed": {}, "reason": ""}'
    (package / "_build_info.json").write_text(said, encoding="utf-8")
    assert wheel(checkout, ARCHLOOM_BUILD_EXT="0")["reason"] == "ARCHLOOM_BUILD_EXT=0"
    assert (package / "_build_info.json").read_text(encoding="utf-8") == said
    assert (package / "_C.so").read_bytes() == b"compiled"


def test_an_sdist_holds_every_file_that_git_knows_and_nothing_else(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0 or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    tracked = {name for name in listed.stdout.decode().split("\0") if name and not name.startswith(".")}
    copy = tmp_path / "checkout"
    for name in tracked:
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for left in (
        "core/archloom/_C.so",
        "core/archloom/_build_info.json",
        "tests/__pycache__/a.pyc",
        "runs/a/log.txt",
    ):
        (copy / left).parent.mkdir(parents=True, exist_ok=True)
        (copy / left).write_bytes(b"left behind")
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    done = build(copy, "-c", code, ARCHLOOM_BUILD_EXT="0")
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made_by_setuptools = {name for name in held if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert held - made_by_setuptools == {name for name in tracked if (ROOT / name).exists()}
