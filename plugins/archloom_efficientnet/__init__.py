"""EfficientNet b0 to b8 and l2: networks by name or from block strings, and their weights in other formats.

    model = EfficientNet.from_name("efficientnet-b0")
    model = EfficientNet.from_pretrained("efficientnet-b0", "b0.safetensors", weight_format="timm_tf")

As a plugin it registers the search spaces `efficientnet`, whose one choice is the network, and `scaling`:
the coefficients of compound scaling over any base network.
"""

from archloom import Register, hookimpl
from archloom import load_weights as load

from .blocks import MBConv
from .compound import Scale, compound
from .config import BASELINE, NAMED, BlockArgs, NetworkConfig
from .formats import FORMATS, Behaviour
from .model import EfficientNet, Features
from .padding import SameConv2d, SameMaxPool2d, freeze_padding, unfreeze_padding
from .recipes import EfficientNetPaper, EfficientNetPlain
from .scaling import ScalingSpace
from .space import EfficientNetSpace
from .weights import export_state, save

__all__ = [
    "BASELINE",
    "FORMATS",
    "NAMED",
    "Behaviour",
    "BlockArgs",
    "EfficientNet",
    "EfficientNetPaper",
    "EfficientNetPlain",
    "EfficientNetSpace",
    "Features",
    "MBConv",
    "NetworkConfig",
    "SameConv2d",
    "SameMaxPool2d",
    "Scale",
    "ScalingSpace",
    "compound",
    "export_state",
    "freeze_padding",
    "load",
    "save",
    "unfreeze_padding",
]


@hookimpl
def register_search_spaces(register: Register) -> None:
    """The spaces `efficientnet`, of published networks, and `scaling`, of coefficients over any network."""
    register("efficientnet", EfficientNetSpace)
    register("scaling", ScalingSpace)


@hookimpl
def register_recipes(register: Register) -> None:
    """The recipes `efficientnet`, the paper's, and `efficientnet_plain`."""
    register("efficientnet", EfficientNetPaper)
    register("efficientnet_plain", EfficientNetPlain)
