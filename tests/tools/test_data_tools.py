"""tools/check_data.py."""

import json
from pathlib import Path

import yaml
from dataset_trees import pets_tree, write_images

import datasets  # registers the classes
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from tools import check_data

CONFIGS = Path(datasets.__file__).parents[1] / "configs" / "datasets"


def test_every_config_names_a_registered_dataset():
    known = check_data.known_datasets()

    assert {*known.values()} <= {*DATASET_REGISTRY.registered_names()}
    assert {"imagenet", "dtd", "eurosat", "imagenet_r", "pacs", "domain_net"} <= {*known}


def test_every_config_is_the_one_its_class_names():
    for path in CONFIGS.glob("*.yaml"):
        cls = DATASET_REGISTRY.get(yaml.safe_load(path.read_text())["DATASET"]["NAME"])
        if hasattr(cls, "pieces"):
            assert cls.config == path.stem


def test_every_dataset_has_a_section_in_the_documentation():
    text = (CONFIGS.parents[1] / "DATASETS.md").read_text(encoding="utf-8")

    for name in check_data.known_datasets().values():
        cls = DATASET_REGISTRY.get(name)
        if hasattr(cls, "pieces"):
            assert f"### {cls.section}\n" in text, name


def test_a_complete_dataset_is_ready(tmp_path, capsys):
    pets_tree(tmp_path)

    status = check_data.main(["oxford_pets", "--root", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0
    assert "oxford_pets: ready" in said
    assert "5 classes; images: train 30, val 10, test 5" in said


def test_what_is_missing_is_named_with_its_place(tmp_path, capsys):
    status = check_data.main(["oxford_pets", "--root", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 1
    assert f"No image folder. Looked for {tmp_path / 'oxford_pets' / 'images'}" in said
    assert "split_zhou_OxfordPets.json" in said
    assert str(tmp_path / "oxford_pets" / "annotations" / "trainval.txt") in said
    assert "python tools/get_data.py oxford_pets" in said


def test_a_missing_image_makes_a_dataset_not_ready(tmp_path, capsys):
    splits = pets_tree(tmp_path)
    (tmp_path / "oxford_pets" / "images" / splits["val"][0][0]).unlink()

    status = check_data.main(["oxford_pets", "--root", str(tmp_path)])

    assert status == 1
    assert splits["val"][0][0] in capsys.readouterr().out


def test_decoding_finds_a_corrupt_image(tmp_path, capsys):
    splits = pets_tree(tmp_path)
    bad = tmp_path / "oxford_pets" / "images" / splits["train"][3][0]
    bad.write_bytes(b"no image")

    status = check_data.main(["oxford_pets", "--root", str(tmp_path), "--decode"])

    assert status == 1
    assert str(bad) in capsys.readouterr().out


def test_decoding_good_images_says_so(tmp_path, capsys):
    pets_tree(tmp_path)

    status = check_data.main(["oxford_pets", "--root", str(tmp_path), "--decode"])

    assert status == 0
    assert "all 45 images can be read" in capsys.readouterr().out


def test_domains_are_listed_with_their_sizes(tmp_path, capsys):
    write_images(
        tmp_path / "PACS", [f"{d}/cat/{k}.jpg" for d in ("art", "photo") for k in range(5)]
    )

    status = check_data.main(["pacs", "--root", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0
    assert "domains: art 5, photo 5" in said
    assert "the complete dataset has 9,991" in said


def test_a_dataset_file_of_somebody_else_is_read_and_its_images_looked_for(
    tmp_path, monkeypatch, capsys
):
    class Foreign(DatasetBase):
        def __init__(self, cfg):
            path = Path(cfg.DATASET.ROOT) / "a.png"
            super().__init__(train_x=[Datum(str(path))], test=[Datum(str(path))])

    DATASET_REGISTRY.register(Foreign, force=True)
    monkeypatch.setattr(check_data, "CONFIGS", tmp_path)
    (tmp_path / "foreign.yaml").write_text('DATASET:\n  NAME: "Foreign"\n')

    assert check_data.main(["foreign", "--root", str(tmp_path)]) == 1
    assert f"images of Foreign are missing: {tmp_path / 'a.png'}" in capsys.readouterr().out
    write_images(tmp_path, ["a.png"])
    assert check_data.main(["foreign", "--root", str(tmp_path)]) == 0
    assert "1 classes; images: train 1, test 1" in capsys.readouterr().out


def test_an_image_in_training_and_test_is_noted(tmp_path, capsys):
    pets_tree(tmp_path)
    path = tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json"
    check_data.main(["oxford_pets", "--root", str(tmp_path)])
    split = json.loads(path.read_text())
    assert "both in the training" not in capsys.readouterr().out

    path.write_text(json.dumps(split | {"test": split["test"] + split["train"][:1]}))
    check_data.main(["oxford_pets", "--root", str(tmp_path)])

    assert "1 images are both in the training and in the test list" in capsys.readouterr().out


def test_all_datasets_get_one_line_each(tmp_path, capsys):
    pets_tree(tmp_path)

    status = check_data.main(["--root", str(tmp_path)])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert sum(line.startswith("oxford_pets: ready.") for line in lines) == 1
    assert sum(line.startswith("imagenet: not ready.") for line in lines) == 1


def test_an_unknown_dataset_gets_a_suggestion(tmp_path, capsys):
    status = check_data.main(["oxfort_pets", "--root", str(tmp_path)])

    assert status == 2
    assert 'Did you mean "oxford_pets"' in capsys.readouterr().err
