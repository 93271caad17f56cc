"""What stands beside an exported network: its facts, for programs, and a card, for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ..cost import MACS, count
from ..documents import read_json, read_mapping
from ..environment import commit, versions
from ..metrics import Classification
from ..run import write_atomically
from ..trained import Trained

FORMAT = "archloom export 1"


def facts_of(trained: Trained, file: str, format: str, batch: int | None) -> dict[str, Any]:
    """What config.json holds: what the network takes and gives, what it is, costs and reaches, and where it is from."""
    cost = count(trained.model, trained.shape)
    return {
        "format": FORMAT,
        "name": Path(trained.source.name).stem,
        "file": file,
        "kind": format,
        "input": {"name": "images", "shape": [batch or "batch", *trained.shape], "dtype": "float32"},
        "output": {
            "name": outputs_name(trained),
            "shape": [batch or "batch", *trained.scoring.outputs],
            "dtype": "float32",
        },
        "classes": list(trained.classes),
        "preprocessing": preprocessing(trained),
        "network": dict(trained.source.document),
        "params": cost.params,
        "macs": cost.macs,
        "metrics": metrics_beside(trained),
        "provenance": {
            "source": trained.source.name,
            "weights": None if trained.weights is None else str(trained.weights),
            "weights_sha256": None if trained.weights is None else _sha256(trained.weights),
            "seed": _stored(trained.source.name).get("seed"),
            "task": trained.source.stored.get("task"),
            "recipe": trained.source.stored.get("recipe"),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "versions": versions(trained.host),
        },
    }


def preprocessing(trained: Trained) -> dict[str, Any] | None:
    """How an image becomes an input, in timm's terms, as the task tells it; None where it does not."""
    told: Mapping[str, Any] | None = getattr(trained.task, "preprocessing", None)
    return {**told, "input_size": list(trained.shape)} if told else None


def metrics_beside(trained: Trained) -> dict[str, float]:
    """What the weights beside the source reached when they were trained; nothing for weights from elsewhere."""
    folder = Path(trained.source.name)
    if trained.weights is None or trained.weights != trained.source.weights:
        return {}
    if (folder / "metrics.json").is_file():
        found: dict[str, float] = read_json(folder / "metrics.json", "the metrics")
        return found
    if (folder / "log.jsonl").is_file():
        return metrics_of_run(folder, trained.source.document.get("architecture"))
    return {}


def metrics_of_run(folder: Path, network: Any) -> dict[str, float]:
    """Of the found network's first training in a run's last verdict, whose weights lie beside it; else nothing."""
    metrics: dict[str, dict[str, float]] = {}
    names: list[str] | None = None
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line) if '"final"' in line or '"verdict"' in line else {}
        if event.get("event") == "verdict":
            names = event["names"]
        elif event.get("role") == "found" and event["architecture"] == network:
            metrics.setdefault(event["name"], event["metrics"])
    own = ("validation.", "test.")
    of_verdict = [of for name, of in metrics.items() if names is None or name in names]
    return {name: value for of in of_verdict[:1] for name, value in of.items() if name.startswith(own)}


def write_card(path: Path, trained: Trained, facts: Mapping[str, Any]) -> None:
    """README.md: a model card with the metadata that model hubs read, and what a user must know."""
    metrics = facts["metrics"]
    head: dict[str, Any] = {
        "tags": ["archloom"],
        "library_name": "timm" if facts["kind"] == "timm" else "archloom",
    }
    if classifies_images(trained):
        more = ["timm"] if facts["kind"] == "timm" else []
        head |= {"tags": ["image-classification", "archloom", *more], "pipeline_tag": "image-classification"}
    rows = [
        ("input", f"`images`, float32, {' x '.join(map(str, facts['input']['shape']))}"),
        ("output", f"`{facts['output']['name']}`, float32, {' x '.join(map(str, facts['output']['shape']))}"),
        ("params", f"{facts['params']:,}"),
        ("MACs", f"{facts['macs']:,} ({MACS})"),
        *((name, f"{value:.4g}") for name, value in metrics.items()),
    ]
    source = facts["provenance"]
    check = facts["check"]
    text = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts['name']}",
        f"{_kind(trained)}, found, trained or exported with archloom.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]),
        "## Classes",
        _told_classes(trained.classes),
        "## Images" if len(trained.shape) == 3 else "## Inputs",
        _told_preprocessing(facts["preprocessing"]),
        "## Check",
        f"`{facts['file']}` was read back and compared with the network on {check['images']} images "
        f"({check['of']}): its {facts['output']['name']} differ by at most {check['largest_difference']:.2g}.",
        "## Where it is from",
        ", ".join(
            [f"source `{source['source']}`", source["date"]]
            + [f"{key} {source[key]}" for key in ("seed", "commit") if source[key] is not None]
        )
        + "; "
        + ", ".join(f"{name} {version}" for name, version in source["versions"].items())
        + ".",
        "## Licence",
        "Of these weights: to be stated by whoever publishes them, as it depends on the data they were trained on. "
        "Put it above, too: `license: ...`.",
    ]
    write_atomically(path, ("\n\n".join(text) + "\n").encode())


def classifies_images(trained: Trained) -> bool:
    """Whether its inputs are images and its outputs logits of classes."""
    return len(trained.shape) == 3 and isinstance(trained.scoring, Classification)


def outputs_name(trained: Trained) -> str:
    """What its outputs are called: logits, where they are of classes."""
    return "logits" if isinstance(trained.scoring, Classification) else "outputs"


def _kind(trained: Trained) -> str:
    if classifies_images(trained):
        return "An image classifier"
    inputs = {3: "images", 2: "series"}.get(len(trained.shape), "inputs")
    return (
        f"A classifier of {inputs}" if trained.classes else f"A network that takes {inputs} and gives numbers"
    )


def _told_classes(classes: Sequence[str]) -> str:
    if not classes:
        return "None: its outputs are numbers."
    if len(classes) > 100:
        return f"{len(classes)} classes; their names are in config.json."
    return ", ".join(f"{number}: {name}" for number, name in enumerate(classes))


def _told_preprocessing(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "The task does not say how images are made into inputs."
    return "An image becomes an input by: " + ", ".join(f"{key} {value}" for key, value in told.items()) + "."


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stored(source: str) -> Mapping[str, Any]:
    """What a run or a training wrote down of itself."""
    for name in ("training.yaml", "config.yaml"):
        if (Path(source) / name).is_file():
            return read_mapping(Path(source) / name, "what is known of the training,")
    return {}
