"""The whole way of the documentation's worked example: a user's file, trained, judged, looked at, exported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def written(folder: Path) -> None:
    """The files that the page's worked example writes."""
    text = PAGE.read_text()
    for name, content in re.findall(
        r'Path\("([\w.]+)"\)\.write_text\((?:\'\'\'|""")\n(.*?)(?:\'\'\'|""")\)', text, re.S
    ):
        (folder / name).write_text(content)


def commands() -> list[list[str]]:
    """The `archloom` lines of the page, without their comments."""
    lines = re.findall(r"^archloom .*$", PAGE.read_text(), re.M)
    return [line.split("#")[0].split() for line in lines]


@pytest.mark.slow
def test_the_worked_example_is_trained_judged_predicted_and_exported_by_its_commands(
    tmp_path: Path,
) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    written(tmp_path)
    seven = load_digits().images[7]
    Image.fromarray((seven * 15).astype("uint8")).save(tmp_path / "seven.png")
    told = {}
    for words in commands():
        done = subprocess.run(
            [sys.executable, "-m", "archloom", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        told[words[1]] = done.stdout
    assert list(told) == ["retrain", "evaluate", "predict", "export"]
    assert (tmp_path / "trained" / "weights.safetensors").exists()
    assert (tmp_path / "trained" / "epochs.csv").read_text().count("\n") == 3  # a headline and two epochs
    metrics = json.loads((tmp_path / "trained" / "metrics.json").read_text())
    assert metrics["test.accuracy"] > 70
    assert "precision" in told["evaluate"]
    assert "seven.png" in told["predict"]
    assert "onnx" in told["export"]
