"""Judging: against scikit-learn, and against sums done by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from archloom.errors import ConfigError, SearchError, TaskError
from archloom.exporting.checking import logits_of
from archloom.judging.evaluation import _judged, confusion_csv, evaluate, reliability
from archloom.judging.page import page
from archloom.judging.prediction import predict
from archloom.model import topk_accuracy
from archloom.task import batches
from archloom.training import evaluate as plain


@pytest.fixture(scope="module")
def judged(trained):
    return evaluate(trained)


@pytest.fixture(scope="module")
def said(trained, digits):
    """(logits, labels) of the whole test split."""
    ((images, labels),) = batches(digits.dataset("test"), 1000)
    return logits_of(trained.model, images), labels


def test_accuracy_and_loss_are_those_of_the_training_loop(trained, judged, digits):
    wanted = plain(trained.model, batches(digits.dataset("test"), 512), 10)
    metrics = judged.metrics()
    assert metrics["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-4)
    assert metrics["top5"] == pytest.approx(wanted["top5"], abs=1e-4)
    assert metrics["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


def test_each_class_has_scikit_learns_figures(judged, said):
    logits, labels = said
    predicted = logits.argmax(1)
    assert (predicted != labels).sum() > 0  # there is something to tell apart
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(10), zero_division=0
    )
    for number, figures in enumerate(judged.per_class):
        assert figures.precision == pytest.approx(100 * precision[number], abs=1e-3)
        assert figures.recall == pytest.approx(100 * recall[number], abs=1e-3)
        assert figures.f1 == pytest.approx(100 * f1[number], abs=1e-3)
        assert figures.support == support[number]
    wanted = sklearn.metrics.f1_score(labels, predicted, average="macro")
    assert judged.macro["f1"] == pytest.approx(100 * wanted, abs=1e-3)
    assert judged.confusion.tolist() == sklearn.metrics.confusion_matrix(labels, predicted).tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_scikit_learns(trained, said, k):
    logits, labels = said
    wanted = sklearn.metrics.top_k_accuracy_score(labels, logits.numpy(), k=k, labels=range(10))
    assert evaluate(trained, topk=[k]).topk[k] == pytest.approx(100 * wanted, abs=1e-4)


def hand_made():
    """Five images of three classes; the third never occurs and is never said."""
    probabilities = torch.tensor(
        [[0.90, 0.05, 0.05], [0.91, 0.05, 0.04], [0.30, 0.59, 0.11], [0.35, 0.61, 0.04], [0.20, 0.75, 0.05]]
    )
    return _judged(("a", "b", "c"), probabilities.log(), torch.tensor([0, 1, 1, 0, 1]), [1], ())


def test_the_calibration_error_is_the_sum_done_by_hand():
    # bins of a fifteenth: 0.90 and 0.91 in 13/15 to 14/15, 0.59, 0.61 and 0.75 alone in theirs
    found = hand_made()
    gaps = [2 * abs(0.905 - 0.5), abs(0.59 - 1.0), abs(0.61 - 0.0), abs(0.75 - 1.0)]
    assert found.ece == pytest.approx(100 * sum(gaps) / 5, abs=1e-3)
    assert sum(images for *_, images in reliability(found)) == 5
    by_bins = sum(images * abs(sure - right) for sure, right, images in reliability(found)) / 5
    assert found.ece == pytest.approx(100 * by_bins, abs=1e-3)


@pytest.mark.parametrize(
    ("sure", "right", "wanted"),
    [
        # all in the last bin, of which 39 of 40 are right: it is 2.5 % too sure, not 7.5 with a bin for 1.0 alone
        ([1.0] * 20 + [1.0] * 20, 39, 2.5),
        ([1.0] * 10, 10, 0.0),
        ([1.0] * 10, 0, 100.0),
        # the last bin, 14/15 to 1, holds both: 0.975 sure on average, three of four right
        ([1.0, 0.95, 1.0, 0.95], 3, 22.5),
        # confidences at the borders of bins, each alone in its own
        ([0.4, 0.6, 0.8, 1.0], 4, 100 * (0.6 + 0.4 + 0.2 + 0.0) / 4),
    ],
)
def test_the_calibration_error_is_that_of_its_own_diagram_where_confidence_is_whole(sure, right, wanted):
    probabilities = torch.tensor([[1 - c, c] if c >= 0.5 else [c, 1 - c] for c in sure])
    if 0.4 in sure:  # the largest of three
        probabilities = torch.tensor([[c, (1 - c) / 2, (1 - c) / 2] for c in sure])
    predicted = probabilities.argmax(1)
    labels = torch.where(torch.arange(len(sure)) < right, predicted, 1 - predicted)
    names = tuple("abc"[: probabilities.shape[1]])
    found = _judged(names, probabilities.log(), labels, [1], ())
    assert found.ece == pytest.approx(wanted, abs=1e-4)
    by_bins = sum(n * abs(c - share) for c, share, n in reliability(found)) / len(sure)
    assert found.ece == pytest.approx(100 * by_bins, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 40))
def test_accuracy_confusion_and_calibration_are_of_the_same_predictions_whatever_the_ties(seed, classes, n):
    generator = torch.Generator().manual_seed(seed)
    logits = (
        torch.randint(-3, 3, (n, classes), generator=generator).float() * 20
    )  # ties, and confidences of 1
    labels = torch.randint(classes, (n,), generator=generator)
    ks = list(range(1, classes + 1))
    found = _judged(tuple(map(str, range(classes))), logits, labels, ks, ())
    assert found.topk[1] == pytest.approx(100 * found.confusion.trace().item() / n, abs=1e-4)
    assert found.topk[1] == pytest.approx(100 * float(found.correct.float().mean()), abs=1e-4)
    assert found.topk[classes] == 100
    assert [found.topk[k] for k in ks] == sorted(found.topk.values())
    assert found.topk[1] == pytest.approx(topk_accuracy(logits, labels)["top1"], abs=1e-4)
    by_bins = sum(count * abs(c - share) for c, share, count in reliability(found)) / n
    assert found.ece == pytest.approx(100 * by_bins, abs=1e-9)


class Told(torch.nn.Module):
    """A network of which what it says is changed on the way out."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.change(self.model(x))


