"""Telling others of a run's events. Whoever is told cannot stop who works."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

logger = logging.getLogger("archloom")

Observer = Callable[[dict[str, Any]], None]


class Observers:
    """Observers by name, called with each event in their order.

    One that raises is switched off, with one warning and a line in log.txt, and the run goes on. Ctrl-C is no error
    of theirs, and passes.
    """

    def __init__(self, observers: Iterable[tuple[str, Observer]] = ()) -> None:
        self._observers = list(observers)

    def add(self, name: str, make: Callable[[], Observer]) -> None:
        """Add what `make` gives; one that cannot be made is switched off as well."""
        try:
            self._observers.append((name, make()))
        except Exception as error:
            _switched_off(name, error)

    def __call__(self, event: dict[str, Any]) -> None:
        for one in tuple(self._observers):
            name, observer = one
            try:
                observer(event)
            except Exception as error:
                self._observers.remove(one)
                _switched_off(name, error)


def name_of(notify: Observer) -> str:
    """What a caller's `notify` is called where it is spoken of: its `title`, if it has one."""
    return str(getattr(notify, "title", "the caller's 'notify'"))


def _switched_off(name: str, error: Exception) -> None:
    told = f"{name} is switched off, and the run goes on without: {type(error).__name__}: {error}"
    logger.warning(told)
    with contextlib.suppress(Exception):  # where warnings are errors, or cannot be shown: it is in log.txt
        warnings.warn(told, stacklevel=3)
