"""How good a trained network is: top-k, each class by itself, confusions, calibration, test-time augmentation."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, SearchError, TaskError
from ..metrics import places
from ..surroundings import plainly
from ..task import SPLITS, Split, batches
from ..trained import Trained
from ..training import precision_context
from .images import labelled_files
from .prediction import is_answer, opener
from .scores import refuse_without_classes, refuse_without_images

Augmentation = Literal["none", "flip", "crops"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "flip", "crops")
CROP = 0.875
"""The side of each of the five crops, of the whole image's."""
BINS = 15
"""Of equal width, in which confidence is compared with accuracy."""


@dataclass(frozen=True)
class ClassFigures:
    """One class: precision, recall and F1 in %, and how many images are of it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found.

    topk: {k: % of the images whose class is among the k most probable}. loss: cross entropy, nats. ece: expected
    calibration error in %, over BINS bins of confidence. macro: precision, recall and F1 in %, the plain mean over the
    classes that occur. confusion: (classes, classes), rows the true class, columns the predicted one.
    confidences: (N,), of the predicted classes; correct: (N,), whether they are right. unreadable: files left out.
    """

    classes: tuple[str, ...]
    images: int
    topk: Mapping[int, float]
    loss: float
    ece: float
    macro: Mapping[str, float]
    per_class: tuple[ClassFigures, ...]
    confusion: Tensor
    confidences: Tensor
    correct: Tensor
    unreadable: tuple[str, ...] = ()

    def metrics(self) -> dict[str, float]:
        """By name: accuracy, top5 ..., loss, ece, macro.precision, macro.recall, macro.f1."""
        top = {("accuracy" if k == 1 else f"top{k}"): value for k, value in self.topk.items()}
        return {
            **top,
            "loss": self.loss,
            "ece": self.ece,
            **{f"macro.{name}": value for name, value in self.macro.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """As plain data, the metrics first."""
        return {
            **self.metrics(),
            "images": self.images,
            "classes": [vars(figures) for figures in self.per_class],
            "confusion": self.confusion.tolist(),
            "unreadable": list(self.unreadable),
        }


@plainly
def evaluate(
    trained: Trained,
    *,
    split: str = "test",
    images: str | Path | None = None,
    topk: Sequence[int] | None = None,
    tta: Augmentation = "none",
    precision: str = "float32",
    skip: bool = False,
) -> Evaluation:
    """Judge a network on a split of its task, or on a folder `images`/CLASS/IMAGE.

    topk: default, 1, and 5 where there are more than five classes. tta: "flip" averages the probabilities of each
    image and its mirror image; "crops" those of the four corners and the middle. skip: leave out and name images of
    the folder that cannot be read, which otherwise are a TaskError. Of equal logits the first class counts, in all
    figures alike; NaN is a SearchError.
    """
    refuse_without_classes(trained, "judging by classes")
    if tta != "none" or images is not None:
        refuse_without_images(trained, "test-time augmentation" if images is None else "a folder")
    wanted = _ks(topk, len(trained.classes))
    check_words(split, tta)
    unreadable: list[str] = []
    if images is None:
        task = trained.needs_task("judging a network on a split")
        data = task.dataset(
            _split(split), resolution=_larger(trained) if tta == "crops" else trained.resolution
        )
        stream = batches(data, 256, device=trained.device)
    else:
        stream = _from_folder(trained, images, tta, skip, unreadable)
    views = _views(tta, trained.shape)
    logs, labels = _run(trained, stream, views, precision)
    return _judged(trained.classes, logs, labels, wanted, tuple(unreadable))


def check_words(split: str, tta: str) -> None:
    """Refuse a split or an augmentation that does not exist, before anything is opened."""
    if tta not in AUGMENTATIONS:
        raise ConfigError(f"tta is one of {', '.join(AUGMENTATIONS)}, not '{tta}'")
    if split not in SPLITS:
        raise ConfigError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")


def _ks(topk: Sequence[int] | None, classes: int) -> list[int]:
    if topk is None:
        return [1, 5] if classes > 5 else [1]
    wanted = sorted({1, *topk})
    if wanted[0] < 1 or wanted[-1] > classes:
        raise ConfigError(
            f"topk takes numbers from 1 to the {classes} classes, not {', '.join(map(str, topk))}"
        )
    return wanted


def _split(name: str) -> Split:
    return next(split for split in SPLITS if split == name)


def _larger(trained: Trained) -> int:
    """The side in which images are asked for so that crops of the network's own side are CROP of it."""
    _, height, width = trained.shape
    if height != width:
        raise ConfigError(
            f"crops are of square images, and this network's are {height} x {width}; take tta flip"
        )
    return round(height / CROP)


def _views(tta: str, shape: tuple[int, ...]) -> Callable[[Tensor], Iterator[Tensor]]:
    """(N, C, H, W) -> what the network is asked about for it."""
    side = shape[1]

    def views(images: Tensor) -> Iterator[Tensor]:
        if tta == "crops":
            last = images.shape[2] - side
            for top, left in ((last // 2, last // 2), (0, 0), (0, last), (last, 0), (last, last)):
                yield images[:, :, top : top + side, left : left + side]
            return
        yield images
        if tta == "flip":
            yield images.flip(3)

    return views


def _run(
    trained: Trained,
    stream: Iterable[tuple[Tensor, Tensor]],
    views: Callable[[Tensor], Iterator[Tensor]],
    precision: str,
) -> tuple[Tensor, Tensor]:
    """(N, classes) logits, of several views the logarithms of their mean probabilities, and (N,) labels.

    A SearchError where there is an image of which the network gives no number.
    """
    found, labels = [], []
    model = trained.model.eval()
    with torch.inference_mode(), precision_context(trained.device, precision):
        for images, targets in stream:
            each = torch.stack([model(view).float() for view in views(images)])
            # the mean of the probabilities, without leaving the logarithms, where small ones are not lost
            mean = F.log_softmax(each, 2).logsumexp(0) - torch.tensor(float(len(each))).log()
            answered = is_answer(each).all(0)[:, None]
            mean = torch.where(answered, each[0] if len(each) == 1 else mean, math.nan)
            found.append(mean.cpu())
            labels.append(targets.cpu())
    logits = torch.cat(found)
    if missing := int(logits.isnan().any(1).sum()):
        raise SearchError(
            f"the network gives NaN or an infinite logit for {missing} of {len(logits)} images, so no accuracy can be "
            "said of it. Its training may have diverged: train it with a lower lr, or judge it in float32"
        )
    return logits, torch.cat(labels)


def _from_folder(
    trained: Trained, folder: str | Path, tta: str, skip: bool, unreadable: list[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a folder's images."""
    resolution = _larger(trained) if tta == "crops" else None
    open_image = opener(trained, resolution)
    files = labelled_files(folder, trained.classes)
    batch: list[tuple[Tensor, int]] = []
    read = 0
    for number, (path, label) in enumerate(files):
        try:
            batch.append((open_image(path), label))
            read += 1
        except TaskError as error:
            if not skip:
                raise
            unreadable.append(str(error))
        if batch and (len(batch) == 64 or number + 1 == len(files)):
            images, labels = zip(*batch, strict=True)
            yield torch.stack(images).to(trained.device), torch.tensor(labels)
            batch = []
    if not read:
        raise TaskError(
            f"none of the {len(files)} images of {folder} can be read; the first: {unreadable[0]}"
        )


def _judged(
    classes: tuple[str, ...], logits: Tensor, labels: Tensor, ks: Sequence[int], unreadable: tuple[str, ...]
) -> Evaluation:
    """logits: (N, C), or logarithms of probabilities, which are their own logits; labels: (N,)."""
    from torchmetrics.functional.classification import (  # takes two seconds: not before it is needed
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    count = len(classes)
    logs = F.log_softmax(logits, 1)
    predicted, place = logits.argmax(1), places(logits, labels)
    confidences, correct = logs.gather(1, predicted[:, None])[:, 0].exp(), predicted == labels
    each = {
        "precision": multiclass_precision(predicted, labels, count, average="none"),
        "recall": multiclass_recall(predicted, labels, count, average="none"),
        "f1": multiclass_f1_score(predicted, labels, count, average="none"),
    }
    support = torch.bincount(labels, minlength=count)
    occurs = (support > 0) | (torch.bincount(predicted, minlength=count) > 0)
    columns = [[100 * float(value) for value in each[name]] for name in ("precision", "recall", "f1")]
    figures = tuple(map(ClassFigures, classes, *columns, support.tolist()))
    return Evaluation(
        classes=classes,
        images=len(labels),
        topk={k: 100 * float((place < k).float().mean()) for k in ks},
        loss=float(F.nll_loss(logs, labels)),
        ece=100 * _distance(_binned(confidences, correct)),
        macro={name: 100 * float(values[occurs].double().mean()) for name, values in each.items()},
        per_class=figures,
        confusion=multiclass_confusion_matrix(predicted, labels, count),
        confidences=confidences,
        correct=correct,
        unreadable=unreadable,
    )


def confusion_csv(evaluation: Evaluation) -> str:
    """A row for each true class, a column for each predicted one."""
    rows = evaluation.confusion.tolist()
    return _csv(
        ["true \\ predicted", *evaluation.classes],
        [[name, *row] for name, row in zip(evaluation.classes, rows, strict=True)],
    )


def classes_csv(evaluation: Evaluation) -> str:
    """A row for each class: precision, recall, F1 in %, support."""
    return _csv(
        ["class", "precision", "recall", "f1", "support"],
        [list(vars(f).values()) for f in evaluation.per_class],
    )


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def reliability(evaluation: Evaluation) -> list[tuple[float, float, int]]:
    """(mean confidence, share that is right, images) of each of the BINS bins that holds an image."""
    return _binned(evaluation.confidences, evaluation.correct)


def _binned(confidences: Tensor, correct: Tensor) -> list[tuple[float, float, int]]:
    """Bin b holds confidences from b / BINS to below (b + 1) / BINS, the last one those of exactly 1 too."""
    bins = (confidences * BINS).long().clamp(max=BINS - 1)
    found = []
    for number in range(BINS):
        inside = bins == number
        if bool(inside.any()):
            mean = float(confidences[inside].double().mean())
            found.append((mean, float(correct[inside].double().mean()), int(inside.sum())))
    return found


def _distance(bins: Sequence[tuple[float, float, int]]) -> float:
    """The mean over the images of |confidence - share that is right| of an image's bin."""
    images = sum(count for *_, count in bins)
    return sum(count * abs(sure - right) for sure, right, count in bins) / images
