"""Says where the packages lie and how the kernels are compiled; all else stands in pyproject.toml.

Two source roots, `core/` and `plugins/`, one distribution. The kernels of csrc/ become three libraries beside
`archloom`: `_C` (operators on the CPU), `_C_cuda` (the same on CUDA, where an nvcc that matches PyTorch is
found, GPU or not) and `_native` (a pybind11 module for what is no operator).

ARCHLOOM_BUILD_EXT: `auto` (default) goes on without the kernels when they cannot be compiled and records why;
`require` fails instead; `0` does not try. The outcome lies in `archloom/_build_info.json`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
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


def sources(*sections: str) -> list[str]:
    """The sources of some sections of csrc/manifest.txt, which CMake reads too."""
    lines = (ROOT / "csrc" / "manifest.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return [f"csrc/{path}" for section, path in entries if section in sections]


def toolkit_root() -> str | None:
    """The root of the CUDA toolkit: CUDA_HOME, or where the nvcc on the PATH truly lies.

    That nvcc may be a script that calls another; a dry run prints the folder of the real one.
    """
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    top = re.search(r"_HERE_=(\S+)", dry.stderr + dry.stdout)
    return str(Path(top[1]).parent) if top else None


def cuda_refusal(root: str | None) -> str:
    """Why `_C_cuda` cannot be compiled here; empty where it can."""
    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if root is None:
        return "no nvcc on the PATH and no CUDA_HOME"
    version = subprocess.run(
        [f"{root}/bin/nvcc", "--version"], capture_output=True, text=True, encoding="utf-8", errors="replace"
    ).stdout
    release = re.search(r"release (\d+)\.(\d+)", version)
    if release is None:
        return f"{root}/bin/nvcc does not say its version"
    if release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc {release[1]}.{release[2]} does not match PyTorch's CUDA {torch.version.cuda}"
    return ""


def extensions(info: dict[str, object]) -> list[Extension]:
    """`_C`, `_native` and perhaps `_C_cuda`; the reason for a missing one goes into `info`."""
    root = toolkit_root()
    if root:
        os.environ["CUDA_HOME"] = root  # read when cpp_extension is imported
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    import pybind11
    from torch.utils import cpp_extension

    operators = Extension(
        "archloom._C",
        sources("core", "ops"),
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
    refusal = cuda_refusal(root)
    if refusal:
        info["cuda"] = refusal
        return [operators, python]
    cuda = Extension(
        "archloom._C_cuda",
        sources("cuda"),
        include_dirs=cpp_extension.include_paths(device_type="cuda"),
        library_dirs=cpp_extension.library_paths(device_type="cuda"),
        libraries=["torch_cpu", "torch_cuda", "cudart"],
        extra_compile_args={
            "cxx": [*CXX_FLAGS, STABLE_ABI, "-DUSE_CUDA"],
            "nvcc": ["-O3", "-std=c++20", STABLE_ABI, "-DTORCH_STABLE_ONLY", "-DUSE_CUDA", "--threads=2"],
        },
        language="c++",
    )
    return [operators, python, cuda]


def command(info: dict[str, object]) -> type[build_ext]:
    """PyTorch's build_ext with ninja, one extension at a time, the outcome written down."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildKernels(BuildExtension):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "no_python_abi_suffix": True})

        def get_ext_filename(self, name: str) -> str:
            # the operators' libraries are no Python modules: no Python version in their names
            if name.endswith("_native"):
                return build_ext.get_ext_filename(self, name)
            return str(Path(*name.split("."))) + ".so"

        def get_export_symbols(self, ext: Extension) -> list[str]:
            return []

        def build_extensions(self) -> None:
            super().build_extensions()
            self.extensions = [ext for ext in self.extensions if ext.name not in info["failed"]]

        def run(self) -> None:
            super().run()
            write_info(
                info, ROOT / "core" / "archloom" if self.inplace else Path(self.build_lib) / "archloom"
            )

        def build_extension(self, ext: Extension) -> None:
            try:
                super().build_extension(ext)
                info["built"].append(ext.name)
            except Exception as error:
                if MODE == "require":
                    raise
                compiler = os.environ.get("CXX", "c++").split()[0]
                missing = "" if shutil.which(compiler) else f"no C++ compiler '{compiler}' on the PATH: "
                info["failed"][ext.name] = missing + str(error)[-2000:]

    return BuildKernels


def write_info(info: dict[str, object], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def build() -> dict[str, object]:
    """The arguments of `setup` that concern the kernels."""
    info: dict[str, object] = {"mode": MODE, "built": [], "failed": {}, "reason": ""}
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
    write_info(info, ROOT / "core" / "archloom")
    return {}


setup(
    packages=CORE + PLUGINS,
    package_dir={"": "core"} | {name: f"plugins/{name.replace('.', '/')}" for name in PLUGINS},
    package_data={"archloom": ["py.typed", "_build_info.json"]}
    | {name: ["*.json", "*.yaml"] for name in PLUGINS},
    **build(),
)
