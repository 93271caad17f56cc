"""Which kernels run: the compiled ones of csrc/, or the references of `archloom.ops`.

ARCHLOOM_KERNELS: `auto` (default) takes the compiled kernels where they are installed and says once, as a
warning, why not otherwise; `native` refuses to go on without them; `python` does not load them.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import fingerprint

_FOLDER = Path(__file__).resolve().parent.parent  # the libraries lie beside archloom's modules
_LIBRARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")  # how Linux's and macOS's files begin
_MODES = ("auto", "native", "python")
OPERATIONS = (
    "swish",
    "drop_connect",
    "drop_connect_add",
    "mixed_sum",
    "bn_mixed_sum",
    "bn_swish",
    "scale_gate",
)

ON_THE_CPU = {
    "drop_connect": "PyTorch's product (cpu)",
    "drop_connect_add": "compiled; float32 and float64 within the caches: torch.addcmul (cpu)",
    "scale_gate": "forward PyTorch's product, backward compiled (cpu)",
}
"""What the ops leave to PyTorch on the CPU because it is as fast, beside small tensors (`archloom.ops.SMALL`)."""


@dataclass(frozen=True)
class Status:
    """What was loaded: `devices` on which the compiled kernels run, and `reasons` why not elsewhere."""

    mode: str
    devices: frozenset[str]
    reasons: dict[str, str]

    @property
    def native(self) -> bool:
        return bool(self.devices)


@functools.cache
def status() -> Status:
    """Load the kernels at the first call and say what became of it.

    Raises ConfigError for an unknown ARCHLOOM_KERNELS, and for `native` where they cannot be loaded.
    """
    mode = os.environ.get("ARCHLOOM_KERNELS", "auto").strip().lower() or "auto"
    if mode not in _MODES:
        raise ConfigError(f"ARCHLOOM_KERNELS={mode}: known are {', '.join(_MODES)}")
    if mode == "python":
        return Status(
            mode, frozenset(), {"cpu": "ARCHLOOM_KERNELS=python", "cuda": "ARCHLOOM_KERNELS=python"}
        )
    reasons = {"cpu": _load(library()), "cuda": _load_cuda()}
    if reasons["cpu"]:
        if mode == "native":
            raise ConfigError(
                f"ARCHLOOM_KERNELS=native, but the compiled kernels cannot be used: {reasons['cpu']}. "
                "Install with ARCHLOOM_BUILD_EXT=require to see the whole error"
            )
        return Status(mode, frozenset(), reasons)
    for name in ("fakes", "autograd", "batching"):  # tell PyTorch of operators that must be there by then
        importlib.import_module(f".{name}", __package__)
    devices = {"cpu", "meta"} | ({"cuda"} if not reasons["cuda"] else set())
    return Status(mode, frozenset(devices), {device: why for device, why in reasons.items() if why})


def library() -> Path:
    """Where the operators' library lies, or would lie."""
    return _FOLDER / "_C.so"


def _load(path: Path) -> str:
    """Load one library of operators; the reason where that failed."""
    import torch

    if not path.exists():
        build = build_info()
        failed = build.get("failed", {}).get(f"archloom.{path.stem}", "")
        return (
            failed
            or build.get("reason")
            or f"{path.name} is not there: this installation has not compiled it"
        )
    try:
        if why := _outdated(path):
            return why
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded: {error}"
    return ""


def _outdated(path: Path) -> str:
    """Why a library does not go with these Python files; empty where it does. Asked before it is loaded."""
    carried, no_library = fingerprint.carried(path), path.read_bytes()[:4] not in _LIBRARIES
    if carried is None and no_library:
        return ""  # the attempt to load it says what it is
    again = "run `make kernels` in the checkout, or install archloom again"
    if carried is None:
        return f"{path.name} does not say what it was compiled from, so it is older than these Python files: {again}"
    if carried.schemas != fingerprint.of_schemas():
        return f"{path.name} holds other operators than these Python files call: {again}"
    csrc = _FOLDER.parent.parent / "csrc"
    if (csrc / "manifest.txt").exists() and carried.csrc != fingerprint.of_sources(csrc).csrc:
        return f"{path.name} was compiled from other sources than now lie in {csrc}: {again}"
    return ""


