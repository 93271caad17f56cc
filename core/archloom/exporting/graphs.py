"""A network as one file that holds its graph: ONNX, torch.export and TorchScript.

Each function writes `path`, reads it back and compares it with the network's own logits; what it returns is the
largest difference. Where anything is wrong it raises, and the caller removes the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checking import compare, following, needed

META = "archloom.json"
"""Under this name a .pt2 or TorchScript file holds what config.json holds beside an ONNX file."""


def write_onnx(
    network: nn.Module,
    path: Path,
    images: Tensor,
    wanted: Tensor,
    batch: int | None,
    facts: Mapping[str, Any],
) -> float:
    """ONNX, input `images` (N, C, H, W), output `logits` (N, classes), `outputs` where they are no classes'; the facts
    are its metadata.

    Checked by onnx.checker, and run by onnxruntime.
    """
    why, output = "the format 'onnx'", str(facts["output"]["name"])
    onnx, runtime = (needed(name, "export", why) for name in ("onnx", "onnxruntime"))
    needed("onnxscript", "export", why)
    with following("an ONNX file"), _silent("torch.onnx", "onnxscript", "onnx_ir"):
        program: Any = torch.onnx.export(
            network,
            (_example(images, batch),),
            dynamo=True,
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=_dynamic(batch),
            external_data=False,
            verbose=False,
        )
        proto = program.model_proto
        onnx.helper.set_model_props(
            proto,
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
        )
        onnx.save(proto, str(path))
        onnx.checker.check_model(str(path), full_check=True)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> Tensor:
        (found,) = session.run([output], {"images": part.numpy()})
        return torch.from_numpy(found)

    return compare(run, images, wanted, batch, "the ONNX file, run by onnxruntime,")


def write_torch(
    network: nn.Module,
    path: Path,
    images: Tensor,
    wanted: Tensor,
    batch: int | None,
    facts: Mapping[str, Any],
) -> float:
    """A program of torch.export, for `torch.export.load(path).module()`; needs neither archloom nor its kernels."""
    with following("a torch.export program"):
        program = torch.export.export(
            network, (_example(images, batch),), dynamic_shapes=_dynamic(batch), strict=False
        )
        with path.open("wb") as file:  # a name would have to end in .pt2
            torch.export.save(program, file, extra_files={META: json.dumps(dict(facts))})
        with path.open("rb") as file:
            loaded = torch.export.load(file).module()
    return compare(loaded, images, wanted, batch, "the torch.export program")


def write_torchscript(
    network: nn.Module,
    path: Path,
    images: Tensor,
    wanted: Tensor,
    batch: int | None,
    facts: Mapping[str, Any],
) -> float:
    """A traced TorchScript module, for `torch.jit.load(path)` and libtorch; PyTorch itself prefers torch.export now."""
    with following("a TorchScript module"):
        traced: Any = torch.jit.trace(network, (_example(images, batch),), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={META: json.dumps(dict(facts))})
        loaded: Any = torch.jit.load(str(path), map_location="cpu")
    return compare(loaded, images, wanted, batch, "the TorchScript module")


def _example(images: Tensor, batch: int | None) -> Tensor:
    """The images that the graph is traced with: two where it shall hold for any number, since of one some exporters
    make a constant."""
    count = batch or 2
    return images[torch.arange(count) % len(images)].contiguous()


def _dynamic(batch: int | None) -> Any:
    return None if batch else ({0: torch.export.Dim("batch")},)


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Loggers of exporters, which tell every step, kept to errors."""
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
