"""Training a weight-sharing method in its resumable units."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError
from .ranks import Ranks
from .run import EventLog, load_checkpoint, previous, save_checkpoint
from .strategy import Progress, WeightSharing

logger = logging.getLogger("archloom")


@dataclass
class Fit:
    """Trains a weight-sharing method in its resumable units, with checkpoints; `owner`: whose they are."""

    method: WeightSharing
    checkpoint: Path
    log: EventLog | None
    max_epochs: float | None
    max_seconds: float | None
    ranks: Ranks
    checkpoint_every: float = 60.0
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    owner: str = ""
    epochs: float = 0.0
    active: float = 0.0
    _unit: int = 0

    def run(self) -> bool:
        """Train to the end (True), or until the budget is spent or Ctrl-C asks to stop (False, saved)."""
        state = load_checkpoint(self.checkpoint, self.owner)
        logged = [event for event in self.log.events if event["event"] == "fit"] if self.log else []
        last_logged = max((event["unit"] for event in logged), default=0)
        before = max((event["active"] for event in logged), default=0.0)
        if state is not None:
            if self.log is not None and state.get("unit", 0) > last_logged:
                raise RunError(
                    f"{self.checkpoint} is at unit {state['unit']} of the training, and the log ends at unit "
                    f"{last_logged}: lines are missing. Restore the log; or remove the checkpoint, and the one before, "
                    f"{previous(self.checkpoint).name}, to train from the start"
                )
            self.method.load_state_dict(state["method"])
            self.epochs = state["epochs"]
        started, saved_at, progress = time.perf_counter(), None, None
        with _stop_requested(self.ranks) as requested:
            for progress in self.method.fit():
                self.epochs, self._unit = progress.epochs, progress.unit
                self.active = before + time.perf_counter() - started
                if self.log is not None and progress.unit > last_logged:
                    self._record(progress)
                over, asked = self.ranks.broadcast_object((self._over(), requested()))
                now = time.perf_counter()
                due = saved_at is None or now - saved_at >= self.checkpoint_every
                if self.ranks.is_first and (due or over or asked or progress.unit == progress.of):
                    self._save()
                    saved_at = now
                if asked:
                    raise KeyboardInterrupt
                if over and progress.unit != progress.of:
                    return False
        self.active = before + time.perf_counter() - started
        if progress is not None and self.ranks.is_first and progress.unit != progress.of:
            self._save()
        return True

    def _over(self) -> bool:
        return (self.max_seconds is not None and self.active >= self.max_seconds) or (
            self.max_epochs is not None and self.epochs >= self.max_epochs
        )

    def _record(self, progress: Progress) -> None:
        event = {
            "event": "fit",
            "unit": progress.unit,
            "of": progress.of,
            "epochs": progress.epochs,
            "metrics": dict(progress.metrics),
            "active": self.active,
        }
        assert self.log is not None
        self.log.append(event)
        self.notify(event)

    def _save(self) -> None:
        state = {"method": self.method.state_dict(), "epochs": self.epochs, "unit": self._unit}
        save_checkpoint(self.checkpoint, state, self.owner)


@contextmanager
def _stop_requested(ranks: Ranks) -> Iterator[Callable[[], bool]]:
    """Inside the block a first Ctrl-C only asks to stop at the next unit; a second one interrupts."""
    asked: list[int] = []

    def handler(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        logger.warning("stopping after this unit, to save it; press Ctrl-C again to stop at once")

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread: Ctrl-C does not reach us here
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
