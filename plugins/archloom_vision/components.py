"""Backbones, necks, heads and losses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import archloom
from archloom.model import GlobalAverage

from . import focal, losses
from .backbones import TimmBackbone, TorchvisionBackbone
from .heads import HiddenClsHead, LinearClsHead, linear_head
from .necks import GeneralizedMean, Identity
from .resnet import ResNet, ResNetCIFAR


@archloom.hookimpl
def register_components(register: Callable[[str, Callable[..., Any]], None]) -> None:
    register("backbone.ResNet", ResNet)
    register("backbone.ResNet_CIFAR", ResNetCIFAR)
    register("backbone.torchvision", TorchvisionBackbone)
    register("backbone.timm", TimmBackbone)
    register("neck.Identity", Identity)
    register("neck.GlobalAverage", GlobalAverage)
    register("neck.GlobalAveragePooling", GlobalAverage)
    register("neck.GeneralizedMean", GeneralizedMean)
    register("head.LinearHead", linear_head)
    register("head.LinearClsHead", LinearClsHead)
    register("head.HiddenClsHead", HiddenClsHead)
    register("loss.CrossEntropyLoss", losses.CrossEntropyLoss)
    register("loss.BCEWithLogitsLoss", losses.BCEWithLogitsLoss)
    register("loss.FocalLoss", focal.FocalLoss)
    register("loss.SoftmaxFocalLoss", focal.SoftmaxFocalLoss)
    register("loss.L1Loss", losses.L1Loss)
    register("loss.DistillationLoss", losses.distillation_loss)
