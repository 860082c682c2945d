"""Every source of every dataset, walked: tiny archives in the layout that it sends, on loopback.

Layouts are those of the projects' pages and of torchvision's classes; no test leaves this machine.
"""

import io
import json
import random
import tarfile
import zipfile
from dataclasses import replace
from functools import cache

import pytest
from dataset_trees import image_bytes
from download_server import serving
from scipy.io import savemat
from torchvision.datasets import utils as torchvision_utils

from dassl.utils import downloads
from dassl.utils.digests import DigestRecord
from tools import check_data, get_data
from tools.data_sources import drive, sources
from tools.data_sources.arrange import DOMAINS
from tools.data_sources.catalog import RECIPES, split_file
from tools.data_sources.selection import LOCATIONS
from tools.data_sources.sources import HubRepository

IMAGE = image_bytes()
KNOWN = cache(check_data.known_datasets)  # forty files, read once
SPLITS = ("train", "val", "test")
CLASSES = {  # the folders of two classes, or two names; below the reader's folder of images
    "caltech101": ("101_ObjectCategories/ant", "101_ObjectCategories/crab"),
    "oxford_pets": ("images/Abyssinian", "images/beagle"),
    "stanford_cars": ("cars_train/0", "cars_test/1"),
    "oxford_flowers": ("jpg/image_0000", "jpg/image_0001"),
    "food101": ("images/apple_pie", "images/waffles"),
    "fgvc_aircraft": ("images/00", "images/01"),
    "sun397": ("SUN397/a/abbey", "SUN397/z/zoo"),
    "dtd": ("images/banded", "images/zigzagged"),
    "eurosat": ("2750/Forest", "2750/River"),
    "ucf101": ("UCF-101-midframes/Archery", "UCF-101-midframes/Yo_Yo"),
    "imagenetv2": ("imagenetv2-matched-frequency-format-val/0",
                   "imagenetv2-matched-frequency-format-val/1"),
    "imagenet_sketch": ("images/n01440764", "images/n01443537"),
    "imagenet_a": ("imagenet-a/n01498041", "imagenet-a/n01531178"),
    "imagenet_r": ("imagenet-r/n01443537", "imagenet-r/n01484850"),
}  # fmt: skip
FLAT = ("oxford_pets", "oxford_flowers", "stanford_cars", "fgvc_aircraft")  # no class folders


def tree(name):
    """Path below the dataset's folder -> content: the tree of DATASETS.md, with the split file."""
    reader = get_data.reader_of(name)
    files, splits = {}, {split: [] for split in SPLITS}
    for label, folder in enumerate(CLASSES[name]):
        for number, split in enumerate(SPLITS):
            path = f"{folder}{'_' if name in FLAT[:1] else '' if name in FLAT else '/sun_'}{number}"
            files[f"{path}.jpg"] = IMAGE
            image = f"{path}.jpg".removeprefix(f"{reader.image_folder}/")
            splits[split].append([image, label, f"class {label}"])
    if name == "fgvc_aircraft":
        files["variants.txt"] = b"707\nA 320\n"
        for number, split in enumerate(SPLITS):
            lines = f"00{number} 707\n01{number} A 320\n"
            files[f"images_variant_{split}.txt"] = lines.encode()
    if split_file(reader.__name__):
        files[f"split_zhou_{reader.__name__}.json"] = json.dumps(splits).encode()
    return files


def images_of(name):
    return {path: content for path, content in tree(name).items() if not path.startswith("split_")}


def below(folder, files):
    return {f"{folder}/{path}": content for path, content in files.items()}


