"""A network as a folder that archloom, or timm, builds it from again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from ..errors import ConfigError, ExportError
from ..run import write_atomically, write_json
from ..source import open_source
from ..trained import Trained
from ..trust import keep
from ..weights import header_of, load_weights
from .card import classifies_images
from .checking import compare, following, logits_of, needed
from .inputs import compare_as_files


def write_safetensors(
    trained: Trained, path: Path, images: Tensor, wanted: Tensor, facts: Mapping[str, Any]
) -> float:
    """The network's document, its weights, task and recipe: a folder that is a source like a trained one.

    Read back, it gives the same logits to the bit.
    """
    folder = path.parent
    document = {**trained.source.document, "shape": list(trained.shape)}
    replace(trained.source, document=document).write(folder)
    _write_weights(trained, path)
    stored = {key: value for key, value in trained.source.stored.items() if key in ("task", "recipe")}
    write_atomically(
        folder / "training.yaml",
        yaml.safe_dump(
            {
                "source": trained.source.name,
                "seed": facts["provenance"]["seed"],
                **stored,
                "plugins": keep(folder, trained.host.plugin_files),
            },
            sort_keys=False,
        ).encode(),
    )
    if facts["metrics"]:
        write_json(folder / "metrics.json", facts["metrics"])
    again = open_source(folder, trained.host)
    model = again.build(seed=1)  # other weights than those that are to be loaded
    load_weights(model, path)
    found = logits_of(model.to(trained.device), images)
    if not torch.equal(found, wanted):
        raise ExportError(
            "the network read back from the safetensors file gives outputs that differ by "
            f"{float((found - wanted).abs().max()):.3g}, and it must be the same to the bit. No file was left"
        )
    return 0.0


def write_timm(
    trained: Trained, path: Path, images: Tensor, wanted: Tensor, facts: Mapping[str, Any]
) -> float:
    """timm's own layout: config.json and model.safetensors, for `timm.create_model("local-dir:FOLDER")`."""
    if not classifies_images(trained):
        raise ConfigError("the format 'timm' is of image classifiers; take safetensors, or a graph (onnx)")
    timm = needed("timm", "timm", "the format 'timm'")
    from .. import timm_models

    _write_weights(trained, path)
    document = {**trained.source.document, "shape": list(trained.shape)}
    network = timm_models.TimmNetwork(document, host=trained.host)
    config = {
        "architecture": timm_models.ENTRY,
        "num_classes": len(trained.classes),
        "num_features": network.num_features,
        "pretrained_cfg": timm_models.pretrained_cfg(
            network, facts["preprocessing"], label_names=list(trained.classes)
        ),
        "model_args": {"document": document},
        "archloom": {
            key: facts[key] for key in ("format", "kind", "params", "macs", "metrics", "provenance")
        },
    }
    path.with_name("config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    with following("a folder for timm"):
        model = timm.create_model(f"local-dir:{path.parent}", pretrained=True, host=trained.host).eval()
    difference = compare(model, images, wanted, None, "the network that timm builds")
    compare_as_files(trained, model, facts["preprocessing"])
    return difference


def _write_weights(trained: Trained, path: Path) -> None:
    """Everything but the loss's own tensors, which no inference needs and a rebuilt loss makes itself."""
    state = trained.model.state_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(path, save(tensors, header_of(trained.model)))
