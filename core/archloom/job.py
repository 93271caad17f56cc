"""Work for other processes: what each of them needs to make the objects of a run, as data that can be sent there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from .config import parse_config
from .measuring import Measurer
from .plugins import Host
from .processes import end_with_the_parent
from .ranks import Ranks
from .resolve import Resolved, resolve
from .strategy import Recorded

Made = TypeVar("Made")

Maker = Callable[[Any, Host, Path, Recorded], Made]
"""Makes what does the work, of the configuration as plain data, the registered parts, the run's folder and its values
that are measured once."""


@dataclass(frozen=True)
class Job(Generic[Made]):
    """How to make, in any process, what works for a run. It can be pickled, and is equal to its copies.

    maker: an importable function. configuration: plain data, as JSON. files: the plugin files. threads: of PyTorch on
    the CPU, for one process. recorded: can be pickled too.
    """

    maker: Maker[Made]
    configuration: str
    files: tuple[str, ...]
    folder: Path
    threads: int
    recorded: Recorded

    def prepare(self) -> Made:
        """Make it in this process, which is given its number of threads."""
        import torch

        torch.set_num_threads(self.threads)
        return self.maker(self.data, Host(self.files), self.folder, self.recorded)

    @property
    def data(self) -> Any:
        """The configuration as plain data."""
        return json.loads(self.configuration)

    def __call__(self, *task: Any) -> Any:
        """Do one task in this process: what does it is made at the first one, and kept for the others."""
        with _MAKING:
            do: Any = _made(self)
        return do(*task)


_MAKING = Lock()


@lru_cache(maxsize=1)
def _made(job: Job[Made]) -> Made:
    """A worker does the tasks of one run, usually many; what it needs for them takes seconds to make."""
    end_with_the_parent()
    return job.prepare()


def measuring(r: Resolved, folder: Path, recorded: Recorded, threads: int) -> Job[Measurer]:
    """The job of measuring for the run in `folder`: prepared, it is a `Measurer`."""
    configuration = json.dumps(r.config.model_dump(mode="json"))
    return Job(_measurer, configuration, r.host.files, folder, threads, recorded)


def _measurer(data: Any, host: Host, folder: Path, recorded: Recorded) -> Measurer:
    r = resolve(parse_config(data), host)
    return r.measurer(r.context(Ranks(), recorded).measuring(folder=folder))
