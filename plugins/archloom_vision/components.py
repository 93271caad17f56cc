"""Backbones, necks, heads and losses by name."""

from __future__ import annotations

import archloom
from archloom import GlobalAverage, Register, SeriesAverage

from . import focal, losses
from .backbones import TimmBackbone, TorchvisionBackbone
from .heads import HiddenClsHead, LinearClsHead, linear_head
from .necks import GeneralizedMean, Identity
from .resnet import ResNet, ResNetCIFAR


@archloom.hookimpl
def register_components(register: Register) -> None:
    register("backbone.ResNet", ResNet)
    register("backbone.ResNet_CIFAR", ResNetCIFAR)
    register("backbone.torchvision", TorchvisionBackbone)
    register("backbone.timm", TimmBackbone)
    register("neck.Identity", Identity)
    register("neck.GlobalAverage", GlobalAverage, default=True)
    register("neck.GlobalAveragePooling", GlobalAverage)
    register("neck.SeriesAverage", SeriesAverage)
    register("neck.GeneralizedMean", GeneralizedMean)
    register("head.LinearHead", linear_head, default=True)
    register("head.LinearClsHead", LinearClsHead)
    register("head.HiddenClsHead", HiddenClsHead)
    register("loss.CrossEntropyLoss", losses.CrossEntropyLoss, default=True)
    register("loss.BCEWithLogitsLoss", losses.BCEWithLogitsLoss)
    register("loss.FocalLoss", focal.FocalLoss)
    register("loss.SoftmaxFocalLoss", focal.SoftmaxFocalLoss)
    register("loss.L1Loss", losses.L1Loss)
    register("loss.MSELoss", losses.MSELoss)
    register("loss.DistillationLoss", losses.distillation_loss)