def test_tied_logits_have_one_accuracy_everywhere(trained, digits, pictures):
    tied = replace(trained, model=Told(trained.model, lambda logits: (logits / 4).round()))
    found = evaluate(tied, topk=[1, 2, 5])
    ((images, _),) = batches(digits.dataset("test"), 1000)
    assert (logits_of(tied.model, images).sort(1).values.diff()[:, -1] == 0).any()  # ties for the first place
    wanted = plain(tied.model, batches(digits.dataset("test"), 512), 10)
    assert found.topk[1] == pytest.approx(wanted["accuracy"], abs=1e-4)
    assert found.topk[5] == pytest.approx(wanted["top5"], abs=1e-4)
    assert found.topk[1] == pytest.approx(100 * found.confusion.trace().item() / found.images, abs=1e-4)
    files = sorted(pictures.glob("*/*.png"))
    said = [answer.classes[0][0] == answer.path.parent.name for answer in predict(tied, files)]
    assert evaluate(tied, images=pictures).topk[1] == pytest.approx(100 * sum(said) / len(said), abs=1e-4)


def _spoilt(value):
    def change(logits):
        logits = logits.clone()
        logits[::7, 3] = value
        return logits

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tta", ["none", "flip"])
def test_logits_that_are_no_numbers_are_refused_and_counted(trained, pictures, value, tta):
    broken = replace(trained, model=Told(trained.model, _spoilt(value)))
    with pytest.raises(SearchError, match=r"for 5 of 30 images.*lower lr"):
        evaluate(broken, images=pictures, tta=tta)
    with pytest.raises(SearchError, match="images"):
        evaluate(broken, tta=tta)


def test_a_prediction_without_numbers_is_named_and_the_others_stand(trained, pictures):
    broken = replace(trained, model=Told(trained.model, _spoilt(float("nan"))))
    files = sorted(pictures.glob("*/*.png"))[:9]
    found = list(predict(broken, files))
    assert [f.error is not None for f in found] == [n % 7 == 0 for n in range(9)]
    assert "a logit is NaN or infinite" in found[0].error
    assert found[1] == list(predict(trained, files))[1]
    with pytest.raises(SearchError, match="NaN"):
        list(predict(broken, files, stop=True))


def test_a_class_that_is_ruled_out_is_no_missing_number(trained):
    out = replace(trained, model=Told(trained.model, _spoilt(float("-inf"))))
    found = evaluate(out)
    assert found.images == 359
    assert found.topk[1] > 30  # chance is 10


