"""Pictures of a network: where it looks, what it is trained on and how fast, and what it is made of."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from ..errors import ConfigError
from ..exporting.checking import Classifier, needed
from ..folder import path_name
from ..model import Model, deepest, output_shape
from ..report import document
from ..report.markup import BLUE, amount, axis, escaped, plot, section, table
from ..run import write_atomically
from ..steps import Step, stages, steps
from ..surroundings import plainly
from ..task import Task, batches
from ..trained import Trained
from ..training import Recipe, learning_rate
from .drawing import draw
from .prediction import Prediction, opener
from .scores import refuse_without_images

SMALLEST = 224
"""Pixels that the shorter side of a picture has at least; small images are shown with their pixels enlarged."""


def need_cam() -> Any:
    """The package that makes class-activation maps; a ConfigError where it is missing."""
    return needed("pytorch_grad_cam", "cam", "a class-activation map")


@plainly
def class_activation(
    trained: Trained, predictions: Sequence[Prediction], folder: str | Path
) -> dict[Path, Path]:
    """For each image a picture of itself and of what its best class comes from, NAME.cam.png in `folder`.

    Grad-CAM (Selvaraju et al., ICCV 2017) at the backbone's last feature map. Returns image -> picture.
    """
    refuse_without_images(trained, "a class-activation map")
    cam_of, folder = need_cam(), Path(folder)
    network = _Seen(trained.model).eval()
    target = _target(network, trained.shape)
    open_image, labels = opener(trained), {name: number for number, name in enumerate(trained.classes)}
    targets = cam_of.utils.model_targets.ClassifierOutputTarget
    made: dict[Path, Path] = {}
    names = _names([each.path for each in predictions])
    with cam_of.GradCAM(model=network, target_layers=[target]) as cam:
        for each in predictions:
            image = open_image(each.path)
            best = labels[each.classes[0][0]]
            (heat,) = cam(input_tensor=image[None].to(trained.device), targets=[targets(best)])
            picture = _beside(displayed(image[None], trained.task)[0], torch.from_numpy(heat))
            made[each.path] = folder / f"{names[each.path]}.cam.png"
            write_atomically(made[each.path], picture)
    network.zero_grad(set_to_none=True)  # the maps are made from gradients
    return made


class _Seen(Classifier):
    """A classifier whose backbone's (deepest) map passes a module of its own, `seen`, that can be listened to."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.seen = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        maps = self.seen(maps) if isinstance(maps, Tensor) else (*maps[:-1], self.seen(maps[-1]))
        return self.head(self.neck(maps))


def _target(network: _Seen, shape: tuple[int, ...]) -> nn.Module:
    """What gives the last feature map of more than one pixel."""
    points = [step for step in stages(steps(network.backbone, shape)) if min(step.shape[1:]) > 1]
    if not points:
        raise ConfigError(
            f"the backbone {type(network.backbone).__name__} gives no feature map of more than one pixel for images "
            f"of {shape[1]} x {shape[2]}; ask with a larger --resolution"
        )
    final = output_shape(_Deepest(network.backbone), shape)[1:]
    return network.seen if points[-1].shape == final else points[-1].module


class _Deepest(nn.Module):
    """A backbone's deepest map alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return deepest(self.backbone(images))


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name of its own for each path's picture: its stem, with the folder's name before it where stems are equal."""
    stems = [path.stem for path in paths]
    names = {
        path: path.stem
        if stems.count(path.stem) == 1
        else "-".join([*path.parts[-3:-1], path.name]).strip("/")
        for path in paths
    }
    taken = [name.lower() for name in names.values()]
    return {
        path: name
        if taken.count(name.lower()) == 1
        else f"{path.stem}.{path_name(str(path)).rpartition('.')[2]}"
        for path, name in names.items()
    }


