"""What a run writes down of where it happened, and that asking changes nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from archloom.environment import commit


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git working tree with one commit, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("GIT_CONFIG_GLOBAL", os.devnull), ("GIT_CONFIG_SYSTEM", os.devnull)):
        monkeypatch.setenv(name, value)
    git("init", "-q", "-b", "main")
    for key, value in (("user.name", "A"), ("user.email", "a@b"), ("core.quotepath", "false")):
        git("config", key, value)
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    return tmp_path


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, check=True, encoding="utf-8")
    return done.stdout.strip()


def test_a_commit_is_named_with_a_mark_where_files_differ_from_it(tree):
    head = git("rev-parse", "HEAD")
    assert commit() == head
    (tree / "file").write_text("two", encoding="utf-8")
    assert commit() == head + "+"


def test_a_file_name_that_cannot_be_decoded_costs_nothing(tree):
    name = os.fsencode(tree) + b"/caf\xe9"
    with open(name, "wb"):
        git("add", "-A")
    assert commit() == git("rev-parse", "HEAD") + "+"


def test_the_users_index_is_not_rewritten(tree):
    index = tree / ".git" / "index"
    before = index.read_bytes()
    # a changed time with unchanged content is what `git status` would write into the index
    os.utime(tree / "file", ns=(10**18, 10**18))
    assert commit() == git("rev-parse", "HEAD")
    assert index.read_bytes() == before


def test_outside_a_working_tree_and_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None
