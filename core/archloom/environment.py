"""Where a run happened: versions, plugins, device, seed, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any, Protocol

import numpy
import torch

from . import kernels, version
from .latency import setting_of
from .plugins import Host
from .resolve import device_of


class Configured(Protocol):
    """What a configuration must say to be described."""

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...


def describe(host: Host, config: Configured) -> dict[str, Any]:
    """Everything that another person needs to repeat the run."""
    device = device_of(config.device)
    return {
        "versions": versions(host),
        "platform": platform.platform(),
        "device": setting_of(device, 1).device,
        "threads": torch.get_num_threads(),
        "allocator": kernels.allocator(),
        "kernels": kernels.instruction_set() if kernels.status().native else "references",
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "precision": config.precision,
        "seed": config.seed,
        "commit": commit(),
        "command": sys.argv,
        "broken plugins": [str(broken) for broken in host.broken],
    }


def versions(host: Host) -> dict[str, str]:
    """Of Python, PyTorch, numpy, archloom, and of every distribution that registered something."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "archloom": version(),
    }
    for entry in host.entries():
        found.setdefault(entry.distribution, entry.version)
    return found


def commit() -> str | None:
    """The git commit of the working directory, with "+" where files differ from it; None outside git.

    git is asked without locks, so that its index stays as it is, and its words stay bytes: a file's name may be none
    that can be decoded.
    """
    try:
        head = _git("rev-parse", "HEAD").decode("ascii").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return head + ("+" if changed else "")


def _git(*words: str) -> bytes:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(["git", *words], capture_output=True, timeout=10, check=True, env=environment)
    return done.stdout