def _load_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if not library().exists():
        return "the library of the CPU's operators, which holds the schemas, is not there"
    if not (_FOLDER / "_C_cuda.so").exists() and (why := build_info().get("cuda")):
        return str(why)
    return _load(_FOLDER / "_C_cuda.so")


def build_info() -> dict[str, Any]:
    """What the build wrote down: mode, what was built, what failed and why. Empty without a build."""
    path = _FOLDER / "_build_info.json"
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if (native := _native()) is not None:
        info |= native.build_info()
    return info


@functools.cache
def say_fallback() -> None:
    """Warn, once per process, that the references run, and why; silent where they were asked for."""
    state = status()
    if state.mode == "auto" and not state.native:
        warnings.warn(
            "archloom's compiled kernels are not in use, its slower references in PyTorch are: "
            f"{state.reasons['cpu']}. Set ARCHLOOM_KERNELS=python to choose them silently.",
            RuntimeWarning,
            stacklevel=3,
        )


def _native() -> Any | None:
    """The pybind11 module, or None where it was not built."""
    try:
        return importlib.import_module("archloom._native")
    except ImportError:
        return None


def _module() -> Any:
    module = _native()
    if module is None or not status().native:
        raise ConfigError(
            f"the compiled kernels are not in use: {status().reasons.get('cpu', 'no _native module')}"
        )
    return module


def instruction_sets() -> list[str]:
    """The CPU instruction sets that can run here, best last."""
    return str(_module().isa_available(str(library()))).split(",")


def instruction_set() -> str:
    """The one in use: the best, or what ARCHLOOM_CPU_CAPABILITY or `select_instruction_set` named."""
    return str(_module().isa_selected(str(library())))


def select_instruction_set(name: str) -> None:
    """Use another instruction set from now on, in the whole process; "auto" is the best. For tests."""
    if not _module().isa_select(str(library()), name):
        raise ConfigError(
            f"instruction set '{name}' cannot run here; known: auto, {', '.join(instruction_sets())}"
        )


def keep_freed_memory() -> str:
    """Let glibc keep large freed buffers instead of returning them to the system, and say what was set.

    By default every tensor above 32 MB is mapped, faulted in page by page and unmapped again, which takes
    several times longer than any operation on it. For the process, to be called once at its start; a program
    that embeds archloom decides for itself. The limit is 2 GiB - 1, what mallopt can be told.
    """
    native = _native()
    if native is None:
        _allocator[0] = "default (the module that sets it was not built)"
    elif native.keep_freed_memory():
        _allocator[0] = "mallopt: mmap and trim threshold 2147483647, top pad 268435456"
    else:
        _allocator[0] = "default (no glibc)"
    return _allocator[0]


_allocator = ["default"]  # the process's own setting, which cannot be read back from glibc


def allocator() -> str:
    """What `keep_freed_memory` set in this process; "default" where it was not called."""
    return _allocator[0]


def info() -> dict[str, Any]:
    """What `archloom info --kernels` shows: mode, devices, reasons, instruction sets, who runs each op."""
    state = status()
    shown: dict[str, Any] = {"mode": state.mode, "devices": sorted(state.devices), "reasons": state.reasons}
    if state.native:
        shown |= {"instruction_set": instruction_set(), "instruction_sets": instruction_sets()}
        if built_from := fingerprint.carried(library()):
            shown["built_from"] = built_from._asdict()
    shown["operations"] = {op: ", ".join(_runs(op, state)) for op in OPERATIONS}
    shown["build"] = build_info()
    return shown


def _runs(op: str, state: Status) -> list[str]:
    if not state.native:
        return ["reference"]
    found = [ON_THE_CPU.get(op, "compiled (cpu)")]
    return [*found, "compiled (cuda)"] if "cuda" in state.devices else found
