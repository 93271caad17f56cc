"""Worker processes: whatever one of them does, the others' tasks end as if nothing had happened."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from archloom.errors import RunError
from archloom.processes import Processes, RemoteError, Say, WorkerLost, processors
from archloom.session.process import log_file


class CannotComeBack(Exception):
    """An exception that pickles, and does not unpickle: its constructor takes more than `args` holds."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} was {number}")


def prepare(folder: str) -> Callable[..., Any]:
    """A worker that does what its task says; `folder` counts how often each began."""

    def do(say: Say, what: str, value: Any = None) -> Any:
        (Path(folder) / f"{what}-{value}-{time.monotonic_ns()}").touch()
        say(what, value if what in ("sleep", "stubborn") else None)
        match what:
            case "double":
                return 2 * value
            case "process":
                return os.getpid()
            case "die":
                os.kill(os.getpid(), value)
            case "die once":
                if len(list(Path(folder).glob("die once-*"))) == 1:
                    os._exit(3)
                return value
            case "sleep":
                time.sleep(60)
            case "stubborn":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(60)
            case "raise":
                raise value
            case "odd":
                raise CannotComeBack("momentum", 7)
            case "log":
                logging.getLogger("archloom").warning("%s\nand more", value)
                return value
            case "log and run":  # a run in the worker has a log.txt of its own
                with log_file(Path(folder) / "log.txt"):
                    logging.getLogger("archloom").warning("%s", value)
                return value
            case "nested":  # data is loaded in processes of the worker's own
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    return pool.apply(abs, (value,))
        raise AssertionError(what)

    return do


def refuse(folder: str) -> Callable[..., Any]:
    raise KeyError("no such plugin")


def fall(folder: str) -> Callable[..., Any]:
    os._exit(9)


@contextmanager
def pool(folder: Path, number: int = 1, how: Callable[..., Any] = prepare) -> Iterator[Processes]:
    with closing(Processes(number, how, (str(folder),))) as made:
        yield made


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Iterator[Processes]:
    """One process, which each test finds as the test before left it: dead or alive."""
    with pool(tmp_path_factory.mktemp("one")) as made:
        yield made


def test_one_process_does_one_task_after_another(one):
    first, second = one.submit("process"), one.submit("process")
    assert first.result() == second.result() != os.getpid()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_task_that_kills_its_process_twice_is_lost_alone_and_says_how(one, how):
    before, killer, after = one.submit("double", 1), one.submit("die", how), one.submit("double", 2)
    with pytest.raises(WorkerLost, match=f"was killed by {how.name}.* while die") as caught:
        killer.result()
    assert not caught.value.late
    assert (before.result(), after.result()) == (2, 4)


def test_a_task_whose_process_dies_once_is_done_by_the_next_one(one):
    assert one.submit("die once", 5).result() == 5


def test_a_task_that_takes_too_long_is_ended_and_not_tried_again(tmp_path):
    with pool(tmp_path) as made:
        late, after = made.submit("sleep", 0.2), made.submit("double", 4)
        with pytest.raises(WorkerLost, match=r"sleep took longer than its timeout of 0\.2 seconds") as caught:
            late.result()
        assert caught.value.late
        assert after.result() == 8
    assert len(list(tmp_path.glob("sleep-*"))) == 1


def test_an_exception_comes_back_as_itself_with_the_worker_s_traceback(one):
    with pytest.raises(ValueError, match="too deep") as caught:
        one.submit("raise", ValueError("too deep")).result()
    assert "in do" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_unpickled_comes_back_in_its_own_words(one):
    with pytest.raises(RemoteError, match="CannotComeBack: momentum was 7"):
        one.submit("odd").result()
    assert one.submit("double", 3).result() == 6


def test_what_a_worker_logs_is_logged_here_and_printed_nowhere(one, tmp_path, capfd):
    with log_file(tmp_path / "log.txt"):
        assert one.submit("log", "too deep").result() == "too deep"
        assert one.submit("log and run", "of the inner run").result() == "of the inner run"
    assert (tmp_path / "log.txt").read_text().endswith(" WARNING too deep\nand more\n")
    assert "too deep" not in "".join(capfd.readouterr())


def test_a_worker_may_have_processes_of_its_own(one):
    assert one.submit("nested", -4).result() == 4


def test_several_processes_share_the_tasks_and_the_death_of_one_touches_no_other(tmp_path):
    with pool(tmp_path, 2) as made:
        futures = [made.submit("double", n) for n in range(6)]
        killer = made.submit("die", signal.SIGKILL)
        futures += [made.submit("double", n) for n in range(6, 12)]
        assert [future.result() for future in futures] == [2 * n for n in range(12)]
        assert isinstance(killer.exception(), WorkerLost)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (refuse, "could not make what the configuration names.*KeyError: 'no such plugin'"),
        (fall, "exit code 9"),
    ],
)
def test_a_process_that_cannot_be_prepared_fails_its_task_with_the_reason(tmp_path, how, message):
    with pool(tmp_path, how=how) as made, pytest.raises((RunError, WorkerLost), match=message):
        made.submit("double", 1).result()


def test_closing_ends_what_runs_and_cancels_what_waits(tmp_path):
    made = Processes(1, prepare, (str(tmp_path),))
    running, waiting = made.submit("stubborn", None), made.submit("double", 1)
    while not list(tmp_path.glob("stubborn-*")):
        time.sleep(0.01)
    time.sleep(0.2)  # until it no longer listens to SIGTERM
    made.close()
    assert isinstance(running.exception(timeout=0), WorkerLost)
    assert waiting.cancelled()


def test_as_many_processors_are_counted_as_this_process_may_use():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from archloom.processes import processors; print(processors())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert processors() == len(os.sched_getaffinity(0))
