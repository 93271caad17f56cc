"""Published weights by name, for those who have the internet."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from archloom import ConfigError, UnknownName, WeightsError

from .config import named

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""(mean, deviation) that images are normalized with."""

_TAGS = {
    "aa_in1k": "b0 b1 b2 b3 b4 b5 b6 b7",
    "ra_in1k": "b5 b7 b8",
    "in1k": "b0 b1 b2 b3 b4 b5",
    "ap_in1k": "b0 b1 b2 b3 b4 b5 b6 b7 b8",
    "ns_jft_in1k": "b0 b1 b2 b3 b4 b5 b6 b7 l2",
    "ns_jft_in1k_475": "l2",
}
"""What was released, under the hub's names: AutoAugment, RandAugment, plain, AdvProp, Noisy Student."""


@dataclass(frozen=True)
class Release:
    """A published file: its repository on the Hugging Face hub and the normalization it was trained with."""

    repository: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def releases(name: str) -> dict[str, Release]:
    """tag -> the published weights of a named network, the usual ones first."""
    short = str(named(name).name).removeprefix("efficientnet-")
    return {
        tag: Release(f"timm/tf_efficientnet_{short}.{tag}", *(INCEPTION if tag == "ap_in1k" else IMAGENET))
        for tag, networks in _TAGS.items()
        if short in networks.split()
    }


def download(name: str, *, tag: str | None = None, advprop: bool = False) -> tuple[Path, str]:
    """(path, weight format) of a published file, fetched by huggingface_hub into its cache.

    Raises WeightsError with the way out where huggingface_hub is missing or the hub cannot be reached.
    """
    known = releases(name)
    if advprop:
        if tag not in (None, "ap_in1k"):
            raise ConfigError(f"advprop=True means tag='ap_in1k', and tag='{tag}' was given")
        tag = "ap_in1k"
    tag = tag or next(iter(known))
    if tag not in known:
        raise UnknownName(f"release of {name}", tag, known)
    repository = known[tag].repository
    way_out = (
        f"Fetch model.safetensors of https://huggingface.co/{repository} elsewhere and give it as "
        "weights_path, with weight_format='timm_tf'."
    )
    try:
        hub = importlib.import_module("huggingface_hub")  # an optional extra
    except ImportError as error:
        raise WeightsError(
            f"downloading {name} needs huggingface_hub, which cannot be imported ({error}): "
            f"pip install huggingface_hub. {way_out}"
        ) from error
    try:
        return Path(hub.hf_hub_download(repository, "model.safetensors")), "timm_tf"
    except Exception as error:  # whatever the hub's client raises, the user needs the same way out
        raise WeightsError(f"{repository} could not be downloaded: {error}. {way_out}") from error
