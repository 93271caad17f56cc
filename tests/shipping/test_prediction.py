"""Image files: what the network says of them, and where it looks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from archloom.config import Part
from archloom.errors import ConfigError, TaskError
from archloom.exporting.checking import logits_of
from archloom.judging.images import image_files, image_input, read_image
from archloom.judging.looking import class_activation
from archloom.judging.prediction import predict
from archloom.resolve import make
from archloom.trained import open_trained
from archloom_vision.digits import raw_digit


def test_an_image_file_is_given_the_probabilities_of_its_tensor(trained, pictures, digits):
    files = image_files([pictures])
    found = {each.path: each for each in predict(trained, files, topk=3)}
    path = next(path for path in files if path.stem == "image4")
    wanted = logits_of(trained.model, digits.dataset("test")[4][0][None]).softmax(1)[0].topk(3)
    names = [name for name, _ in found[path].classes]
    assert names == [digits.classes[i] for i in wanted.indices]
    # an image file has 256 levels
    assert [p for _, p in found[path].classes] == pytest.approx(wanted.values.tolist(), abs=0.02)


def test_a_broken_image_has_an_error_and_the_others_go_on(trained, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(next(pictures.glob("*/*.png")).read_bytes()[:60])
    files = [*image_files([pictures])[:2], broken, tmp_path / "gone.png", *image_files([pictures])[2:4]]
    found = list(predict(trained, files))
    assert [each.path for each in found] == files
    assert [each.error is None for each in found] == [True, True, False, False, True, True]
    assert "cannot be read as an image" in found[2].error
    assert found[3].error == f"there is no image file {tmp_path / 'gone.png'}"
    with pytest.raises(TaskError, match=r"broken\.png"):
        list(predict(trained, files, stop=True))


def test_a_task_that_does_not_tell_how_files_are_read_is_named(trained, host, pictures):
    noise = make(host, "task", Part(type="fake", options={"channels": 1, "height": 8, "width": 8}))
    with pytest.raises(ConfigError, match="task 'fake' does not say how an image file becomes an input"):
        list(predict(replace(trained, task=noise), image_files([pictures])))
    with pytest.raises(ConfigError, match="reading an image file needs the task: which task"):
        list(predict(replace(trained, task=None, no_task="which task?"), image_files([pictures])))


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TaskError, match="there are no images in"):
        image_files([tmp_path])


def test_fewer_classes_than_asked_for_are_all_named(trained, pictures):
    (found,) = predict(trained, image_files([pictures])[:1], topk=50)
    assert len(found.classes) == 10
    assert sum(p for _, p in found.classes) == pytest.approx(1, abs=1e-5)


# -- how a file becomes an input ----------------------------------------------------------------------------


def test_every_test_image_of_digits_survives_being_a_file(digits):
    as_input = image_input(digits)
    data = digits.dataset("test")
    worst = 0.0
    for number in range(len(digits.test)):
        image, _ = digits.test[number]
        file = Image.fromarray((image[0] * 255).round().byte().numpy())
        worst = max(worst, float((as_input(file) - data[number][0]).abs().max()))
    assert worst <= 0.5 / 255 / 0.376503 + 1e-6  # half a level, in units of the standard deviation


def drawn(mode="L", ink=255, paper=0, size=64):
    """A thick upright bar."""
    image = Image.new(mode, (size, size), paper)
    image.paste(ink, (24, 8, 40, 56))
    return image


def test_ink_on_paper_is_the_same_digit_as_light_on_black():
    wanted = raw_digit(drawn())
    assert wanted.shape == (1, 8, 8)
    assert (float(wanted.min()), float(wanted.max())) == (0, 1)
    assert wanted[0, :, 3:5].mean() > 0.8  # it fills the picture from top to bottom
    assert torch.allclose(raw_digit(drawn(ink=0, paper=255)), wanted)
    assert torch.allclose(raw_digit(drawn("RGB", ink=(0, 0, 0), paper=(255, 255, 255))), wanted)
    assert torch.allclose(raw_digit(drawn("RGBA", ink=(0, 0, 0, 255), paper=(0, 0, 0, 0))), wanted)
    assert torch.allclose(raw_digit(drawn(size=64).resize((256, 256), Image.Resampling.NEAREST)), wanted)
    assert torch.allclose(raw_digit(drawn().convert("P")), wanted)


def test_a_blank_image_is_blank():
    for shade in (0, 255, 90):
        assert float(raw_digit(Image.new("L", (40, 30), shade)).abs().max()) == 0


def test_a_photograph_goes_through_the_imagefolders_own_transform(host, tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(12):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)
    options = {"root": str(tmp_path), "resolution": 32, "workers": 0}
    task = make(host, "task", Part(type="imagefolder", options=options))
    as_input = image_input(task)
    first = tmp_path / "val" / "cat" / "0.png"
    assert torch.equal(as_input(read_image(first)), task.dataset("test")[0][0])
    grey = read_image(first).convert("LA")
    assert as_input(grey).shape == (3, 32, 32)
    assert image_input(task, 48)(grey).shape == (3, 48, 48)


# -- class-activation maps ----------------------------------------------------------------------------------


def test_a_map_lights_where_the_network_looks(trained, pictures, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    found = list(predict(trained, image_files([pictures])[:3]))
    made = class_activation(trained, found, tmp_path / "cam")
    assert list(made) == [each.path for each in found]
    for path in made.values():
        image = Image.open(path)
        assert image.height >= 224
        left = np.asarray(image)[:, : image.height]
        assert (left[..., 0] == left[..., 1]).all()  # the image itself is grey
        right = np.asarray(image)[:, -image.height :].astype(float)
        assert right.std() > 5
    assert all(p.grad is None for p in trained.model.parameters())


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "torchvision", "name": "mobilenet_v3_small", "out_indices": [1, -1]},
        {"type": "timm", "name": "test_vit", "options": {"img_size": 32}},
        {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4},
    ],
    ids=lambda part: part["type"],
)
def test_maps_are_drawn_for_backbones_of_any_kind(backbone, host, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("timm")
    network = {
        "model": {"backbone": backbone, "head": "LinearHead"},
        "task": {"type": "digits", "resolution": 32},
    }
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(network))
    opened = open_trained(tmp_path / "net.yaml", untrained=True, host=host)
    drawn().save(tmp_path / "bar.png")
    (made,) = class_activation(opened, list(predict(opened, [tmp_path / "bar.png"])), tmp_path).values()
    assert read_image(made).size == (2 * 224 + 7, 224)


def test_pictures_of_equally_named_files_do_not_overwrite_one_another(trained, pictures, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    first = next(pictures.glob("*/*.png"))
    twins = [tmp_path / name / "x.png" for name in "ab"]
    for path in twins:
        path.parent.mkdir()
        path.write_bytes(first.read_bytes())
    made = class_activation(trained, list(predict(trained, twins)), tmp_path / "cam")
    assert len(set(made.values())) == 2


def test_maps_need_a_package_and_say_so(trained, without, archloom, folder, pictures, tmp_path):
    without("pytorch_grad_cam")
    code, _, err = archloom("predict", folder, pictures, "--cam", tmp_path / "cam")
    assert code == 2
    assert 'pip install "archloom[cam]"' in err
    assert not (tmp_path / "cam").exists()


# -- the command line ---------------------------------------------------------------------------------------


def test_predict_is_one_command(archloom, folder, pictures, tmp_path):
    image = next(pictures.glob("3/*.png"))
    code, out, err = archloom("predict", folder, image, "--topk", 2, "--json", "--cam", tmp_path / "cam")
    assert code == 0, err
    (told,) = json.loads(out)
    assert told["image"] == str(image)
    assert len(told["classes"]) == 2
    assert Path(told["cam"]).exists()
    code, out, _ = archloom("predict", folder, image)
    assert "probability" in out


def test_predict_tells_of_each_broken_image_and_exits_with_1(archloom, folder, pictures, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    image = next(pictures.glob("3/*.png"))
    code, out, err = archloom("predict", folder, tmp_path / "x.png", image, "--json")
    assert code == 1
    assert "x.png cannot be read as an image" in " ".join(err.split())
    assert [set(each) for each in json.loads(out)] == [{"image", "error"}, {"image", "classes"}]
    assert archloom("predict", folder, tmp_path / "x.png", image, "--strict")[0] == 2
