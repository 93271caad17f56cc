"""Params and MACs: counted, not measured."""

from __future__ import annotations

from collections.abc import Mapping

from archloom import STATIC, Architecture, Context, Metric, count


class Params:
    """All trainable parameters of the whole model: backbone, neck and head."""

    metrics = (Metric("params", "parameters", "min"),)
    expense, needs = STATIC, ("task",)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        return {"params": count(context.outline(architecture), context.shape(architecture)).params}


class Macs:
    """Multiply-adds of convolutions and linear layers for one image, of the whole model."""

    metrics = (Metric("macs", "MACs", "min"),)
    expense, needs = STATIC, ("task",)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        return {"macs": count(context.outline(architecture), context.shape(architecture)).macs}
