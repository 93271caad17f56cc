"""The board's rule and order, in the paper's form and in the reference code's."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archloom.architecture import Architecture
from archloom_cream.board import Board, Entry


def entry(accuracy, macs, name=None):
    return Entry(Architecture({"layer": name or f"{accuracy}/{macs}"}), accuracy, macs, torch.zeros(1, 2))


def offered(board, path):
    """The board after a path came by."""
    return board.add(path) if board.admits(path.architecture, path.accuracy, path.macs) else board


def shown(board):
    return [(one.accuracy, one.macs) for one in board.entries]


def test_a_board_that_is_not_full_takes_every_path():
    board = Board(3)
    for path in (entry(10, 9), entry(5, 20), entry(7, 1)):
        board = offered(board, path)
    assert shown(board) == [(10, 9), (7, 1), (5, 20)]
    assert board.is_full


@pytest.mark.parametrize(
    ("accuracy", "macs", "enters"),
    [(60, 100, True), (50, 100, True), (50, 90, True), (60, 101, False), (49, 10, False), (99, 101, False)],
)
def test_a_path_displaces_the_least_competitive_one_where_it_is_no_less_accurate_and_no_dearer(
    accuracy, macs, enters
):
    board = Board(2, (entry(80, 500), entry(50, 100)))
    after = offered(board, entry(accuracy, macs, "new"))
    assert (after != board) == enters
    if enters:
        assert sorted(shown(after)) == sorted([(80, 500), (accuracy, macs)])


def test_of_equally_accurate_paths_the_cheaper_stands_first():
    paths = [entry(50, macs, str(macs)) for macs in (30, 10, 20)]
    assert [macs for _, macs in shown(Board(3).refreshed(paths))] == [10, 20, 30]
    assert [macs for _, macs in shown(Board(3, dearer_first=True).refreshed(paths))] == [30, 20, 10]


def test_a_path_stands_on_the_board_once_however_often_it_comes_by():
    path = entry(50, 10, "same")
    board = offered(offered(Board(3), path), replace(path, accuracy=90.0))
    assert shown(board) == [(50, 10)]
    repeated = offered(offered(Board(3, dearer_first=True), path), path)
    assert shown(repeated) == [(50, 10), (50, 10)]  # the reference's


def test_entries_of_one_accuracy_and_cost_are_ordered_without_comparing_tensors():
    tied = [replace(entry(50, 10, str(i)), features=torch.randn(4, 10)) for i in range(4)]
    assert len(Board(3).refreshed(tied).entries) == 3


def test_the_reference_lets_dearer_paths_in_that_are_better_by_five_points():
    board = Board(2, (entry(80, 500), entry(50, 100)), by_gap=True)
    for accuracy, macs, enters in [(56, 900, True), (55, 900, False), (51, 99, True), (50, 99, False)]:
        assert board.admits(Architecture({"layer": "new"}), accuracy, macs) == enters


def test_measuring_anew_changes_the_order():
    board = Board(2, (entry(80, 5, "a"), entry(50, 1, "b")))
    anew = board.refreshed([replace(board.entries[0], accuracy=40.0), board.entries[1]])
    assert [one.architecture["layer"] for one in anew.entries] == ["b", "a"]


def test_the_histogram_counts_options_over_all_choices():
    paths = [Architecture({"a": "k3", "b": "k3"}), Architecture({"a": "k5", "b": "k3"})]
    board = Board(2).refreshed([Entry(path, 1.0, 1, torch.zeros(1, 2)) for path in paths])
    assert board.histogram() == {"k3": 3, "k5": 1}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=40), st.integers(1, 5))
def test_the_board_is_never_too_long_always_ranked_and_its_least_competitive_never_gets_worse(
    paths, capacity
):
    board = Board(capacity)
    for number, (accuracy, macs) in enumerate(paths):
        was_full, before = board.is_full, board
        board = offered(board, entry(float(accuracy), macs, str(number)))
        assert len(board.entries) <= capacity
        keys = [(-a, m) for a, m in shown(board)]
        assert keys == sorted(keys)
        assert len({one.architecture for one in board.entries}) == len(board.entries)
        if was_full:
            assert board.entries[-1].accuracy >= before.entries[-1].accuracy
            total = [sum(m for _, m in shown(b)) for b in (before, board)]
            assert total[1] <= total[0]


def test_the_order_of_arrival_does_not_matter_while_there_is_room():
    paths = [entry(50, 3), entry(50, 2), entry(60, 9)]
    ends = set()
    for order in itertools.permutations(paths):
        board = Board(3)
        for path in order:
            board = offered(board, path)
        ends.add(tuple(shown(board)))
    assert ends == {((60, 9), (50, 2), (50, 3))}
