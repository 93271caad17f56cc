"""Worker processes that may die, hang or raise without taking anything else with them.

Each worker has a pipe of its own and a thread of this process that watches it, so that the death of one worker, at
whatever moment, is seen at once and touches one task alone.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from .errors import ArchloomError, ConfigError, RunError

logger = logging.getLogger("archloom")

_NAME = "archloom worker"
_UNGUARDED = 78  # how a worker ends that the caller's script started a second time

MOST = 1024
"""Threads and processes that one machine is asked for at most; more would end it while it works, not before."""

Say = Callable[[str, float | None], None]
"""What a task calls as it goes: what it does now, and for how many seconds it may."""


def processors() -> int:
    """How many processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerLost(ArchloomError):
    """A worker ended by itself, or was ended after its time was up. `late` tells the second from the first."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class RemoteError(ArchloomError):
    """An exception of a worker that cannot be brought here as it was: its type's name, its words, its traceback."""


@dataclass
class _Task:
    arguments: tuple[Any, ...]
    future: Future[Any]


class Processes:
    """`number` processes, started when they are needed, each of which does one task at a time.

    prepare: called once in each process with `arguments`; gives the function that does a task. Both must be
    importable there. That function is called with a `Say` and the task's arguments. tries: how often a task may begin
    when its worker dies under it; one whose time is up is not tried again. lost: called with the `WorkerLost`, the
    seconds since the task began and its arguments; gives its answer where its worker was lost in every try.
    """

    def __init__(
        self,
        number: int,
        prepare: Callable[..., Callable[..., Any]],
        arguments: tuple[Any, ...],
        *,
        tries: int = 2,
        lost: Callable[..., Any] | None = None,
    ) -> None:
        self._tries, self._lost = tries, lost
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers = [_Worker(prepare, arguments, index) for index in range(number)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"watches {_NAME} {index}", daemon=True)
            for index, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, *arguments: Any) -> Future[Any]:
        """Do a task in the next free process. Its future can be cancelled until the task begins. It has the task's own
        exception; a `WorkerLost` where the worker died in every try, or took too long, and nothing was given for that;
        a RunError where no worker can be prepared."""
        task = _Task(arguments, Future())
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End the processes, whatever they do; tasks that were not begun are cancelled."""
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task.future.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: _Worker) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                task.future.set_result(self._done(worker, task))
            except BaseException as error:  # it is the future's, whoever asks for it raises it
                task.future.set_exception(error)
        worker.stop()

    def _done(self, worker: _Worker, task: _Task) -> Any:
        began = time.perf_counter()
        for left in reversed(range(self._tries)):
            try:
                return worker.do(task.arguments)
            except WorkerLost as lost:
                if not (lost.late or not left or worker.stopped):
                    continue
                if self._lost is None:
                    raise
                return self._lost(lost, time.perf_counter() - began, *task.arguments)
        raise AssertionError("unreachable: the last try returns or raises")


class _Worker:
    """One process, its pipe, and what is known of what it does. Used by one thread; `stop` may be called by any."""

    def __init__(self, prepare: Callable[..., Any], arguments: tuple[Any, ...], index: int) -> None:
        self._prepare, self._arguments, self._name = prepare, arguments, f"{_NAME} {index}"
        self._process: Any = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self.stopped = False

    def do(self, task: tuple[Any, ...]) -> Any:
        """The task's answer; a WorkerLost where the process ends before it."""
        pipe = self._started()
        try:
            pipe.send(task)
        except OSError:
            raise WorkerLost(
                f"the worker process {_ended(self._process.exitcode)} between two tasks"
            ) from None
        return self._answer(pipe, "it began")

    def stop(self) -> None:
        """End the process now, and start no other."""
        with self._lock:
            self.stopped = True
            process = self._process
        if process is not None:
            _end(process)

    def _started(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        try:
            pipe = self._start()
        except WorkerLost:  # killed as it began, which may be chance
            pipe = self._start()
        return pipe

    def _start(self) -> Connection:
        # spawned, not forked: PyTorch's thread pool does not survive a fork
        context = multiprocessing.get_context("spawn")
        if self._pipe is not None:
            self._pipe.close()
        self._pipe, theirs = context.Pipe()
        with self._lock:
            if self.stopped:
                raise WorkerLost("the workers were stopped")
            # no daemon: a task may load its data in processes of its own
            self._process = context.Process(
                target=_work, args=(theirs, self._prepare, self._arguments), name=self._name, daemon=False
            )
            self._process.start()
        theirs.close()
        try:
            self._answer(self._pipe, "it started")
        except WorkerLost:
            if self._process.exitcode == _UNGUARDED:
                raise ConfigError(
                    "this script starts worker processes, and each of them runs the script again from its top. Put "
                    'what starts the search under `if __name__ == "__main__":`'
                ) from None
            raise
        except Exception as error:
            raise RunError(
                "a worker process could not make what the configuration names (plugins must be installed, or be "
                f"files under 'plugins'): {type(error).__name__}: {error}"
            ) from error
        return self._pipe

    def _answer(self, pipe: Connection, doing: str) -> Any:
        """What the process answers. On the way it may say what it does, for how long, and what is to be logged."""
        until: float | None = None
        limit: float | None = None
        while True:
            if not self._readable(pipe, until):
                _end(self._process)
                raise WorkerLost(f"{doing} took longer than its timeout of {limit:g} seconds", late=True)
            try:
                kind, *content = pipe.recv()
            except (EOFError, OSError):
                _end(self._process)
                raise WorkerLost(
                    f"the worker process {_ended(self._process.exitcode)} while {doing}"
                ) from None
            if kind == "says":
                doing, limit = content
                until = None if limit is None else time.monotonic() + limit
            elif kind == "logged":
                logger.log(content[0], "%s", content[1])
            elif kind == "raised":
                raise _revived(*content)
            else:
                return content[0]

    def _readable(self, pipe: Connection, until: float | None) -> bool:
        """Wait for the pipe; False when the time is up. A process that died makes it readable too."""
        while True:
            left = 1.0 if until is None else min(1.0, until - time.monotonic())
            # a process of the worker's own may hold the pipe open after it, so its life is looked at as well
            if wait([pipe], max(0.0, left)) or not self._process.is_alive():
                return True
            if until is not None and time.monotonic() >= until:
                return False


def _end(process: Any) -> None:
    process.terminate()
    process.join(3)
    if process.is_alive():
        process.kill()
        process.join()


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = {one.value: one.name for one in signal.Signals}.get(-code, f"signal {-code}")
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended by itself (exit code {code})"


def _revived(pickled: bytes | None, text: str, trace: str) -> BaseException:
    """The worker's exception itself, or a `RemoteError` in its words where it cannot be unpickled."""
    error: BaseException | None = None
    with contextlib.suppress(Exception):
        loaded = pickle.loads(pickled) if pickled else None  # from our own process, never from a file
        error = loaded if isinstance(loaded, BaseException) else None
    if error is None:
        error = RemoteError(text)
    error.__cause__ = RemoteError(f"in a worker process:\n{trace}")
    return error


# -- in the worker -------------------------------------------------------------------------------------


def check_main_guard() -> None:
    """Where a script without a main guard is run again by a worker of its own, end that worker quietly; in another
    library's worker raise a ConfigError. Call it before anything is written."""
    process = multiprocessing.current_process()
    if not getattr(
        process, "_inheriting", False
    ):  # the standard library's own mark of "still importing main"
        return
    if process.name.startswith(_NAME):
        raise SystemExit(_UNGUARDED)
    raise ConfigError(
        'a process that only imports this script starts a search: put it under `if __name__ == "__main__":`'
    )


def _work(pipe: Connection, prepare: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_the_parent()
    send = _log_to_the_parent(pipe)
    say: Say = lambda doing, limit: send(("says", doing, limit))
    do: Callable[..., Any] | None = None
    task: tuple[Any, ...] | None = None
    while True:
        try:
            if do is None:
                do = prepare(*arguments)
                answer: Any = None
            else:
                assert task is not None
                answer = do(say, *task)
            send(("done", answer))
        except Exception as error:
            send(("raised", _pickled(error), f"{type(error).__name__}: {error}", traceback.format_exc()))
        try:
            task = pipe.recv()
        except (EOFError, OSError):  # nobody is there any more
            return


def _log_to_the_parent(pipe: Connection) -> Callable[[Any], None]:
    """Let what this process logs be logged by its parent, which has the run's log.txt; what sends over the pipe."""
    lock = threading.Lock()

    def send(content: Any) -> None:
        with lock:  # threads of a task log while it answers
            pipe.send(content)

    logger.addHandler(_ToTheParent(send))
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return send


class _ToTheParent(logging.Handler):
    """Hands records to the parent, except those that a run in this process has in a log.txt of its own."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__()
        self._send, self._process = send, os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._process:  # forked from the worker: the pipe is not its own
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
        elif logger.handlers == [self]:
            with contextlib.suppress(OSError):  # nobody is there any more
                self._send(("logged", record.levelno, self.format(record)))


def _pickled(error: BaseException) -> bytes | None:
    try:
        return pickle.dumps(error)
    except Exception:
        return None


def end_with_the_parent() -> None:
    """Let this process end when the one that started it does, in whatever way: one that is killed at once cannot end
    its workers, and nobody would use what they find."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name=f"{_NAME}'s parent", daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
