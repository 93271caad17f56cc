"""Any network of torchvision and of timm as a backbone: up to the feature map that its classifier pools."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archloom import ConfigError, Features, UnknownName, load_weights
from archloom.meta import call_on_meta, evaluating
from archloom.weights import read_weights, unwrap

from .frozen import freeze, still_norms, submodules
from .resnet import stage_indices

CONTAINERS = ("features", "trunk_output", "layers", "blocks")
"""Children of torchvision's networks whose own children are the steps."""

BEHIND = ("avgpool", "classifier", "fc", "head")
"""Children at which the classifier begins."""


DOWNLOADS = ("pretrained", "pretrained_backbone", "weights", "weights_backbone", "checkpoint_path")
"""Those options of torchvision's and timm's builders that bring weights with them."""


def without_downloads(options: Mapping[str, Any] | None, who: str) -> dict[str, Any]:
    """The options of a builder; a ConfigError for one that would fetch weights, or read them past our reader."""
    given = dict(options or {})
    for key in [key for key in DOWNLOADS if key in given]:
        if given.pop(key) not in (None, False, ""):
            raise ConfigError(
                f"{who}: the option '{key}' of its builder brings weights, and nothing is ever downloaded; fetch the "
                "file yourself and name it under 'weights', beside 'name'"
            )
    return given


class Extractor(nn.Module):
    """What the backbones below share: names of submodules that are frozen, and norms that keep their statistics."""

    def hold(self, frozen: list[str], norm_eval: bool, who: str) -> None:
        """Freeze from now on; called at the end of `__init__`."""
        submodules(self, frozen, who)
        self.frozen, self.norm_eval, self.who = tuple(frozen), norm_eval, who
        self.train()

    def train(self, mode: bool = True) -> Extractor:
        """PyTorch's, with what is frozen left in eval mode."""
        super().train(mode)
        freeze(submodules(self, self.frozen, self.who))
        if mode and self.norm_eval:
            still_norms(self)
        return self


class TorchvisionBackbone(Extractor):
    """A network of torchvision.models, by `name`.

    out_indices: a position, for one map, or a list, for a tuple of maps. They count the resolutions that the network
    passes through, from the finest on, and mean the last map of each; -1 is the whole network's.
    options: further arguments of torchvision's builder. frozen: names of submodules that are not trained.
    weights: a file in torchvision's format, classifier included.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        name: str,
        out_indices: int | list[int] = -1,
        frozen: list[str] | None = None,
        norm_eval: bool = False,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        who = f"backbone torchvision '{name}'"
        options = without_downloads(options, who)
        network = _torchvision(name, options)
        if in_channels != 3:
            _replace_first_conv(network, in_channels)
        if weights is not None:
            state = unwrap(read_weights(weights))
            load_weights(network, {k: v for k, v in state.items() if not k.lower().startswith("aux")})
        self.steps, self.layouts = _steps(network)
        side = options.get("image_size") or next(iter(options.get("input_size", ())), 224)
        self.ends = _ends(self, (in_channels, side, side))
        self.out_indices = stage_indices(who, out_indices, len(self.ends))
        last = max((self.out_indices,) if isinstance(self.out_indices, int) else self.out_indices)
        for unused in list(self.steps)[self.ends[last] + 1 :]:
            del self.steps[unused]
        self.hold(frozen or [], norm_eval, who)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each step gives, as (N, C, H, W)."""
        found = []
        for step, layout in zip(self.steps.values(), self.layouts, strict=False):
            x = step(x)
            found.append(x.permute(0, 3, 1, 2) if layout == "NHWC" else x)
        return found

    def forward(self, x: Tensor) -> Features:
        maps = self.maps(x)
        if isinstance(self.out_indices, int):
            return maps[self.ends[self.out_indices]]
        return tuple(maps[self.ends[index]] for index in self.out_indices)


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        models: Any = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ConfigError(
            f"the backbone 'torchvision' needs torchvision, which cannot be imported ({error}); "
            "pip install torchvision"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName("network of torchvision", name, known)
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True} | options
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


