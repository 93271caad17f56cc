"""Values that are measured once in a run's life, for all of its processes: whoever needs one asks the one that owns
the folder, which has the first asker measure it and the others wait."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from .errors import ArchloomError, RunError
from .run import recorded


@dataclass(frozen=True)
class Recorded:
    """`recorded(name, measure)` for another process of this machine; it can be pickled. See `shared`."""

    address: str

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        try:
            connection = Client(self.address, family="AF_UNIX")
        except OSError as error:
            raise RunError(f"nobody keeps the run's recorded values any more: {error}") from error
        with connection:
            _send(connection, name)
            answer = _receive(connection)
            if answer == {"measure": name}:
                _send(connection, measure())  # where it raises, or this process dies, the next asker measures
                answer = _receive(connection)
        if "refused" in answer:
            raise RunError(answer["refused"])
        return answer["value"]


@contextmanager
def shared(folder: Path) -> Iterator[Recorded]:
    """What the processes of the run in `folder` ask for its recorded values inside the block; this one, who owns the
    folder, answers."""
    place = Path(tempfile.mkdtemp(prefix="archloom-"))
    address = str(place / "recorded")
    try:
        try:
            listener = Listener(address, family="AF_UNIX", backlog=64)
        except OSError as error:
            raise RunError(
                f"cannot listen at {address}: {error}. Set TMPDIR to a folder with a short path that can be written"
            ) from error
        ended = threading.Event()
        thread = threading.Thread(
            target=_listen, args=(listener, folder, ended), name="answers for recorded values", daemon=True
        )
        thread.start()
        try:
            yield Recorded(address)
        finally:
            ended.set()
            with suppress(OSError):
                Client(address, family="AF_UNIX").close()  # wakes the thread
            thread.join()
            listener.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _listen(listener: Listener, folder: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            connection = listener.accept()
        except OSError:  # too many open files, say: who asked waits until some of them are closed
            time.sleep(0.1)
            continue
        if ended.is_set():
            connection.close()
            return
        threading.Thread(target=_answer, args=(connection, folder), daemon=True).start()


def _answer(connection: Connection, folder: Path) -> None:
    """Answer one question. An asker that dies, or cannot measure, closes its end and leaves it to the next one."""
    with connection, suppress(EOFError, OSError):
        name = _receive(connection)

        def measure() -> Any:
            _send(connection, {"measure": name})
            return _receive(connection)

        try:
            answer = {"value": recorded(folder, name, measure)}
        except ArchloomError as error:
            answer = {"refused": str(error)}
        _send(connection, answer)


def _send(connection: Connection, value: Any) -> None:
    connection.send_bytes(json.dumps(value).encode())


def _receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())
