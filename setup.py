"""Says where the packages lie and how the kernels are compiled; all else stands in pyproject.toml.

Two source roots, `core/` and `plugins/`, one distribution. The kernels of csrc/ become three libraries beside
`archloom`: `_C` (operators on the CPU), `_C_cuda` (the same on CUDA, where an nvcc that matches PyTorch is
found, GPU or not) and `_native` (a pybind11 module for what is no operator).

ARCHLOOM_BUILD_EXT: `auto` (default) goes on without the kernels when they cannot be compiled and records why;
`require` fails instead; `0` does not try. Whatever fails while CUDA is asked for costs the CUDA kernels alone.
The outcome lies in `archloom/_build_info.json`, in the checkout for what is built in place, else in the wheel.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "core" / "archloom"
CORE = find_packages("core")
PLUGINS = find_packages("plugins")

MODE = os.environ.get("ARCHLOOM_BUILD_EXT", "auto").strip().lower()
if MODE not in ("auto", "require", "0"):
    sys.exit(f"ARCHLOOM_BUILD_EXT={MODE}: known are auto, require and 0")

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # PyTorch 2.10: every later one loads the library
CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-ignored-attributes",
]
CXX_FLAGS += ["-Wno-maybe-uninitialized", "-fvisibility=hidden", "-g0"]
CUDA_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0+PTX"
BUILT_FROM = "build/built_from.cpp"  # the libraries' fingerprint, written anew by every build


def sources(*sections: str) -> list[str]:
    """The sources of some sections of csrc/manifest.txt, which CMake reads too."""
    lines = (ROOT / "csrc" / "manifest.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return [f"csrc/{path}" for section, path in entries if section in sections]


def fingerprint() -> ModuleType:
    """The module that finds and writes fingerprints, without importing archloom."""
    spec = importlib.util.spec_from_file_location("fingerprint", PACKAGE / "kernels" / "fingerprint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(*command: str) -> subprocess.CompletedProcess[str]:
    """A command's answer; it has a minute for it."""
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60)


def toolkit_root() -> str | None:
    """The root of the CUDA toolkit: CUDA_HOME, or where the nvcc on the PATH truly lies.

    That nvcc may be a script that calls another; a dry run prints the folder of the real one.
    """
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dry = asked(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull)
    top = re.search(r"_HERE_=(\S+)", dry.stderr + dry.stdout)
    return str(Path(top[1]).parent) if top else None


def cuda_refusal(root: str | None) -> str:
    """Why `_C_cuda` cannot be compiled here; empty where it can."""
    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if root is None:
        return "no nvcc on the PATH and no CUDA_HOME"
    nvcc = Path(root, "bin", "nvcc")
    if not nvcc.exists():
        named = f"CUDA_HOME={root}: " if root == os.environ.get("CUDA_HOME") else ""
        return f"{named}{root} does not exist" if not Path(root).exists() else f"{named}{nvcc} does not exist"
    answer = asked(str(nvcc), "--version")
    release = re.search(r"release (\d+)\.(\d+)", answer.stdout)
    if release is None or answer.returncode != 0:
        said = " ".join((answer.stderr + answer.stdout).split())[:500]
        return f"{nvcc} --version says no version (exit status {answer.returncode}): {said}"
    if release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc {release[1]}.{release[2]} does not match PyTorch's CUDA {torch.version.cuda}"
    return ""


def cuda_extension() -> Extension | str:
    """`_C_cuda`, or why there is none."""
    try:
        root = toolkit_root()
        refusal = cuda_refusal(root)
        if refusal or root is None:
            return refusal
        os.environ["CUDA_HOME"] = root  # read when cpp_extension is imported
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
        from torch.utils import cpp_extension

        return Extension(
            "archloom._C_cuda",
            [*sources("cuda"), BUILT_FROM],
            include_dirs=cpp_extension.include_paths(device_type="cuda"),
            library_dirs=cpp_extension.library_paths(device_type="cuda"),
            libraries=["torch_cpu", "torch_cuda", "cudart"],
            extra_compile_args={
                "cxx": [*CXX_FLAGS, STABLE_ABI, "-DUSE_CUDA"],
                "nvcc": ["-O3", "-std=c++20", STABLE_ABI, "-DTORCH_STABLE_ONLY", "-DUSE_CUDA", "--threads=2"],
            },
            language="c++",
        )
    except Exception as error:
        return f"asking for CUDA fails: {error}"[-2000:]