def displayed(images: Tensor, task: Task | None) -> Tensor:
    """(N, C, H, W) as a network is given them -> (N, 3, H, W) from 0 to 1, as a person sees them.

    By the task's mean and std where it tells them; else the darkest and the brightest value become 0 and 1.
    """
    told: Mapping[str, Any] = getattr(task, "preprocessing", None) or {}
    if "mean" in told and "std" in told:
        mean, std = (torch.tensor(told[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        images = images * std + mean
    else:
        images = (images - images.min()) / (images.max() - images.min()).clamp(min=1e-12)
    channels = images.shape[1]
    shown = images if channels == 3 else images[:, :1].expand(-1, 3, -1, -1)
    return shown.clamp(0, 1)


def _beside(image: Tensor, heat: Tensor) -> bytes:
    """PNG: image (3, H, W) left; right the same with heat (H, W), 0 to 1, over it."""
    from PIL import Image

    height, width = heat.shape
    factor = max(1, -(-SMALLEST // min(height, width)))
    # blue, nothing, to yellow, most: told apart by the colour-blind, and in grey
    cold, warm = torch.tensor([0.0, 0.20, 0.55]).view(3, 1, 1), torch.tensor([1.0, 0.88, 0.10]).view(3, 1, 1)
    coloured = cold + (warm - cold) * heat
    mixed = 0.45 * image + 0.55 * coloured
    whole = torch.cat([image, torch.ones(3, height, max(1, width // 32)), mixed], dim=2)
    pixels = (whole * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    return _png(picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST))


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def augmentation_preview(
    task: Task, *, augment: Any = True, images: int = 6, times: int = 8, seed: int = 0
) -> bytes | None:
    """PNG: each row an image of the training data, first as it is judged, then augmented `times` times.

    augment: what the task is asked with. What is drawn follows from `seed`. None where nothing is augmented.
    """
    plain: Any = task.dataset("weights")
    augmented: Any = task.dataset("weights", augment=augment)
    count = min(images, len(plain))
    positions = [i * len(plain) // count for i in range(count)]

    def first(data: Any, epoch: int) -> Tensor:
        return next(batches(Subset(data, positions), count, seed=seed, epoch=epoch, workers=0))[0]

    columns = [first(plain, 0)] + [first(augmented, epoch) for epoch in range(times)]
    if all(torch.equal(columns[0], column) for column in columns[1:]):
        return None
    rows = torch.stack([displayed(column, task) for column in columns], dim=1)  # (images, 1 + times, 3, H, W)
    return _grid(rows)


def _grid(rows: Tensor) -> bytes:
    """PNG of (R, N, 3, H, W): rows of images with white between them, more behind the first column."""
    from PIL import Image

    count, columns, _, height, width = rows.shape
    factor = max(1, -(-96 // min(height, width)))
    large = rows.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    gap, extra = 4, 12
    height, width = height * factor, width * factor
    canvas = torch.ones(3, count * (height + gap) - gap, columns * (width + gap) - gap + extra)
    for row in range(count):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap) + (extra if column else 0)
            canvas[:, top : top + height, left : left + width] = large[row, column]
    return _png(Image.fromarray((canvas * 255).round().byte().permute(1, 2, 0).numpy()))


def learning_rate_curve(recipe: Recipe, points: int = 400) -> tuple[list[float], list[float]]:
    """(epochs, learning rates) over a whole training."""
    epochs = [recipe.epochs * i / points for i in range(points + 1)]
    # at the very end there is no step any more
    rates = [learning_rate(recipe, min(epoch, recipe.epochs * (1 - 1e-9))) for epoch in epochs]
    return epochs, rates


@plainly
def look(trained: Trained, folder: str | Path, *, seed: int = 0) -> Path:
    """look.html in `folder`: the network drawn, its steps, augmented images, the learning rate. Returns its path.

    The drawing and the grid of images also lie beside it, as network.svg and augmentation.png.
    """
    refuse_without_images(trained, "the page of a network")
    folder = Path(folder)
    found = steps(Classifier(trained.model), trained.shape)
    options = dict(trained.source.document.get("architecture") or {})
    svg = draw(found, trained.shape, options)
    parts = [section("The network", f'<div class="scroll">{svg}</div>', _step_table(found, options))]
    write_atomically(folder / "network.svg", svg.encode())
    if trained.task is not None:
        png = augmentation_preview(trained.task, augment=_augment(trained), seed=seed)
        parts.append(_augmentation(png))
        if png is not None:
            write_atomically(folder / "augmentation.png", png)
    if trained.recipe is not None:
        epochs, rates = learning_rate_curve(trained.recipe)
        parts.append(section("Training", _curve(epochs, rates), _recipe_table(trained.recipe)))
    told = f'<p class="note">{escaped(trained.no_task)}</p>' if trained.task is None else ""
    title = f"{Path(trained.source.name).name}: the network"
    page = document(
        title, f"<header><h1>{escaped(title)}</h1>{_summary(trained, found)}{told}</header>" + "".join(parts)
    )
    write_atomically(folder / "look.html", page.encode())
    return folder / "look.html"


def _augment(trained: Trained) -> Any:
    """What the recipe asks the task's training images with: whether they are augmented, or by which policy."""
    policy = getattr(trained.recipe, "policy", None) if getattr(trained.task, "policies", False) else None
    return policy or (trained.recipe is None or trained.recipe.augment)


def _summary(trained: Trained, found: Sequence[Step]) -> str:
    params = sum(p.numel() for p in trained.model.parameters() if p.requires_grad)
    macs = sum(step.macs for step in found)
    outputs = " x ".join(map(str, trained.scoring.outputs))
    gives = f"{len(trained.classes)} classes" if trained.classes else f"outputs {outputs}"
    return (
        f"<p>Images {' x '.join(map(str, trained.shape))}, {gives}, {len(found)} steps, "
        f"{params:,} params, {macs:,} MACs.</p>"
    )


def _step_table(found: Sequence[Step], options: Mapping[str, Any]) -> str:
    rows = [
        [
            escaped(step.name),
            escaped(options.get(step.name.rpartition(".")[2], "")),
            escaped(step.kind),
            " x ".join(map(str, step.shape)),
            amount(step.params),
            amount(step.macs),
        ]
        for step in found
    ]
    return (
        "<details><summary>Every step</summary>"
        + table(["step", "choice", "module", "gives", "params", "MACs"], rows)
        + "</details>"
    )


def _augmentation(png: bytes | None) -> str:
    if png is None:
        return section("Training images", "<p>The training images are not augmented.</p>")
    data = base64.b64encode(png).decode()
    note = '<p class="note">Left: an image as it is judged. Right of it: as eight epochs of a training may see it.</p>'
    picture = f'<img alt="augmented images" style="max-width:100%" src="data:image/png;base64,{data}">'
    return section("Training images", note, picture)


def _curve(epochs: Sequence[float], rates: Sequence[float]) -> str:
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": list(epochs),
        "y": list(rates),
        "line": {"color": BLUE, "width": 2},
    }
    return plot("Learning rate", [line], xaxis=axis("epoch"), yaxis=axis("learning rate", rangemode="tozero"))


def _recipe_table(recipe: Recipe) -> str:
    rows = [[escaped(name), escaped(value)] for name, value in vars(recipe).items()]
    return (
        "<details><summary>The recipe</summary>" + table(["option", "value"], rows, "narrow") + "</details>"
    )


def summary_table(trained: Trained, depth: int = 3) -> str:
    """torchinfo's table of the network, as text."""
    torchinfo = needed("torchinfo", "look", "the table")
    found = torchinfo.summary(
        Classifier(trained.model),
        input_size=(1, *trained.shape),
        depth=depth,
        device=trained.device,
        verbose=0,
        col_names=("input_size", "output_size", "num_params", "mult_adds"),
    )
    return str(found)