class _Tokens(nn.Module):
    """torchvision's vision transformer up to its tokens, laid out as the image they came from."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv_proj, self.encoder, self.class_token = (
            network.conv_proj,
            network.encoder,
            network.class_token,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x)  # (N, D, h, w)
        tokens = x.flatten(2).transpose(1, 2)  # (N, h w, D)
        tokens = self.encoder(torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1))
        return tokens[:, 1:].transpose(1, 2).reshape(x.shape)


def _steps(network: nn.Module) -> tuple[nn.ModuleDict, list[str]]:
    """The network as modules one after another, and how each of them lays out what it gives."""
    if hasattr(network, "conv_proj"):
        return nn.ModuleDict({"tokens": _Tokens(network)}), ["NCHW"]
    steps: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if name in BEHIND:
            break
        if name.lower().startswith("aux"):
            continue
        inner = child.named_children() if name in CONTAINERS else [("", child)]
        steps |= {f"{name}_{part}" if part else name: step for part, step in inner}
    if type(network).__name__ == "DenseNet":
        steps["relu"] = nn.ReLU(inplace=True)  # which its forward has beside its modules
    swin = type(network).__name__ == "SwinTransformer"
    layouts = ["NHWC" if swin and name != "permute" else "NCHW" for name in steps]
    return nn.ModuleDict(steps), layouts


def _ends(backbone: TorchvisionBackbone, shape: tuple[int, int, int]) -> list[int]:
    """The positions of the steps that are the last at their resolution, for images of `shape`."""
    with evaluating(backbone.steps), torch.no_grad():
        maps = call_on_meta(_Maps(backbone), torch.empty(1, *shape, device="meta"))
    sizes = [tuple(each.shape[2:]) for each in maps]
    return [i for i, size in enumerate(sizes) if i + 1 == len(sizes) or sizes[i + 1] != size]


class _Maps(nn.Module):
    """A view of a backbone that is still being made: all its maps."""

    def __init__(self, backbone: TorchvisionBackbone) -> None:
        super().__init__()
        self.steps, self.layouts = backbone.steps, backbone.layouts

    forward = TorchvisionBackbone.maps


def _replace_first_conv(network: nn.Module, in_channels: int) -> None:
    """The first convolution for other images. Its weights have the spread that its fan-in asks for."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.normal_(std=float(old.weight.std()) * (old.in_channels / in_channels) ** 0.5)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)


class TimmBackbone(Extractor):
    """A network of timm, by `name`; timm is an optional install.

    out_indices: left out, the feature map that timm's own classifier pools. Otherwise a position or a list, as timm's
    `features_only` counts the network's stages. options: further arguments of timm's builder. frozen: names of
    submodules that are not trained. weights: a file in timm's format, classifier included; for the whole map only.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        name: str,
        out_indices: int | list[int] | None = None,
        frozen: list[str] | None = None,
        norm_eval: bool = False,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm, who = _timm(name), f"backbone timm '{name}'"
        if weights is not None and out_indices is not None:
            raise ConfigError(f"{who}: weights go with the whole network; leave out_indices out")
        self.single = not isinstance(out_indices, list)
        own = without_downloads(options, who)
        given: dict[str, Any] = {"pretrained": False, "in_chans": in_channels, **own}
        if out_indices is None:
            self.network = timm.create_model(name, **given)
            if weights is not None:
                load_weights(self.network, weights)
            if hasattr(self.network, "reset_classifier"):
                self.network.reset_classifier(0)
        else:
            positions = out_indices if isinstance(out_indices, list) else [out_indices]
            try:
                self.network = timm.create_model(name, features_only=True, out_indices=positions, **given)
            except (RuntimeError, AssertionError, IndexError, ValueError, AttributeError) as error:
                raise ConfigError(
                    f"{who} gives no maps {positions}: {type(error).__name__}: {error}"
                ) from error
        self.whole = out_indices is None
        self.hold(frozen or [], norm_eval, who)

    def forward(self, x: Tensor) -> Features:
        if self.whole:
            return self._map(x)
        maps = self.network(x)
        formats = getattr(self.network, "output_fmt", None)
        if str(getattr(formats, "value", formats)) == "NHWC":
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return maps[0] if self.single else tuple(maps)

    def _map(self, x: Tensor) -> Tensor:
        features = self.network.forward_features(x)
        if isinstance(features, Tensor) and features.ndim == 4:
            channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
            return features.permute(0, 3, 1, 2) if channels_last else features
        if not hasattr(self.network, "forward_intermediates"):
            raise ConfigError(f"{self.who} gives no feature map (N, C, H, W); choose another network")
        try:
            (only,) = self.network.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        except (AssertionError, TypeError) as error:
            raise ConfigError(
                f"{self.who} cannot normalize its map ({error}); take it as it is, by out_indices: -1"
            ) from error
        return only


def _timm(name: str) -> Any:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"the backbone 'timm' needs timm, which cannot be imported ({error}); pip install 'archloom[timm]'"
        ) from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UnknownName("network of timm", name, known)
    return timm
