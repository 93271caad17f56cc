"""What a library of compiled operators was built from, and what these Python files expect of one.

The build (setup.py, CMake) writes `source_text` into every library; `carried` finds it there without loading the
library, which would register its operators. Imports nothing but the standard library: the build reads this file
before archloom can be imported, as `python fingerprint.py CSRC FILE` too, which writes the text into FILE.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SCHEMAS = (
    "swish(Tensor x) -> Tensor",
    "swish_backward(Tensor grad, Tensor x) -> Tensor",
    "drop_connect(Tensor x, Tensor scale) -> Tensor",
    "drop_connect_add(Tensor x, Tensor skip, Tensor scale) -> Tensor",
    "mixed_sum(Tensor[] xs, Tensor weights) -> Tensor",
    "mixed_sum_backward(Tensor grad, Tensor[] xs, Tensor weights, bool want_xs, bool want_weights)"
    " -> (Tensor[], Tensor)",
    "bn_mixed_sum(Tensor[] xs, Tensor weights, Tensor[] gammas, Tensor[] betas, float[] eps)"
    " -> (Tensor, Tensor, Tensor)",
    "bn_mixed_sum_backward(Tensor grad, Tensor[] xs, Tensor weights, Tensor[] gammas, Tensor[] betas,"
    " Tensor mean, Tensor var, float[] eps) -> (Tensor[], Tensor, Tensor, Tensor)",
    "bn_swish(Tensor x, Tensor gamma, Tensor beta, float eps) -> (Tensor, Tensor, Tensor)",
    "bn_swish_backward(Tensor grad, Tensor x, Tensor gamma, Tensor beta, Tensor mean, Tensor var, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    "scale_gate(Tensor x, Tensor s) -> Tensor",
    "scale_gate_backward(Tensor grad, Tensor x, Tensor s) -> (Tensor, Tensor)",
)
"""The operators as the Python files of this package use them; csrc/schema.cpp declares the same."""

_MARK = "archloom-built-from"
_CARRIED = re.compile(rf"{_MARK} csrc:([0-9a-f]{{64}}) schemas:([0-9a-f]{{64}})".encode())


class Fingerprint(NamedTuple):
    """SHA-256 of the sources and of the operators' schemas, in hexadecimal digits."""

    csrc: str
    schemas: str


def of_schemas(schemas: Iterable[str] = SCHEMAS) -> str:
    return hashlib.sha256("\n".join(schemas).encode()).hexdigest()


def declared(csrc: Path) -> list[str]:
    """The schemas that csrc/schema.cpp declares, each as one string."""
    text = (csrc / "schema.cpp").read_text(encoding="utf-8")
    return ["".join(re.findall(r'"([^"]*)"', call)) for call in re.findall(r"m\.def\((.*?)\);", text, re.S)]


def of_sources(csrc: Path) -> Fingerprint:
    """The fingerprint of what lies in `csrc`: all that is compiled into the libraries, and not its tests."""
    found = hashlib.sha256()
    for path in sorted(csrc.rglob("*"), key=lambda path: path.relative_to(csrc).as_posix()):
        name = path.relative_to(csrc).as_posix()
        if path.is_file() and path.suffix in _COMPILED and not name.startswith("tests/"):
            data = path.read_bytes()
            found.update(f"{name} {len(data)}\n".encode() + data)
    return Fingerprint(found.hexdigest(), of_schemas(declared(csrc)))


_COMPILED = frozenset((".cpp", ".cu", ".h", ".cuh", ".inc", ".txt"))


def source_text(fingerprint: Fingerprint) -> str:
    """The C++ source that makes a library carry it."""
    text = f"{_MARK} csrc:{fingerprint.csrc} schemas:{fingerprint.schemas}"
    return (
        "// Written by the build: what this library was compiled from.\n"
        'extern "C" __attribute__((visibility("default"))) const char archloom_built_from[];\n'
        f'const char archloom_built_from[] = "{text}";\n'
    )


def carried(library: Path) -> Fingerprint | None:
    """What a library says that it was built from; None for one that says nothing. OSError as by reading."""
    found = _CARRIED.search(library.read_bytes())
    return Fingerprint(found[1].decode(), found[2].decode()) if found else None


def write_source(csrc: Path, path: Path) -> None:
    """`source_text` of csrc in `path`, which is left alone where it says that already."""
    text = source_text(of_sources(csrc))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_source(Path(sys.argv[1]), Path(sys.argv[2]))
