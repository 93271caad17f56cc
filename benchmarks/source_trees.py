"""The source tree of an earlier commit, with compiled kernels, ready to run beside this one."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def files_of(commit: str) -> Path:
    """The source tree of a commit, in build/behaviour; it is kept there."""
    full = git("rev-parse", f"{commit}^{{commit}}").decode().strip()
    folder = ROOT / "build" / "behaviour" / full[:12]
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        with tarfile.open(fileobj=io.BytesIO(git("archive", full))) as archive:
            archive.extractall(fresh, filter="data")
        fresh.rename(folder)
    return folder


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def equip(tree: Path) -> str:
    """Compiled kernels for the base's tree: this tree's where they are built from the same sources, else its own."""
    here, there = ROOT / "core" / "archloom", tree / "core" / "archloom"
    if not (here / "_C.so").exists():
        return "neither tree has compiled kernels"
    if (there / "_C.so").exists():
        return "the base has its kernels from an earlier call"
    same_flags = (ROOT / "setup.py").read_bytes() == (tree / "setup.py").read_bytes()
    if same_flags and carried(here / "_C.so") == sources(tree):
        for file in [*here.glob("*.so"), here / "_build_info.json"]:
            shutil.copy2(file, there / file.name)
        return "both trees have the same compiled kernels"
    environment = os.environ | {"ARCHLOOM_BUILD_EXT": "require", "CUDA_HOME": "/without/CUDA"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise SystemExit(f"the base's kernels do not compile:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return "the base's kernels were compiled from its own sources"


def _fingerprint() -> Any:
    path = ROOT / "core" / "archloom" / "kernels" / "fingerprint.py"  # imports the standard library alone
    spec = importlib.util.spec_from_file_location("fingerprint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def carried(library: Path) -> str | None:
    mark = _fingerprint().carried(library)
    return mark.csrc if mark else None


def sources(tree: Path) -> str:
    return _fingerprint().of_sources(tree / "csrc").csrc


def announce(tree: Path, folder: Path) -> Path:
    """What an installation of `tree` would say of itself: its entry points, in a folder for PYTHONPATH."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = folder / f"{project['name']}-{project['version']}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(
        f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = [
        "[archloom]",
        *(f"{key} = {value}" for key, value in project["entry-points"]["archloom"].items()),
    ]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