def packed(name, files):
    """An archive of the kind that its name says."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    else:
        mode = "w:gz" if name.endswith(("gz", "tgz")) else "w"
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def mat(**values):
    savemat(buffer := io.BytesIO(), values)
    return buffer.getvalue()


def domains(*names):
    return {f"{d}/{c}/{k}.jpg": IMAGE for d in names for c in ("cat", "dog") for k in range(3)}


CAMERAS = {
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "images": [{"id": f"{place}-{k}", "file_name": f"{place}-{k}.jpg", "location": place}
               for place in LOCATIONS for k in range(2)],
    "annotations": [{"image_id": f"{place}-{k}", "category_id": k + 1}
                    for place in LOCATIONS for k in range(2)],
}  # fmt: skip
CAMERA_FILE = json.dumps(CAMERAS).encode()
PETS = b"Abyssinian_0 1 1 1\nbeagle_0 2 2 1\n"


def packs(**files):
    """Names of archives (`__` is a dot, `_` a hyphen) -> packed."""
    named = {key.replace("__", ".").replace("_", "-"): one for key, one in files.items()}
    return {key: packed(key if "." in key else "x.zip", one) for key, one in named.items()}


def drive_sends(files):
    return {"uc": packed("x.zip", files)}


def caltech():
    inner = {**images_of("caltech101"), "101_ObjectCategories/BACKGROUND_Google/x.jpg": IMAGE}
    whole = {"101_ObjectCategories.tar.gz": packed("x.tar.gz", inner),
             "Annotations.tar": packed("x.tar", {"Annotations/ant/a.mat": b""})}  # fmt: skip
    return {"caltech-101.zip": packed("x.zip", below("caltech-101", whole))}


def flowers():
    return {
        "102flowers.tgz": packed("x.tgz", images_of("oxford_flowers")),
        "imagelabels.mat": mat(labels=[[1, 2] * 10]),
        "setid.mat": mat(trnid=[[1, 2]], valid=[[3, 4]], tstid=[[5, 6]]),
    }


def sketches():
    images = images_of("imagenet_sketch").items()
    return {"ImageNet-Sketch.zip": packed("x.zip", {p.replace("images/", "sketch/"): c
                                                    for p, c in images})}  # fmt: skip


def cameras():
    images = {f"eccv_18_all_images_sm/{one['file_name']}": IMAGE for one in CAMERAS["images"]}
    parts = ("train", "trans_test")
    return {
        "eccv_18_all_images_sm.tar.gz": packed("x.tar.gz", images),
        "eccv_18_annotations.tar.gz": packed("x.tar.gz", {
            f"eccv_18_annotation_files/{part}_annotations.json": CAMERA_FILE for part in parts}),
        "caltech_camera_traps.json.zip": packed("x.zip", {"caltech_images.json": CAMERA_FILE}),
    }  # fmt: skip


SENT = {  # dataset -> end of an address -> what is sent
    "caltech101": caltech,
    "oxford_pets": lambda: packs(
        images__tar__gz=images_of("oxford_pets"),
        annotations__tar__gz={"annotations/trainval.txt": PETS, "annotations/test.txt": PETS}),
    "stanford_cars": dict,
    "oxford_flowers": flowers,
    "food101": lambda: packs(food_101__tar__gz=below("food-101", {
        **images_of("food101"), "meta/train.json": b"{}", "meta/train.txt": b"",
        "meta/test.txt": b""})),
    "fgvc_aircraft": lambda: packs(fgvc_aircraft_2013b__tar__gz=below(
        "fgvc-aircraft-2013b/data",
        {**images_of("fgvc_aircraft"), "images_variant_trainval.txt": b""})),
    "sun397": lambda: packs(SUN397__tar__gz={
        **images_of("sun397"), "SUN397/ClassName.txt": b"/a/abbey\n/z/zoo\n"}),
    "dtd": lambda: {"dtd-r1.0.1.tar.gz": packed("x.tar.gz", below("dtd", {
        **images_of("dtd"), "labels/train1.txt": b"", "imdb/imdb.mat": b""}))},
    "eurosat": lambda: packs(EuroSAT__zip=images_of("eurosat")),
    "ucf101": lambda: drive_sends(images_of("ucf101")),
    "imagenetv2": lambda: packs(imagenetv2_matched_frequency__tar__gz=images_of("imagenetv2")),
    "imagenet_sketch": sketches,
    "imagenet_a": lambda: packs(imagenet_a__tar={
        **images_of("imagenet_a"), "imagenet-a/README.txt": b""}),
    "imagenet_r": lambda: packs(imagenet_r__tar={
        **images_of("imagenet_r"), "imagenet-r/README.txt": b""}),
    "pacs": lambda: drive_sends(below("kfold", domains("art_painting", "photo"))),
    "vlcs": lambda: drive_sends(below("VLCS", domains("Caltech101", "LabelMe"))),
    "office_home": lambda: drive_sends(
        below("OfficeHomeDataset_10072016", domains("Art", "Real World"))),
    "terra_incognita": cameras,
    "domain_net": lambda: {"domain_net_duplicates.txt": b"real/cat/0.jpg\n",
                           **packs(**{f"{d}__zip": domains(d) for d in DOMAINS})},
}  # fmt: skip


def served(name):
    """End of an address -> what is sent, with the published split file."""
    files = tree(name) if name in CLASSES else {}
    splits = {path: content for path, content in files.items() if path.startswith("split_")}
    return {**SENT[name](), **splits}


class Ends(dict):
    """Looked up by the last part of an address."""

    def get(self, path, default=None):
        return super().get(path) or super().get(path.split("/")[-1], default)


@pytest.fixture
def world(monkeypatch):
    """A server that all addresses lead to; digests and MD5 sums of the real files are not asked."""
    monkeypatch.setattr(downloads, "ALLOWED", ("https://", "http://127.0.0.1:"))
    monkeypatch.setattr(torchvision_utils, "check_md5", lambda *_, **__: True)
    monkeypatch.setattr(check_data, "known_datasets", KNOWN)
    check = DigestRecord.check
    monkeypatch.setattr(
        DigestRecord, "check", lambda self, *place, published="": check(self, *place)
    )
    with serving(Ends()) as server:

        def download(url, dst, *, sha256="", most=10**6):
            place = url.removeprefix("https://").removeprefix(f"{server.url}/")
            downloads.download_url(f"{server.url}/{place}", dst, most=most)

        monkeypatch.setattr(sources, "download_url", download)
        monkeypatch.setattr(drive, "download_url", download)
        monkeypatch.setenv("HF_ENDPOINT", server.url)  # asked whether it answers
        yield server


def on_the_hub(server, name, repository):
    """The mirror, with one archive: the tree of DATASETS.md."""
    reader, commit = get_data.reader_of(name), "c" * 40
    file = f"{reader.dataset_dir}.zip"
    content = packed(file, below(reader.dataset_dir, tree(name)))
    siblings = [{"rfilename": file, "size": len(content), "blobId": "0", "lfs": None}]
    listing = {"id": repository, "sha": commit, "siblings": siblings}
    server.files[f"/api/datasets/{repository}"] = json.dumps(listing).encode()
    server.files[f"/datasets/{repository}/resolve/{commit}/{file}"] = content
    server.headers = {"X-Repo-Commit": commit}


WALKS = [
    (name, number) for name, recipe in RECIPES.items() for number in range(len(recipe.sources))
]


@pytest.mark.parametrize(
    ("name", "number"), WALKS, ids=[f"{name}-{number}" for name, number in WALKS]
)
def test_every_source_ends_in_the_tree_that_the_reader_reads(
    world, tmp_path, monkeypatch, capsys, name, number
):
    recipe = RECIPES[name]
    source = recipe.sources[number]
    if isinstance(source, HubRepository):
        source = replace(source, endpoint=world.url)
    monkeypatch.setitem(RECIPES, name, type(recipe)(1e-6, "", (source,), recipe.other_names))
    world.files.update(served(name))
    if isinstance(source, HubRepository):
        on_the_hub(world, name, source.repository)
    else:
        world.plan = "drop"  # the first file comes in two parts

    status = get_data.main([name, "--root", str(tmp_path)])

    assert status == 0, capsys.readouterr().err
    status = check_data.main([name, "--root", str(tmp_path)])
    found = capsys.readouterr().out
    if name == "imagenetv2":  # whose reader wants all of its thousand folders
        assert "unknown: none; missing: 2, 3, 4 (998 in all)" in found
    else:
        assert status == 0 and f"{name}: ready" in found, found
    if name in CLASSES and split_file(get_data.reader_of(name).__name__):
        assert "train 2, val 2, test 2" in found


# --------------------------------------------------------------------- archives that are not whole
def test_a_damaged_archive_is_named_and_does_not_count_as_the_first(world, tmp_path, capsys):
    images = {f"imagenet-a/n01498041/{k}.jpg": random.Random(k).randbytes(999) for k in range(9)}
    whole = packed("x.tar.gz", images)
    world.files["imagenet-a.tar"] = whole[:5000]

    assert get_data.main(["imagenet_a", "--source", "files", "--root", str(tmp_path)]) == 1

    path = tmp_path / "downloads" / "imagenet_a" / "files" / "imagenet-a.tar"
    assert f"{path} is damaged (" in (said := capsys.readouterr().err)
    assert "Delete it to download it again" in said
    path.unlink()
    world.files["imagenet-a.tar"] = whole
    assert get_data.main(["imagenet_a", "--source", "files", "--root", str(tmp_path)]) == 0


def test_a_damaged_archive_of_torchvision_is_fetched_again(world, tmp_path, capsys):
    address, whole = "fgvc-aircraft-2013b.tar.gz", served("fgvc_aircraft")  # has no MD5 sum there
    world.files[address] = whole[address][:-40]
    words = ["fgvc_aircraft", "--source", "torchvision", "--root", str(tmp_path)]

    assert get_data.main(words) == 1
    assert "it sent a damaged archive" in capsys.readouterr().err

    world.files.update(whole)
    assert get_data.main(words) == 0


def test_what_an_interrupted_run_of_torchvision_unpacked_is_unpacked_again(world, tmp_path):
    world.files.update(served("eurosat"))
    half = tmp_path / "downloads" / "eurosat" / "torchvision" / "eurosat" / "2750" / "River"
    half.mkdir(parents=True)
    (half / "half.jpg").write_bytes(IMAGE)

    words = ["eurosat", "--source", "torchvision", "--root", str(tmp_path)]

    assert get_data.main(words) == 0
    found = sorted(path.name for path in (tmp_path / "eurosat" / "2750" / "River").iterdir())
    assert found == ["sun_0.jpg", "sun_1.jpg", "sun_2.jpg"]