def test_a_class_that_never_occurs_has_zeros_and_does_not_count_in_the_mean():
    found = hand_made()
    assert vars(found.per_class[2]) == {"name": "c", "precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert found.macro["recall"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=1e-4)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_flipping_means_the_probabilities_of_both_images(trained, digits):
    ((images, labels),) = batches(digits.dataset("test"), 1000)
    both = [logits_of(trained.model, view).softmax(1) for view in (images, images.flip(3))]
    mean = (both[0] + both[1]) / 2
    found = evaluate(trained, tta="flip")
    assert found.topk[1] == pytest.approx(100 * float((mean.argmax(1) == labels).float().mean()), abs=1e-4)
    assert found.loss == pytest.approx(float(F.nll_loss(mean.log(), labels)), rel=1e-4)


def test_five_crops_are_taken_of_a_larger_image(trained, digits):
    ((images, labels),) = batches(digits.dataset("test", resolution=9), 1000)  # 8 / 0.875
    corners = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]
    views = [images[:, :, top : top + 8, left : left + 8] for top, left in corners]
    mean = torch.stack([logits_of(trained.model, view).softmax(1) for view in views]).mean(0)
    found = evaluate(trained, tta="crops")
    assert found.loss == pytest.approx(float(F.nll_loss(mean.log(), labels)), rel=1e-4)


def test_a_folder_of_the_test_images_gives_what_the_split_gives(trained, pictures, said):
    found = evaluate(trained, images=pictures)
    right = (said[0].argmax(1) == said[1])[:30].float().mean()
    assert (found.images, found.topk[1]) == (30, pytest.approx(100 * float(right), abs=1e-4))
    assert sum(figures.support for figures in found.per_class) == 30


# -- what is wrong ------------------------------------------------------------------------------------------


def test_an_image_that_is_none_stops_or_is_left_out_and_named(trained, pictures, tmp_path):
    for path in pictures.glob("[01]/*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1" / "zz.png").write_text("no image")
    with pytest.raises(TaskError, match=r"zz\.png cannot be read as an image"):
        evaluate(trained, images=tmp_path)
    found = evaluate(trained, images=tmp_path, skip=True)
    assert len(found.unreadable) == 1
    assert "zz.png" in found.unreadable[0]
    assert found.images == len(list(tmp_path.glob("*/*.png"))) - 1
    assert "could not be read and is left out" in page(found, "x")


def test_a_folder_without_a_single_readable_image_is_refused(trained, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "zz.png").write_text("no image")
    with pytest.raises(TaskError, match="none of the 1 images"):
        evaluate(trained, images=tmp_path, skip=True)


def test_folders_that_are_no_classes_are_named(trained, tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(
        TaskError, match=r"has 'cat', which the network does not know; its classes are '0', '1'"
    ):
        evaluate(trained, images=tmp_path)


def test_an_empty_folder_is_told_its_layout(trained, tmp_path):
    with pytest.raises(TaskError, match=r"there are no images in .*; the layout is .*/CLASS/IMAGE"):
        evaluate(trained, images=tmp_path)
    with pytest.raises(TaskError, match="there is no folder"):
        evaluate(trained, images=tmp_path / "gone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": [11]}, "topk takes numbers from 1 to the 10 classes, not 11"),
        ({"topk": [0]}, "not 0"),
        ({"tta": "mirror"}, "tta is one of none, flip, crops, not 'mirror'"),
        ({"split": "trian"}, "there is no split 'trian'"),
    ],
)
def test_options_that_cannot_be_are_told(trained, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(trained, **options)


# -- what is written ----------------------------------------------------------------------------------------


def test_the_tables_hold_the_numbers(judged):
    rows = list(csv.reader(confusion_csv(judged).splitlines()))
    assert rows[0][1:] == list(judged.classes)
    assert [[int(value) for value in row[1:]] for row in rows[1:]] == judged.confusion.tolist()


def test_the_page_escapes_what_a_folder_may_be_called():
    logs = torch.log_softmax(torch.randn(6, 2), 1)
    found = _judged(("<script>alert(1)</script>", "b"), logs, torch.tensor([0, 1] * 3), [1], ())
    text = page(found, "<b>title</b>")
    assert "<script>alert" not in text
    assert "<b>title" not in text


def test_evaluate_is_one_command_that_leaves_a_page(archloom, folder, tmp_path):
    code, out, err = archloom("evaluate", folder, "--topk", "1,3", "--out", tmp_path / "e", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told == json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert {"accuracy", "top3", "ece", "macro.f1"} <= set(told)
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "classes.csv",
        "confusion.csv",
        "evaluation.html",
        "metrics.json",
    ]
    code, out, _ = archloom("evaluate", folder)
    assert "macro.f1" in out
    assert "precision %" in out


def test_a_wrong_folder_is_told_by_the_command_and_nothing_is_written(archloom, folder, tmp_path):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    code, _, err = archloom("evaluate", folder, "--images", tmp_path / "images", "--out", tmp_path / "e")
    assert code == 2
    assert "which the network does not know" in " ".join(err.split())
    assert not (tmp_path / "e").exists()
