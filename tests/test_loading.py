"""Loading processes that lack room, or die."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from archloom.errors import TaskError
from archloom.loading import loading_error
from archloom.task import batches


class Broken(Dataset[Any]):
    """Raises, or is killed, where its first image is loaded."""

    def __init__(self, trouble: Exception | int) -> None:
        self.trouble = trouble

    def __getitem__(self, position: int) -> Any:
        if isinstance(self.trouble, int):
            os.kill(os.getpid(), self.trouble)
        else:
            raise self.trouble
        return torch.zeros(1, 2, 2), 0

    def __len__(self) -> int:
        return 2


SHARED = (
    "unable to allocate shared memory(shm) for file </torch_10259_3992312403_0>: No space left on device (28)"
)


@pytest.mark.parametrize("trouble", [RuntimeError(SHARED), int(signal.SIGBUS)], ids=["refused", "bus error"])
def test_a_small_dev_shm_is_named_with_the_way_out(trouble):
    with pytest.raises(TaskError) as caught:
        list(batches(Broken(trouble), 2, workers=1))
    told = str(caught.value)
    assert "1 loading processes hand their images over in /dev/shm" in told
    assert "workers=0 of the task" in told
    assert "\n" not in told


def test_a_loading_process_that_is_killed_is_named():
    with pytest.raises(
        TaskError, match=r"was killed by Killed, perhaps for want of memory; .*workers=0 of the task"
    ):
        list(batches(Broken(int(signal.SIGKILL)), 2, workers=1))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_1>"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), "ended by itself"),
    ],
)
def test_whatever_loading_processes_lack_is_said_in_one_line(error, found):
    explained = loading_error(error, 3)
    assert found in str(explained)
    assert "\n" not in str(explained)
    assert loading_error(error, 0) is None, "without loading processes it is another error"


def test_an_error_of_the_images_stays_what_it_is():
    with pytest.raises(RuntimeError, match="the lens is dirty"):
        list(batches(Broken(RuntimeError("the lens is dirty")), 2, workers=1))
    with pytest.raises(TaskError, match=r"^x\.png is no image$"):
        list(batches(Broken(TaskError("x.png is no image")), 2, workers=1))
