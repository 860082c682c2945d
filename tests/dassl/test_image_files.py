"""Which files are read as images, how, and what readers say of the others."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import make_cfg, write_images
from PIL import Image

import predict
from dassl.data import build_data_loader
from dassl.data.datasets import Datum, build_dataset
from dassl.data.transforms import build_transform
from dassl.features import reader
from dassl.features.views import Augmentation, WholeImage
from dassl.utils import BadImageError, read_image, upright
from dassl.utils.image import MAX_PIXELS, PIXELS_VARIABLE
from dassl.utils.image_files import LeftOut, images_below
from datasets.class_folder import ClassFolder
from datasets.domainbed import DomainFolder
from tools import check_data

HALVES = np.zeros((20, 30, 3), np.uint8)
HALVES[:, :15] = (220, 30, 30)


def photograph(path, orientation=6, size=None):
    """An image whose tag asks for a quarter turn, as phones write them."""
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(HALVES)
    image.resize(size or image.size).save(path, exif=exif, quality=95)
    return path


# --------------------------------------------------------------------- what is left out
OTHERS = {
    "heic": ["cat/a.HEIC", "cat/b.heic"],
    "raw": ["dog/a.cr2"],
    "text": ["cat/labels.csv", "dog/README"],
    "nested": ["cat/more/a.jpg"],
}


def tree(root, others=()):
    names = [f"{name}/{k}.jpg" for name in ("cat", "dog") for k in range(5)]
    write_images(root, names)
    for name in others:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize("kind", OTHERS)
def test_class_folders_count_and_name_what_they_leave_out(tmp_path, kind, caplog):
    tree(tmp_path, OTHERS[kind])

    build_dataset(make_cfg(tmp_path, ClassFolder.__name__))

    assert f"Left out below {tmp_path}: {len(OTHERS[kind])} (" in caplog.text
    assert "convert or move the others" in caplog.text


def test_gif_and_jfif_are_images(tmp_path):
    tree(tmp_path)
    Image.fromarray(HALVES).save(tmp_path / "cat" / "x.gif")
    Image.fromarray(HALVES).save(tmp_path / "cat" / "y.JFIF", format="JPEG")

    dataset = build_dataset(make_cfg(tmp_path, ClassFolder.__name__))

    items = (*dataset.train_x, *dataset.val, *dataset.test)
    assert len(items) == 12
    assert {read_image(item.impath).mode for item in items} == {"RGB"}


def test_hidden_files_and_what_file_managers_write_are_not_worth_a_word(tmp_path, caplog):
    tree(tmp_path, ["cat/.DS_Store", "cat/._1.jpg", "dog/Thumbs.db", ".git/x.jpg"])

    build_dataset(make_cfg(tmp_path, ClassFolder.__name__))

    assert "Left out" not in caplog.text


def test_domain_folders_read_sub_folders_but_no_hidden_ones(tmp_path, caplog):
    for domain in ("photo", "sketch"):
        tree(tmp_path / domain, ["cat/.ipynb_checkpoints/x.jpg", "cat/a.heic"])
        write_images(tmp_path / domain, ["cat/more/x.jpg"])

    cfg = make_cfg(tmp_path, DomainFolder.__name__, TARGET_DOMAINS=("photo",), TRIAL_SEED=0)
    dataset = build_dataset(cfg)

    assert len(dataset.test) + len(dataset.test_out) == 11
    assert f"Left out below {tmp_path / 'photo'}: 1 (.heic 1)" in caplog.text


def test_predict_names_what_it_leaves_out_and_enters_no_hidden_folder(tmp_path, caplog):
    tree(tmp_path, ["cat/a.heic", ".cache/a.jpg", "__MACOSX/b.jpg", "cat/.trash/c.png"])

    found = predict.find_images([tmp_path])

    assert len(found) == 10
    assert "2 (.heic 1, sub-folders 1)" in caplog.text


def test_check_data_says_what_is_left_out(tmp_path, capsys):
    tree(tmp_path, OTHERS["heic"])

    assert check_data.main(["class_folder", "--root", str(tmp_path)]) == 0

    assert "note    Left out below" in capsys.readouterr().out


def test_sub_folders_come_after_the_files_of_their_folder(tmp_path):
    write_images(tmp_path, ["b.jpg", "a/c.jpg", "z.jpg"])

    found = [
        Path(path).relative_to(tmp_path).as_posix() for path in images_below(tmp_path, LeftOut())
    ]

    assert found == ["b.jpg", "z.jpg", "a/c.jpg"]


# --------------------------------------------------------------------- orientation
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30))])
def test_upright_turns_as_the_tag_says(tmp_path, suffix, orientation, size):
    image = read_image(photograph(tmp_path / f"x.{suffix}", orientation))

    turned = upright(image)

    assert turned.size == size
    assert upright(turned).size == size  # once


@pytest.mark.parametrize("has_simplejpeg", [True, False])
def test_stored_features_see_the_same_upright_pixels_as_the_loader(
    tmp_path, has_simplejpeg, monkeypatch
):
    if not has_simplejpeg:
        monkeypatch.setattr(reader, "simplejpeg", None)
    path = photograph(tmp_path / "x.jpg", size=(64, 32))
    cfg = make_cfg(tmp_path, ClassFolder.__name__)
    cfg.INPUT.SIZE, cfg.DATALOADER.NUM_WORKERS = (16, 16), 0
    views = {}
    for cfg.INPUT.UPRIGHT in (False, True):
        view = Augmentation.from_cfg(cfg).test
        decoded = view.build()(reader.decode(str(path), path.read_bytes()))
        item = Datum(str(path), label=0)
        batch = next(iter(build_data_loader(cfg, data_source=[item], batch_size=1, is_train=False,
                                            tfm=build_transform(cfg, is_train=False))))  # fmt: skip
        torch.testing.assert_close(decoded / 255, batch["img"][0], rtol=0, atol=1e-6)
        views[cfg.INPUT.UPRIGHT] = decoded, view.key

    assert views[False][1] != views[True][1]
    assert not torch.equal(views[False][0], views[True][0])


def test_own_photographs_are_turned_and_published_sets_are_not():
    turned = {
        path.stem
        for path in (Path(predict.__file__).parent / "configs" / "datasets").glob("*.yaml")
        if "UPRIGHT: True" in path.read_text()
    }

    assert turned == {"class_folder", "domain_folder"}
    assert WholeImage(8, "bilinear").describe() == {"side": 8, "interpolation": "bilinear"}


# --------------------------------------------------------------------- what is refused
def bomb(path, suffix):
    """A small file of more pixels than are read."""
    side = int(MAX_PIXELS**0.5) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (side, side)).save(path, format=suffix)


@pytest.mark.parametrize("suffix", ["PNG", "GIF", "TIFF"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, suffix):
    bomb(tmp_path / "x.png", suffix)

    with pytest.raises(BadImageError, match=f"pixels, at most 100,000,000 .*{PIXELS_VARIABLE}"):
        read_image(tmp_path / "x.png")


def test_the_limit_of_pixels_can_be_changed(tmp_path, monkeypatch):
    Image.fromarray(HALVES).save(tmp_path / "x.png")

    monkeypatch.setenv(PIXELS_VARIABLE, "599")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    with pytest.raises(BadImageError, match="it has 600 pixels, at most 599"):
        read_image(tmp_path / "x.png")
    monkeypatch.setenv(PIXELS_VARIABLE, "many")
    with pytest.raises(RuntimeError, match=f"{PIXELS_VARIABLE} is 'many'; expected a number"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["fifo", "folder", "postscript"])
def test_what_is_not_an_image_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        Image.fromarray(HALVES).save(path, format="EPS")

    with pytest.raises(BadImageError, match=r"x.png is not a readable image"):
        read_image(path)
    answer = reader._Reader()._read(reader.Request(str(path), ()), [])
    assert str(path) in answer.error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>403</title>", "it is a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC or AVIF photograph: convert it to JPEG"),
        (b"\x89PNG\r\n\x1a\n", "it is not one of JPEG, PNG"),
    ],
)
def test_a_file_in_the_place_of_an_image_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)

    with pytest.raises(BadImageError, match=f"a.jpg is not a readable image .*{said}"):
        read_image(tmp_path / "a.jpg")


def test_a_file_that_is_not_an_image_is_said_without_the_repr_of_a_file_object(tmp_path):
    (tmp_path / "x.jpg").write_text("hello")

    with pytest.raises(
        BadImageError, match=r"x\.jpg is .*: it is not one of JPEG, PNG, .* damaged"
    ):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("highest", [4095, 1023, 300])
def test_deep_images_that_use_few_levels_are_said(tmp_path, caplog, highest):
    pixels = np.linspace(0, highest, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png")

    for name in ("a.png", "b.png"):
        read_image(tmp_path / name)

    assert f"has 16-bit values up to {highest} of 65535 only" in caplog.text
    assert caplog.text.count("nearly black") == 1


def test_deep_images_keep_their_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(np.full((20, 30), 60000, dtype=np.uint16)).save(tmp_path / "x.png", exif=exif)

    assert upright(read_image(tmp_path / "x.png")).size == (20, 30)


def test_deep_images_of_full_range_are_not_worth_a_word(tmp_path, caplog):
    pixels = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    assert read_image(tmp_path / "a.png").getextrema() == ((0, 255),) * 3
    assert not caplog.text


@pytest.mark.parametrize("place", ["", "cat", "cat/more"])
def test_a_link_to_a_folder_that_holds_it_is_not_followed(tmp_path, place):
    tree(tmp_path, ["cat/more/x.jpg"])
    link = tmp_path / place / "again"
    link.symlink_to(tmp_path)

    with pytest.raises(
        ValueError, match=f"{link} is a link to .*, which holds it: .* Remove the link"
    ):
        predict.find_images([tmp_path])