def extensions(info: dict[str, Any]) -> list[Extension]:
    """`_C`, `_native` and perhaps `_C_cuda`; the reason for a missing one goes into `info`."""
    fingerprint().write_source(ROOT / "csrc", ROOT / BUILT_FROM)
    cuda = cuda_extension()  # before cpp_extension is imported, which reads CUDA_HOME
    import pybind11
    from torch.utils import cpp_extension

    operators = Extension(
        "archloom._C",
        [*sources("core", "ops"), BUILT_FROM],
        include_dirs=cpp_extension.include_paths(),
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu"],  # loaded by RTLD_LOCAL: what we use must be named
        extra_compile_args={"cxx": [*CXX_FLAGS, STABLE_ABI, "-DTORCH_STABLE_ONLY"]},
    )
    python = Extension(
        "archloom._native",
        sources("python"),
        include_dirs=[pybind11.get_include()],
        extra_compile_args={"cxx": CXX_FLAGS},
        libraries=["dl"],
    )
    if isinstance(cuda, str):
        info["cuda"] = cuda
        return [operators, python]
    return [operators, python, cuda]


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The lines that compilers print meanwhile. They are shown as ever, and kept in the list."""
    lines: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    shown, errors = os.dup(1), os.dup(2)
    reader, writer = os.pipe()

    def copy() -> None:
        with open(reader, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                os.write(shown, line.encode("utf-8", errors="replace"))

    listener = threading.Thread(target=copy, daemon=True)
    listener.start()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield lines
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(shown, 1)
        os.dup2(errors, 2)
        os.close(errors)
        listener.join(timeout=10)  # a compiler's server in the background keeps its end open
        if not listener.is_alive():
            os.close(shown)


def first_error(lines: list[str]) -> str:
    """The first line in which a compiler says what is wrong; empty where it says nothing."""
    said: list[str] = []
    command_follows = failed = False
    for line in lines:
        is_command = command_follows or re.match(r"\[\d+/\d+\]", line) is not None
        command_follows = line.startswith("FAILED:")  # ninja prints the command that failed below it
        failed = failed or command_follows
        if not (is_command or command_follows or line.startswith("ninja:")) and line.strip():
            if re.search(r"\berror\b[^:]*:|\bfatal\b[^:]*:|\bld(\.\w+)?: (cannot|.*undefined)", line):
                return line.strip()[:500]
            if failed:
                said.append(line.strip()[:500])
    return said[0] if said else ""


def command(info: dict[str, Any]) -> type[build_ext]:
    """PyTorch's build_ext with ninja, one extension at a time, the outcome written down."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildKernels(BuildExtension):  # type: ignore[misc]
        compiling: str = ""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "no_python_abi_suffix": True})

        def get_ext_filename(self, name: str) -> str:
            # the operators' libraries are no Python modules: no Python version in their names
            if name.endswith("_native"):
                return build_ext.get_ext_filename(self, name)
            return str(Path(*name.split("."))) + ".so"

        def get_export_symbols(self, ext: Extension) -> list[str]:
            return []

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:  # PyTorch looks at the CUDA toolkit before it compiles anything
                cpu = [ext for ext in self.extensions if ext.name != "archloom._C_cuda"]
                if self.compiling or len(cpu) == len(self.extensions):
                    raise
                info["cuda"] = f"PyTorch refuses this CUDA toolkit: {error}"[-2000:]
                self.extensions = cpu
                super().build_extensions()
            self.extensions = [ext for ext in self.extensions if ext.name not in info["failed"]]

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if MODE == "require":
                    raise
                info["reason"] = f"{type(error).__name__}: {error}"[-2000:]
            write_info(info, PACKAGE if self.inplace else Path(self.build_lib) / "archloom")

        def build_extension(self, ext: Extension) -> None:
            self.compiling = ext.name
            with heard() as lines:
                try:
                    super().build_extension(ext)
                    info["built"].append(ext.name)
                    return
                except Exception as error:
                    if MODE == "require":
                        raise
                    failure = error
            compiler = os.environ.get("CXX", "c++").split()[0]
            missing = "" if shutil.which(compiler) else f"no C++ compiler '{compiler}' on the PATH: "
            own = first_error(lines)
            info["failed"][ext.name] = missing + (f"{own} ({failure})" if own else str(failure))[-2000:]

    return BuildKernels


def recorded(info: dict[str, Any]) -> type[Command]:
    """build_py that says in the wheel why there are no kernels in it; in a checkout only where there are none."""

    class BuildPython(build_py):
        def run(self) -> None:
            super().run()
            if not self.editable_mode:
                write_info(info, Path(self.build_lib) / "archloom")
            elif not (PACKAGE / "_C.so").exists():
                write_info(info, PACKAGE)

    return BuildPython


def write_info(info: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def build() -> dict[str, Any]:
    """The arguments of `setup` that concern the kernels."""
    info: dict[str, Any] = {"mode": MODE, "built": [], "failed": {}, "reason": ""}
    if MODE != "0":
        try:
            import torch

            info["torch"] = torch.__version__
            modules = extensions(info)
            return {"ext_modules": modules, "cmdclass": {"build_ext": command(info)}}
        except Exception as error:
            if MODE == "require":
                raise
            info["reason"] = f"{type(error).__name__}: {error}"[-2000:]
    else:
        info["reason"] = "ARCHLOOM_BUILD_EXT=0"
    return {"cmdclass": {"build_py": recorded(info)}}


setup(
    packages=CORE + PLUGINS,
    package_dir={"": "core"} | {name: f"plugins/{name.replace('.', '/')}" for name in PLUGINS},
    package_data={"archloom": ["py.typed"]} | {name: ["*.json", "*.yaml"] for name in PLUGINS},
    **build(),
)
