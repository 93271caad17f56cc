"""archloom's networks as models of timm: `import archloom.timm_models`, then `timm.create_model`.

Importing this module registers the entry `archloom`, which builds any network from its document; a folder that was
exported in the format `timm` names it, so that `timm.create_model("local-dir:FOLDER", pretrained=True)` works.
`register_timm(source, name)` gives one network a name of its own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import _registry, generate_default_cfgs, register_model
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .errors import ConfigError
from .graphs import typed
from .model import Features, GlobalAverage, deepest
from .plugins import Host
from .source import Source, open_source, source_of
from .steps import stages, steps

__all__ = ["TimmNetwork", "register_timm"]

ENTRY = "archloom"
"""The name under which timm knows every network that comes with its document."""

Document = Mapping[str, Any]


class TimmNetwork(nn.Module):
    """A network of archloom with the methods of timm's models; its weights have the names that archloom gives them.

    document: what architecture.json or model.yaml holds. num_classes: the document's own unless given; 0 for pooled
    features. in_chans: as the document says, or another number where the network's space takes it.
    global_pool: "" for feature maps, with `num_classes=0`. device, dtype: where and as what its numbers are made.
    features: `feature_info` has one entry for each resolution that the network passes through.
    """

    def __init__(
        self,
        document: Document,
        *,
        num_classes: int | None = None,
        in_chans: int | None = None,
        global_pool: str | None = None,
        drop_rate: float | None = None,
        seed: int = 0,
        host: Host | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        source = source_of(_with_channels(document, in_chans), host or Host())
        if source.outputs is not None:
            raise ConfigError(
                f"timm's networks tell classes apart, and {source.name} has outputs {source.outputs}"
            )
        own = len(source.classes or ()) or 1000
        model = source.build(num_classes or own, seed=seed)
        self.backbone, self.neck, self.head = model.backbone, model.neck, model.head
        self.pools = True
        self.shape, self.in_chans = source.shape, source.shape[0]
        self.num_classes = num_classes or own
        points = stages(steps(self.backbone, self.shape))
        if not points:
            raise ConfigError(f"{source.name} gives no feature maps (N, C, H, W), which a model of timm has")
        self.feature_info = [
            {
                "num_chs": step.shape[0],
                "reduction": round(self.shape[1] / step.shape[1]),
                "module": f"backbone.{step.name}" if step.name else "backbone",
            }
            for step in points
        ]
        self.num_features, self.pool_size = points[-1].shape[0], points[-1].shape[1:]
        self.head_hidden_size = getattr(self.get_classifier(), "in_features", self.num_features)
        if drop_rate is not None:
            for module in self.head.modules():
                if isinstance(module, nn.Dropout):
                    module.p = drop_rate
        if num_classes == 0 or global_pool is not None:
            self.reset_classifier(self.num_classes if num_classes is None else num_classes, global_pool)
        self.to(device, dtype)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.get_submodule(classifier_name(self.head) or "head")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier, or none with `num_classes=0`; `global_pool` "avg", or "" for no pooling."""
        if global_pool not in (None, "", "avg"):
            raise ConfigError(f"global_pool is 'avg' or '', not '{global_pool}'")
        if global_pool == "" and num_classes:
            raise ConfigError("a classifier needs pooled features: global_pool='' goes with num_classes=0")
        name = getattr(self, "_classifier", None) or classifier_name(self.head)
        if name is None:
            raise ConfigError(
                f"the head {type(self.head).__name__} has no linear layer that could be replaced"
            )
        self._classifier: str | None = name
        parent, _, attribute = name.rpartition(".")
        where, like = self.get_submodule(parent), next(self.parameters())
        fresh: nn.Module = nn.Identity()
        if num_classes:
            fresh = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
        setattr(where, attribute, fresh.train(self.training))
        if global_pool is not None:
            self.pools = global_pool != ""
            self.neck = (GlobalAverage() if self.pools else nn.Identity()).train(self.training)
        self.num_classes = num_classes

    def forward_features(self, x: Tensor) -> Features:
        """(N, C, H, W) -> the backbone's feature map."""
        return self.backbone(x)

    def forward_head(self, x: Features, pre_logits: bool = False) -> Tensor:
        """The feature map -> logits, or what the classifier is given; the map itself without pooling."""
        x = self.neck(x)
        if not self.pools:
            return deepest(x)
        classifier = self.get_submodule(
            getattr(self, "_classifier", None) or classifier_name(self.head) or "head"
        )
        if not pre_logits:
            return self.head(x)
        given: list[Tensor] = []
        handle = classifier.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        try:
            self.head(x)
        finally:
            handle.remove()
        return deepest(given[-1])

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.backbone(x))
        return self.head(x) if self.pools else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of `feature_info`, those that `indices` choose; with the last features before them, or alone."""
        if output_fmt != "NCHW":
            raise ConfigError(f"feature maps are NCHW, not {output_fmt}")
        take, _ = feature_take_indices(len(self.feature_info), indices)
        found: dict[int, Tensor] = {}

        def keep(number: int) -> Any:
            def hook(module: nn.Module, given: Any, result: Any) -> None:
                # a step behind may work in place
                found[number] = (
                    deepest(result) if number + 1 == len(self.feature_info) else deepest(result).clone()
                )

            return hook

        handles = [
            self.get_submodule(str(self.feature_info[number]["module"])).register_forward_hook(keep(number))
            for number in take
        ]
        try:
            features = self.forward_features(x)
        finally:
            for handle in handles:
                handle.remove()
        maps = [found[number] for number in take]
        return maps if intermediates_only else (features, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take off the head; the positions that `indices` mean."""
        take, _ = feature_take_indices(len(self.feature_info), indices)
        if prune_head:
            self.neck, self.head = nn.Identity(), nn.Identity()
        return list(take)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's: for backbones that can keep only their blocks' inputs."""
        able = [module for module in self.backbone.modules() if hasattr(module, "gradient_checkpointing")]
        if enable and not able:
            raise ConfigError(f"the backbone {type(self.backbone).__name__} has no gradient checkpointing")
        module: Any
        for module in able:
            module.gradient_checkpointing = enable


def classifier_name(head: nn.Module) -> str | None:
    """The last linear layer of a head, as `head.NAME`; None where there is none."""
    linear = [name for name, module in head.named_modules(prefix="head") if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def pretrained_cfg(
    network: TimmNetwork, preprocessing: Mapping[str, Any] | None, **more: Any
) -> dict[str, Any]:
    """What timm knows of a network's input, its first convolution and its classifier."""
    convolutions = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    known = {"input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}
    cfg = {
        "input_size": list(network.shape),
        "pool_size": list(network.pool_size),
        "num_classes": network.num_classes,
        "first_conv": next(convolutions, None),
        "classifier": classifier_name(network.head),
        **{key: value for key, value in (preprocessing or {}).items() if key in known},
        **more,
    }
    cfg["input_size"] = list(network.shape)
    return cfg


def _with_channels(document: Document, in_chans: int | None) -> Document:
    """The document of the same network for images of other channels."""
    if in_chans is None or in_chans == document["shape"][0]:
        return document
    changed = {**document, "shape": [in_chans, *document["shape"][1:]]}
    if "space" in document:
        changed["space"] = {**document["space"], "in_channels": in_chans}
    return changed


def _without_loss(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A state dict as archloom writes it, without what belongs to the loss."""
    inner = state.get("state_dict", state)
    return {key: value for key, value in inner.items() if not key.startswith("loss.")}


def _create(name: str, document: Document, pretrained: bool, host: Host | None, **kwargs: Any) -> nn.Module:
    host = host or Host()
    count = len(stages(steps(source_of(document, host).build(1).backbone, tuple(document["shape"]))))
    return build_model_with_cfg(
        TimmNetwork,
        name,
        pretrained,
        document=document,
        host=host,
        pretrained_filter_fn=_without_loss,
        feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(count))},
        **kwargs,
    )


def _unlisted(entry: Any) -> Any:
    """Register an entry that nobody can make without a document, so that it is in no list of all models."""
    register_model(entry)
    _registry._deprecated_models[entry.__name__] = None
    return entry


@_unlisted
def archloom(pretrained: bool = False, *, document: Document, **kwargs: Any) -> nn.Module:
    """Any network of archloom, from its document.

    host: `Host(["my_parts.py"])` where it needs a plugin file. It is no argument that a folder's config.json could
    give: that is data, and names no code to run.
    """
    host = kwargs.pop("host", None)
    if host is not None and not isinstance(host, Host):
        raise ConfigError(f"host is an archloom.Host, not {host!r}")
    return _create(ENTRY, document, pretrained, host, **kwargs)


def register_timm(
    source: str | Path,
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    host: Host | None = None,
) -> str:
    """Register a source under `archloom_NAME` with timm, for this process; the whole name.

    name: default, the source's own. weights: what `pretrained=True` loads; default: those beside the source.
    preprocessing: mean, std, interpolation, crop_pct, for timm's transforms.
    """
    host = host or Host()
    opened: Source = open_source(source, host)
    if not opened.classes:
        opened = dataclasses.replace(
            opened, document={**opened.document, "classes": [str(n) for n in range(1000)]}
        )
    called = (name or Path(opened.name).stem).removeprefix("archloom_")
    full = "archloom_" + "".join(letter if letter.isalnum() else "_" for letter in called)
    file = Path(weights) if weights is not None else opened.weights
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no weights file {file}")
    document = opened.document
    network = TimmNetwork(document, host=host)

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(full, document, pretrained, host, **kwargs)

    entry.__name__ = entry.__qualname__ = full
    entry.__module__ = __name__
    more = {} if file is None else {"file": str(file.resolve())}
    module: Any = sys.modules[__name__]
    module.default_cfgs = {
        **getattr(module, "default_cfgs", {}),
        **generate_default_cfgs({full: pretrained_cfg(network, preprocessing, **more)}),
    }
    register_model(entry)
    return full
