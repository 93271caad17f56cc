"""Work for other processes: what each of them needs to make the objects of a run, as data that can be sent there."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from .config import parse_config
from .errors import ArchloomError, PluginError
from .measuring import Executor, Measurer, trouble
from .plugins import Host
from .processes import end_with_the_parent
from .ranks import Ranks
from .recording import shared
from .resolve import Maker, Resolved, resolve
from .strategy import Recorded

logger = logging.getLogger("archloom")

Made = TypeVar("Made")

Making = Callable[[Any, Host, Path, Recorded], Made]
"""Makes what does the work, of the configuration as plain data, the registered parts, the run's folder and its values
that are measured once."""


@dataclass(frozen=True)
class Job(Generic[Made]):
    """How to make, in any process, what works for a run. It can be pickled, and is equal to its copies.

    maker: an importable function. configuration: plain data, as JSON. files: the plugin files. threads: of PyTorch on
    the CPU, for one process. recorded: can be pickled too. strict: what is lost with its process ends the run, where it
    would be a failed outcome.
    """

    maker: Making[Made]
    configuration: str
    files: tuple[str, ...]
    folder: Path
    threads: int
    recorded: Recorded
    strict: bool = False

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
    return Job(_measurer, configuration, r.host.files, folder.absolute(), threads, recorded, r.config.strict)


def _measurer(data: Any, host: Host, folder: Path, recorded: Recorded) -> Measurer:
    r = resolve(parse_config(data), host)
    return r.measurer(r.context(Ranks(), recorded).measuring(folder=folder))


@contextmanager
def opened(
    maker: Maker, measure: Any, folder: Path, job: Callable[[Recorded], Job[Any]]
) -> Iterator[Executor]:
    """The executor that `maker` makes, closed after the block, for the run in `folder`. measure: what measures here.
    job: the same for other processes, which ask what it is given for the run's recorded values."""
    entry, available = maker.entry, {"measure": measure}
    with ExitStack() as until_the_end:
        if "job" in entry.injected:
            available["job"] = job(until_the_end.enter_context(shared(folder)))
        where = f"executor '{entry.name}' of {entry.distribution}"
        try:
            executor = maker(**available)
        except ArchloomError:
            raise
        except Exception as error:
            raise PluginError(f"{where} raised {type(error).__name__} as it was made: {error}") from error
        if callable(getattr(executor, "close", None)):
            until_the_end.callback(_close, executor, where)
        if problem := trouble(executor):
            raise PluginError(f"{where} {problem}")
        yield executor


def _close(executor: Executor, where: str) -> None:
    try:
        executor.close()
    except Exception as error:  # what was measured is there, and what ended the block is the one to be told
        told = (
            f"{where} raised {type(error).__name__} from close: {error}. What it measured is kept; it may have left "
            "processes"
        )
        logger.warning(told)
        with suppress(Exception):  # where warnings are errors, or cannot be shown: it is in log.txt
            warnings.warn(told, stacklevel=2)
