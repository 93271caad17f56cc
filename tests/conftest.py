"""What holds for all tests."""

import os

import pytest
import torch

# A pipe has no width: the consoles decide that once, when they are made, and not as the first test has it
os.environ.pop("COLUMNS", None)
import archloom.console  # noqa: F401

# The tests' networks are so small that threads cost more than they give, and on a busy machine, where threads
# wait for one another, ten times more.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _the_users_own_data_folder(tmp_path_factory):
    """Which plugin files ran here is written down: for the tests in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield
