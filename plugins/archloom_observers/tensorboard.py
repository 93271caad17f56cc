"""A run's numbers as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TensorBoard:
    """Scalars under fit/, trials/ and final/, in the run's folder `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "fit":
                self._add("fit", event["metrics"], event["unit"])
            case "result":
                self._add("trials", event["metrics"], event["number"])
            case "epoch":
                self._add(f"final/{event['name']}", event["metrics"], event["number"])
            case "end" | "finished":
                self.writer.flush()

    def _add(self, group: str, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
