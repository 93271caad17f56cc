"""Whoever is told of a run's events cannot stop who works."""

from __future__ import annotations

from typing import Any

import pytest

import archloom
from archloom.observing import Observers
from archloom.retraining import retrain
from archloom.session import search
from toys import config, host


def broken(at: int, told: list[Any]):
    """An observer that takes `at` events and raises at the next."""

    def observer(event: Any) -> None:
        if len(told) == at:
            raise OSError(28, "No space left on device")
        told.append(event)

    return observer


def test_an_observer_that_raises_is_switched_off_with_one_warning_and_the_others_go_on():
    first: list[Any] = []
    second: list[Any] = []
    observers = Observers([("observer 'meter'", broken(2, first)), ("another", second.append)])
    observers({"event": 0})
    observers({"event": 1})
    with pytest.warns(
        UserWarning, match="observer 'meter' is switched off, and the run goes on without: OSError"
    ):
        observers({"event": 2})
    observers({"event": 3})  # another warning would be an error here
    observers({"event": 4})
    assert (len(first), len(second)) == (2, 5)


def test_an_observer_that_raises_costs_nothing_where_warnings_are_errors():
    second: list[Any] = []
    observers = Observers([("one", broken(0, [])), ("another", second.append)])
    observers({"event": 0})
    assert len(second) == 1


def test_ctrl_c_in_an_observer_is_no_error_of_its():
    def press(event: Any) -> None:
        raise KeyboardInterrupt

    observers = Observers([("one", press)])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            observers({"event": 0})


class Meters:
    """Registers an observer that raises at the third event, and one that cannot be made."""

    @archloom.hookimpl
    def register_observers(self, register: Any) -> None:
        register("meter", lambda: broken(2, []))
        register("unmade", self.unmade)

    @staticmethod
    def unmade() -> Any:
        raise PermissionError(13, "Permission denied")


def test_a_search_whose_observers_raise_gives_what_it_gives_alone(tmp_path):
    alone = search(config(), tmp_path / "alone", host=host())
    told: list[Any] = []
    with pytest.warns(UserWarning, match="is switched off") as w:
        found = search(
            config(observers=["meter"]), tmp_path / "told", host=host(Meters()), notify=broken(5, told)
        )
    assert len(w) == 2
    assert found.architecture == alone.architecture
    assert [trial.metrics for trial in found.trials] == [trial.metrics for trial in alone.trials]
    assert (tmp_path / "told" / "result.json").exists()
    written = (tmp_path / "told" / "log.txt").read_text(encoding="utf-8")
    assert "observer 'meter' is switched off" in written
    assert "the caller's 'notify' is switched off" in written


def test_a_retraining_whose_observer_cannot_be_made_ends(tmp_path):
    found = search(
        config(space="blocks", estimators=["macs"], objectives=["macs"]), tmp_path / "run", host=host()
    )
    with pytest.warns(UserWarning, match="observer 'unmade' is switched off.*Permission denied"):
        trained = retrain(
            found.folder,
            overrides=["recipe.epochs=1"],
            host=host(Meters()),
            observers=("unmade",),
        )
    assert (trained.folder / "weights.safetensors").exists()
